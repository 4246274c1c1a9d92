"""Superpixels: small squares of a slide with features of the encoder's map, under spots and under cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import shapely
import torch

from ..models.batch import SuperpixelBatch
from ..project import Sample

SIDE_UM = 8.0  # iStar's 16 px at its 0.5 um a pixel
FAR = 4  # the coarse map's places are so many superpixels wide
RINGS = 2  # superpixels around those under spots and cells that a graph convolution of two layers reaches


@dataclass(frozen=True)
class Ragged:
    """Rows that belong to each of n owners: those of owner i are row[start[i] : start[i + 1]]."""

    start: torch.Tensor  # (n + 1,) int64
    row: torch.Tensor  # (m,) int64

    def of(self, owners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the rows (m,) of these owners (k,), and which of `owners` each belongs to (m,)."""
        at, owner = positions(self.start, owners)
        return self.row[at], owner


def positions(start: torch.Tensor, owners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Say where the items of these owners (k,) stand, (m,), and which of `owners` each belongs to, (m,)."""
    first, length = start[owners], start[owners + 1] - start[owners]
    owner = torch.repeat_interleave(torch.arange(len(owners), device=owners.device), length)
    within = torch.arange(len(owner), device=owners.device) - (length.cumsum(0) - length)[owner]
    return first[owner] + within, owner


@dataclass(frozen=True)
class Superpixels:
    """Superpixels of one or more samples, and which of them lie under each spot and each cell of the data set."""

    features: torch.Tensor  # (P, d) float32: the fine map's C, the coarse map's C, and the place x, y in mm
    around: torch.Tensor  # (P, 8) int64, the superpixels around, -1 where there is none
    of_spots: Ragged
    of_cells: Ragged

    def to(self, device: torch.device) -> Superpixels:
        """Move all tensors to a device."""
        of_spots, of_cells = (Ragged(r.start.to(device), r.row.to(device)) for r in (self.of_spots, self.of_cells))
        return Superpixels(self.features.to(device), self.around.to(device), of_spots, of_cells)

    def scaled(self, centre: torch.Tensor, feature_sd: torch.Tensor) -> Superpixels:
        """Scale the features: less their centre (d,), in SDs (d,)."""
        return replace(self, features=(self.features - centre) / feature_sd)

    def batch(self, spots: torch.Tensor, cells: torch.Tensor) -> SuperpixelBatch:
        """Take the superpixels of these spots (s,) and cells (c,), each once, and after them the rings around."""
        spot_rows, spot_of = self.of_spots.of(spots)
        cell_rows, cell_of = self.of_cells.of(cells)
        core = torch.unique(torch.cat([spot_rows, cell_rows]))
        place = torch.full((len(self.features),), -1, device=core.device)
        place[core] = torch.arange(len(core), device=core.device)
        seen = [core]
        for _ in range(RINGS):
            ring = self.around[seen[-1]]
            ring = torch.unique(ring[ring >= 0])
            ring = ring[place[ring] < 0]
            number = sum(map(len, seen))
            place[ring] = torch.arange(number, number + len(ring), device=core.device)
            seen.append(ring)
        rows = torch.cat(seen)
        around = self.around[rows]
        around = torch.where(around >= 0, place[around.clamp(min=0)], -1)
        return SuperpixelBatch(
            features=self.features[rows],
            around=around,
            core=len(core),
            near=len(core) + len(seen[1]),
            spot_row=place[spot_rows],
            spot_of=spot_of,
            cell_row=place[cell_rows],
            cell_of=cell_of,
        )


def joined(parts: list[Superpixels]) -> Superpixels:
    """Join those of several samples one after another, as their spots and cells are."""
    first = np.cumsum([0] + [len(part.features) for part in parts]).tolist()
    return Superpixels(
        torch.cat([part.features for part in parts]),
        torch.cat([torch.where(p.around >= 0, p.around + n, -1) for p, n in zip(parts, first, strict=False)]),
        _chained([part.of_spots for part in parts], first),
        _chained([part.of_cells for part in parts], first),
    )


def _chained(parts: list[Ragged], first: list[int]) -> Ragged:
    lengths = torch.cat([part.start.diff() for part in parts])
    start = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Ragged(start, torch.cat([part.row + n for part, n in zip(parts, first, strict=False)]))


def load_superpixels(
    sample: Sample, cell_rows: np.ndarray, *, side: int, maps_of: Callable[[np.ndarray], np.ndarray]
) -> Superpixels:
    """Make the superpixels of a sample's spots and of some cells, with those around them.

    Args:
        sample: Whose spots.
        cell_rows: Rows of its table of cells.
        side: Rows and columns of a map.
        maps_of: Gives the maps of pixel boxes (n, 3): (n, side * side * C), row by row.
    """
    grid = _Grid.of(sample)
    spot_start, spot_at = grid.under_discs(sample)
    cell_start, cell_at = grid.under_boxes(sample, cell_rows)
    used = np.unique(np.concatenate([spot_at, cell_at]))
    for _ in range(RINGS):
        ring = grid.around(used)
        used = np.unique(np.concatenate([used, ring[ring >= 0]]))
    column, row = used % grid.columns, used // grid.columns
    maps = []
    for level in (1, FAR):
        tile_column, tile_row = column // (level * side), row // (level * side)
        tiles, which = np.unique(np.column_stack([tile_column, tile_row]), axis=0, return_inverse=True)
        vectors = maps_of(grid.boxes(tiles, level * side))
        place = (row // level % side) * side + column // level % side
        maps.append(vectors.reshape(len(tiles), side * side, -1)[which.ravel(), place].astype(np.float32))
    centre = (np.column_stack([column, row]) + 0.5) * grid.px * sample.mpp / 1000
    around = grid.around(used)
    return Superpixels(
        torch.from_numpy(np.concatenate([*maps, centre.astype(np.float32)], 1)),
        torch.from_numpy(np.where(np.isin(around, used), np.searchsorted(used, around), -1)),
        Ragged(torch.from_numpy(spot_start), torch.from_numpy(np.searchsorted(used, spot_at))),
        Ragged(torch.from_numpy(cell_start), torch.from_numpy(np.searchsorted(used, cell_at))),
    )


def map_boxes(sample: Sample, side: int) -> np.ndarray:
    """List the tiles, pixel boxes (n, 3), whose maps hold every superpixel that the sample's spots and cells need.

    A fine tile is `side` superpixels wide and a coarse one `FAR` times as many; they adjoin one another from the
    slide's corner.
    """
    grid = _Grid.of(sample)
    used = np.concatenate([grid.under_discs(sample)[1], grid.under_boxes(sample, np.arange(len(sample.cells)))[1]])
    used = np.unique(used)
    for _ in range(RINGS):
        ring = grid.around(used)
        used = np.unique(np.concatenate([used, ring[ring >= 0]]))
    places = np.column_stack([used % grid.columns, used // grid.columns])
    parts = [grid.boxes(np.unique(places // (level * side), axis=0), level * side) for level in (1, FAR)]
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Grid:
    """Squares of `px` level-0 pixels that cover a slide, numbered row by row."""

    px: int
    columns: int
    rows: int

    @staticmethod
    def of(sample: Sample) -> _Grid:
        px = max(1, round(SIDE_UM / sample.mpp))
        return _Grid(px, -(-sample.record.width // px), -(-sample.record.height // px))

    def boxes(self, tiles: np.ndarray, wide: int) -> np.ndarray:
        """Give the pixel boxes (n, 3) of tiles (n, 2), column and row among tiles of `wide` superpixels."""
        side = wide * self.px
        return np.column_stack([tiles * side, np.full(len(tiles), side)]).astype(np.int64)

    def around(self, squares: np.ndarray) -> np.ndarray:
        """Number the squares around each: (n, 8), -1 over the slide's edge."""
        column, row = squares % self.columns, squares // self.columns
        aside, down = (part.ravel() for part in np.meshgrid([-1, 0, 1], [-1, 0, 1]))
        keep = (aside != 0) | (down != 0)
        x, y = column[:, None] + aside[keep], row[:, None] + down[keep]
        inside = (x >= 0) & (y >= 0) & (x < self.columns) & (y < self.rows)
        return np.where(inside, y * self.columns + x, -1)

    def under_discs(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Find the squares whose centre is in each spot's disc, and the one that holds its centre: ragged."""
        radius = sample.geometry.in_microns(sample.mpp).spot_um / sample.mpp / 2 / self.px  # in squares
        centre = sample.spots[["x", "y"]].to_numpy() / self.px  # (s, 2)
        reach = np.arange(-int(radius) - 1, int(radius) + 2)
        aside, down = (part.ravel() for part in np.meshgrid(reach, reach))
        own = np.floor(centre).astype(np.int64)
        x, y = own[:, :1] + aside, own[:, 1:] + down  # (s, window)
        under = np.hypot(x + 0.5 - centre[:, :1], y + 0.5 - centre[:, 1:]) <= radius
        under |= (aside == 0) & (down == 0)
        under &= (x >= 0) & (y >= 0) & (x < self.columns) & (y < self.rows)
        return np.concatenate([[0], np.cumsum(under.sum(1))]), (y * self.columns + x)[under]

    def under_boxes(self, sample: Sample, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the squares that the bounding box of each cell (rows of the table) touches: ragged."""
        bounds = shapely.bounds(sample.outlines()[cells]).reshape(-1, 4) / self.px
        most = np.array([self.columns - 1, self.rows - 1])
        first = np.clip(np.floor(bounds[:, :2]).astype(np.int64), 0, most)
        last = np.clip(np.ceil(bounds[:, 2:]).astype(np.int64) - 1, first, most)
        wide, high = (last - first + 1).T
        start = np.concatenate([[0], np.cumsum(wide * high)])
        cell = np.repeat(np.arange(len(cells)), wide * high)
        within = np.arange(start[-1]) - start[cell]
        x, y = first[cell, 0] + within % wide[cell], first[cell, 1] + within // wide[cell]
        return start, y * self.columns + x
