"""What a sample's files held: its cells, and the expression of cells or of spots, in one order each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..geometry import Lattice, MicronsToPixels
from ..io.cells import Cells
from ..io.counts import Counts
from ..io.spots import SpotTable
from ..io.transcripts import MICRONS, PIXELS, Transcripts, read_transcripts


@dataclass(frozen=True)
class Material:
    """Cells, and the expression of cells or of spots, in level-0 pixels of their slide."""

    mpp: float
    cells: Cells
    cells_from: str  # for messages
    cell_counts: Counts | None = None  # in the order of the cells
    measured: MeasuredSpots | None = None
    transcripts: TranscriptSource | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MeasuredSpots:
    """Spots of an array with their counts in one order."""

    spots: SpotTable
    spots_from: str  # for messages
    counts: Counts
    lattice: Lattice
    neighbours: np.ndarray  # (spots, k) rows of spots, -1 where missing


@dataclass(frozen=True)
class TranscriptSource:
    """Where the molecules of a sample are, and the way to the slide of those in microns."""

    path: Path
    way: MicronsToPixels | None = None

    def batches(self) -> Iterator[Transcripts]:
        """Read transcripts in level-0 pixels, some at a time."""
        if self.way is None:
            yield from read_transcripts(self.path, PIXELS)
            return
        for batch in read_transcripts(self.path, MICRONS):
            yield replace(batch, xy=self.way.points(batch.xy))
