"""Predict in one stream, some thousand cells at a time: `predict` writes it, `evaluate` scores it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..cache.store import Cache
from ..device import device_of
from ..embeddings.embed import Embedded, embed
from ..embeddings.tiles import tiles_of
from ..progress import Progress, silent
from ..project import Sample, Workspace
from ..schema import TARGET_SUM
from ..training.checkpoint import Checkpoint
from ..training.dataset import SpotDataset

CELLS_AT_ONCE = 8192
MOST_HELD = 150_000_000  # predictions, cells by genes, kept in memory for the second time they are needed
VALUES_AT_ONCE = 1 << 24  # cells times genes: 64 MB per matrix, of which there are about ten at a time


@dataclass(frozen=True)
class PredictedCells:
    """What is predicted of some spots and of cells whose context they are.

    A spot's members are in one batch. Of very many cells that only share its context the others follow in batches of
    the same spots, whose `spot_log` is not told again: NaN.
    """

    spots: np.ndarray  # (s,) rows of the spot table, which follow one another
    cells: np.ndarray  # (c,) rows of the cell table
    spot_of: np.ndarray  # (c,) rows of the spot table
    inside: np.ndarray  # (c,) bool
    share_log: np.ndarray  # (c, G) what log1p of the share that is counted should come to
    share: np.ndarray | None = None  # (c, G) counts per 10,000 of the cell's spot, which add up; of models
    spot_log: np.ndarray | None = None  # (s, G) as `share_log`, of the spot; NaN without members
    predictive_sd: np.ndarray | None = None  # (c, G) SD of the log of the share that is counted
    spot_total: np.ndarray | None = None  # (c,) counts of the cell's spot, where `share` was given them

    @property
    def spot_row(self) -> np.ndarray:
        """(c,) rows of `spots`."""
        return self.spot_of - self.spots[0]

    def known_share(self) -> np.ndarray:
        """`share`, of a model's predictions; raises ValueError where there is none."""
        if self.share is None:
            raise ValueError("these predictions have no shares that add up")
        return self.share

    def counts(self) -> np.ndarray:
        """(c, G) the counts of their spots that fall to the cells; NaN outside, where nothing was measured."""
        if self.spot_total is None:
            raise ValueError("these predictions were not given the counts of spots")
        counts = self.known_share() * self.spot_total[:, None] / TARGET_SUM
        counts[~self.inside] = np.nan
        return counts


@dataclass(frozen=True)
class Inference:
    """The predictions of a checkpoint for all spots of one sample; every iteration runs the model again.

    Args:
        checkpoint: The trained model.
        dataset: The sample's spots and cells.
        device: Where the model runs.
        with_sd: Whether to give `predictive_sd` too.
        progress: Called with how many cells are done of all.
        stage: What `progress` calls it.
    """

    checkpoint: Checkpoint
    dataset: SpotDataset
    device: str = "auto"
    with_sd: bool = False
    progress: Progress = silent
    stage: str = ""

    def __iter__(self) -> Iterator[PredictedCells]:
        where = device_of(self.device)
        model = self.checkpoint.model.to(where)
        dataset, genes, done = self.dataset, len(self.checkpoint.genes), 0
        for spots in spot_groups(dataset.start.numpy(), genes):
            rows = torch.from_numpy(spots)
            index, spot_of = dataset.cell_index(rows)
            inside = dataset.inside[index]
            whole = self.checkpoint.scale.of(dataset.batch(rows)).to(where)
            for number, (read_together, new) in enumerate(parts_of(inside, genes)):
                with torch.no_grad():
                    batch = whole if len(read_together) == len(inside) else whole.only(read_together.to(where))
                    read = model.read(batch)
                    deviation = model.predictive_sd(batch) if self.with_sd else None
                    members = torch.bincount(batch.spot_of[batch.inside], minlength=len(rows))
                    read.spot_log[(members == 0) | (number > 0)] = torch.nan
                cells = read_together[new]
                done += len(cells)
                self.progress(self.stage, done, len(dataset.cells), "")
                yield PredictedCells(
                    spots=spots,
                    cells=dataset.cell_row[index[cells].numpy()],
                    spot_of=spots[spot_of[cells].numpy()],
                    inside=inside[cells].numpy(),
                    share_log=read.share_log[new].cpu().numpy(),
                    share=read.share[new].cpu().numpy(),
                    spot_log=read.spot_log.cpu().numpy(),
                    predictive_sd=None if deviation is None else deviation[new].cpu().numpy(),
                )


