"""What an export holds: the cells of a sample, their matrices a few rows at a time, and where they lie on the slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pydantic import JsonValue

from ..io.counts import Counts
from ..io.slides import Slide

BLOCK_BYTES = 1 << 26  # of one matrix at a time
POINT_RADIUS_UM = 5.0  # a cell that is only a centroid is drawn as a disc of about a nucleus

Rows = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where the cells lie: level-0 pixels, x right, y down."""

    outline: np.ndarray  # (n,) polygons, MultiPolygons or points
    mpp: float  # microns per pixel
    slide: Slide | None  # None where the image is left out
    spots: pd.DataFrame  # the sample's spot table
    spot_um: float  # diameter
    spot_counts: Counts | None


@dataclass(frozen=True)
class Classes:
    """A class for each cell, and the colour of each class."""

    names: list[str]
    colours: list[tuple[int, int, int]]  # red, green, blue to 255
    of_cell: Callable[[int, int], np.ndarray]  # (begin, end) -> (end - begin,) int, -1 for none


@dataclass(frozen=True)
class Export:
    """Cells (n,) with the genes (g,) that were asked for."""

    name: str  # the sample
    slide_fingerprint: str
    about: dict[str, JsonValue]  # what it is made from; its "recipe" tells equal exports from others
    obs: pd.DataFrame  # (n,) the cell table, by cell id
    genes: list[str]
    panel: int  # how many genes there are to read, of which `genes` may be a few
    matrices: Mapping[str, Rows]  # X, spot_share, counts: (begin, end) -> (end - begin, g)
    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    place: Place | None = None
    classes: Classes | None = None
    colours: Mapping[str, Sequence[str]] = field(default_factory=dict)  # scanpy's, by the column's name and "_colors"

    @property
    def recipe(self) -> str:
        """Name what it is made from; equal exports have equal recipes."""
        return str(self.about["recipe"])

    def __len__(self) -> int:
        return len(self.obs)

    def blocks(self, most: int) -> Iterator[tuple[int, int]]:
        """Go through the cells' rows, (begin, end): at most so many at a time, and as a block of a matrix holds."""
        rows = max(1, min(most, BLOCK_BYTES // (4 * max(self.panel, 1))))
        for begin in range(0, len(self), rows):
            yield begin, min(begin + rows, len(self))
