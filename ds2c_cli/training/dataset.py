"""Samples become a data set of spots: cells sorted by spot, their embeddings in memory, gathered a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..cache.store import Cache
from ..choices import Features
from ..embeddings.superpixels import Superpixels, joined, load_superpixels, positions
from ..embeddings.tiles import embeddings_of
from ..models.batch import SpotBatch
from ..project import Sample
from ..records import EncoderDescription


@dataclass(frozen=True)
class SpotDataset:
    """The spots of one or more samples with their cells, flat; `batch` gathers any of them without a loop."""

    cells: torch.Tensor  # (C, d) sorted by spot; float16 as cached, float32 once standardised
    area: torch.Tensor  # (C,) um2, NaN where a cell is only a point
    inside: torch.Tensor  # (C,) bool
    start: torch.Tensor  # (S + 1,) int64: the cells of spot s are start[s] : start[s + 1]
    tiles: torch.Tensor  # (S, d) likewise, the spots' own tiles
    around: torch.Tensor  # (S, k) int64, rows of `tiles`, -1 where missing
    cell_row: np.ndarray  # (C,) row of the sample's cell table
    sample: np.ndarray  # (S,) which sample a spot is of
    superpixels: Superpixels | None = None  # of an encoder that gives maps; then `cells` and `tiles` are 0 wide

    @property
    def n_spots(self) -> int:
        return len(self.tiles)

    @property
    def size(self) -> int:
        """Bytes of the embeddings."""
        return (self.superpixels.features if self.superpixels else self.cells).nbytes + self.tiles.nbytes

    def to(self, device: torch.device) -> SpotDataset:
        """All tensors on a device."""
        tensors = ("cells", "area", "inside", "start", "tiles", "around")
        moved = replace(self, **{name: getattr(self, name).to(device) for name in tensors})
        return replace(moved, superpixels=self.superpixels.to(device)) if self.superpixels else moved

    def cell_index(self, spots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the cells of these spots: their rows (c,), and which of `spots` each belongs to (c,)."""
        return positions(self.start, spots)

    def batch(self, spots: torch.Tensor) -> SpotBatch:
        """Gather these spots (s,), each with all its cells and the tiles it sees."""
        cell, spot_of = self.cell_index(spots)
        around = self.around[spots]
        seen, row = torch.unique(torch.cat([spots, around[around >= 0]]), return_inverse=True)
        compact = torch.full_like(around, -1)
        compact[around >= 0] = row[len(spots) :]
        return SpotBatch(
            cells=self.cells[cell], area=self.area[cell], spot_of=spot_of, inside=self.inside[cell],
            tiles=self.tiles[seen], own=row[: len(spots)], around=compact,
            superpixels=self.superpixels.batch(spots, cell) if self.superpixels else None,
        )  # fmt: skip


def load_dataset(samples: Sequence[Sample], cache: Cache, *, encoder: EncoderDescription, outside: bool) -> SpotDataset:
    """Read the embeddings of the samples' spots and of their member cells, with `outside` of all their cells.

    `encoder` is the encoder's description.
    """
    parts = [_one(sample, cache, encoder=encoder, outside=outside) for sample in samples]
    if len(parts) == 1:  # a large slide's embeddings are not copied
        return parts[0]
    spots = np.cumsum([0] + [part.n_spots for part in parts])
    cells = np.cumsum([0] + [len(part.cells) for part in parts])
    shifted = [torch.where(part.around >= 0, part.around + int(n), -1) for part, n in zip(parts, spots, strict=False)]
    starts = [part.start[:-1] + int(n) for part, n in zip(parts, cells, strict=False)]
    return SpotDataset(
        cells=torch.cat([part.cells for part in parts]),
        area=torch.cat([part.area for part in parts]),
        inside=torch.cat([part.inside for part in parts]),
        start=torch.cat([*starts, torch.tensor([cells[-1]])]),
        tiles=torch.cat([part.tiles for part in parts]),
        around=torch.cat(shifted),
        cell_row=np.concatenate([part.cell_row for part in parts]),
        sample=np.repeat(np.arange(len(parts)), [part.n_spots for part in parts]),
        superpixels=joined([part.superpixels for part in parts if part.superpixels]) if parts[0].superpixels else None,
    )


def _one(sample: Sample, cache: Cache, *, encoder: EncoderDescription, outside: bool) -> SpotDataset:
    cells = sample.cells
    context, inside = cells["spot"].to_numpy(), cells["inside"].to_numpy()
    rows = np.flatnonzero(context >= 0 if outside else inside)  # a cell without a spot is left out
    rows = rows[np.argsort(context[rows], kind="stable")]
    spot_boxes = sample.spot_boxes()
    start = np.searchsorted(context[rows], np.arange(len(spot_boxes) + 1))
    if encoder.features == Features.SUPERPIXELS:
        vectors = np.empty((len(rows) + len(spot_boxes), 0), np.float32)
        superpixels = load_superpixels(
            sample,
            rows,
            side=encoder.map_side,
            maps_of=lambda boxes: embeddings_of(sample, boxes, cache=cache, encoder=encoder),
        )
    else:
        boxes = np.concatenate([sample.cell_boxes()[rows], spot_boxes])
        vectors = embeddings_of(sample, boxes, cache=cache, encoder=encoder)
        superpixels = None
    return SpotDataset(
        cells=torch.from_numpy(vectors[: len(rows)]),
        area=torch.from_numpy(cells["area_um2"].to_numpy()[rows].astype(np.float32)),
        inside=torch.from_numpy(inside[rows]),
        start=torch.from_numpy(start.astype(np.int64)),
        tiles=torch.from_numpy(vectors[len(rows) :]),
        around=torch.from_numpy(sample.neighbours.astype(np.int64)),
        cell_row=rows,
        sample=np.zeros(len(spot_boxes), np.int64),
        superpixels=superpixels,
    )