@dataclass(frozen=True)
class MeanOfNetworks:
    """The mean of several networks' predictions, on the scale they are scored on: as the published code averages."""

    networks: Sequence[Iterable[PredictedCells]]

    def __iter__(self) -> Iterator[PredictedCells]:
        if len(self.networks) == 1:
            yield from self.networks[0]
            return
        for batches in zip(*self.networks, strict=True):
            yield replace(
                batches[0],
                share_log=np.mean([each.share_log for each in batches], axis=0),
                share=_mean([each.share for each in batches]),
                spot_log=_mean([each.spot_log for each in batches]),
            )


def _mean(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Average what every network says; None where they do not say it."""
    said = [value for value in values if value is not None]
    return np.mean(said, axis=0) if said else None


def held_where_small(predictions: Iterable[PredictedCells], *, cells: int, genes: int) -> Iterable[PredictedCells]:
    """Keep predictions that are gone through twice in memory where they fit; else they are made a second time."""
    return list(predictions) if cells * genes < MOST_HELD else predictions


def check_fit(checkpoint: Checkpoint, sample: Sample) -> None:
    """Raise InputError unless the sample was prepared with the geometry the model was trained on."""
    sample.geometry.must_fit(
        checkpoint.geometry,
        here=f"sample {sample.name}",
        there=f"checkpoint {checkpoint.name}",
        hint="Prepare the sample with the checkpoint's geometry.",
    )


def cache_for(workspace: Workspace, checkpoint: Checkpoint, sample: Sample) -> tuple[Cache, Embedded | None]:
    """Open the cache with all embeddings of the sample that the checkpoint needs, encoding those that are missing."""
    wanted = checkpoint.encoder
    cache = Cache(workspace.cache, wanted.fingerprint, wanted.description.dimension)
    _, keys = tiles_of(sample, wanted.description)
    if not cache.missing(keys).any():
        return cache, None
    settings = wanted.settings.changed(precision=wanted.description.precision)
    done = embed(workspace, settings, samples=[sample.name], expected=wanted.fingerprint)
    cache.refresh()
    return cache, done


def spot_groups(start: np.ndarray, genes: int) -> list[np.ndarray]:
    """Deal out rows of consecutive spots, some thousand cells together, fewer where there are many genes.

    The cells of spot s are start[s] : start[s + 1], start (S + 1,).
    """
    return np.split(np.arange(len(start) - 1), np.flatnonzero(np.diff(start[:-1] // _cells_at_once(genes))) + 1)


def parts_of(inside: torch.Tensor, genes: int) -> Iterator[tuple[torch.Tensor, slice]]:
    """Deal out a group's cells, members or not (c,): rows to read together, and which of these were not read before.

    That is all of them, unless beyond the array so many cells have taken one of its spots for their context that they
    do not fit: then the members, whom the spot consists of, are read again with each part of the others.
    """
    at_once = _cells_at_once(genes)
    if len(inside) <= 2 * at_once:
        yield torch.arange(len(inside)), slice(None)
        return
    members, others = torch.nonzero(inside)[:, 0], torch.nonzero(~inside)[:, 0]
    for number, part in enumerate(others.split(at_once)):
        yield torch.cat([members, part]), slice(len(members) if number else 0, None)


def by_spots(sample: Sample, genes: int) -> Iterator[tuple[np.ndarray, np.ndarray, slice]]:
    """Go through a sample as `Inference` does, without a model.

    Yields:
        The rows of some spots; those of cells whose context they are, some thousand at a time; and which of these
        are new: members come with every part of the others (`parts_of`).
    """
    context, inside = sample.cells["spot"].to_numpy(), torch.from_numpy(sample.cells["inside"].to_numpy())
    order = np.argsort(context, kind="stable")
    start = np.searchsorted(context[order], np.arange(len(sample.spots) + 1))
    for spots in spot_groups(start, genes):
        rows = order[start[spots[0]] : start[spots[-1] + 1]]
        for part, new in parts_of(inside[rows], genes):
            yield spots, rows[part.numpy()], new


def _cells_at_once(genes: int) -> int:
    return min(CELLS_AT_ONCE, max(1, VALUES_AT_ONCE // genes))
