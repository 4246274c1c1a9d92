"""What a sample is made from, as it was named: files, or a folder of an instrument or a collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..choices import Boundaries
from ..errors import UsageError

GRID = "grid:"  # --cells grid:20 lays pseudo-cells of 20 um on the tissue


@dataclass(frozen=True)
class Sources:
    """What a sample is made from.

    `cells` is a file, `grid:SIDE_UM` for pseudo-cells on the tissue, or empty where a folder has them; of HEST it may
    name one of its segmentations: cell, nucleus, cellvit.
    """

    slide: Path
    cells: str = ""
    counts: Path | None = None
    spots: Path | None = None
    visium: Path | None = None  # Space Ranger's outs folder: spots with their counts
    raw: bool = False  # of a Visium folder also the spots beside the tissue
    xenium: Path | None = None  # a run's folder: cells with their counts
    boundaries: Boundaries = "cell"  # of a Xenium run
    alignment: Path | None = None  # of the slide to a Xenium run
    hest: Path | None = None  # a HEST-1k folder
    hest_id: str = ""
    x_column: str = ""
    y_column: str = ""
    id_column: str = ""
    mpp: float | None = None
    keep_matching: bool = False  # go on with the cells (or spots) that both files have
    trust_coordinates: bool = False  # do not compare coordinates with the tissue

    def check(self) -> None:
        """Raise UsageError for sources that exclude or need one another."""
        folders = {"--visium": self.visium, "--xenium": self.xenium, "--hest": self.hest}
        given = [flag for flag, folder in folders.items() if folder is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are two sources of expression", "Give one of them.")
        if given and (self.counts is not None or self.spots is not None):
            raise UsageError(f"{given[0]} has the counts already", "Leave out --counts and --spots.")
        if self.spots is not None and self.counts is None:
            raise UsageError("--spots needs --counts, the expression of these spots", "Add --counts FILE.")
        if self.xenium is not None and self.cells:
            raise UsageError("--xenium has the cells already", "Leave out --cells; --boundaries nucleus takes nuclei.")
        if not self.cells and self.xenium is None and self.hest is None:
            raise UsageError("there are no cells", "Add --cells FILE, or --cells grid:20 for pseudo-cells of 20 um.")
        if self.alignment is not None and self.xenium is None:
            raise UsageError("--alignment is of a slide to a Xenium run", "Add --xenium DIR.")

    @property
    def on_grid(self) -> bool:
        """Say whether the cells are pseudo-cells on a grid."""
        return self.cells.startswith(GRID)

    def cells_file(self) -> Path | None:
        """Give the file that `cells` names, if it names one."""
        if not self.cells or self.on_grid or self.hest is not None:
            return None
        return Path(self.cells)
