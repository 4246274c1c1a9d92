"""What a sample is made from: files, or a folder of an instrument or a collection, read as cells, spots and counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import InputError, UsageError
from ..geometry import Lattice, array_neighbours, lattice_of, neighbours_of
from ..io.cells import Cells, read_cells
from ..io.counts import Counts, read_counts
from ..io.hest import Hest, believed_mpp, open_hest, read_hest_spots
from ..io.slides import Slide
from ..io.spots import SpotTable, read_spots
from ..io.tissue import TissueMask, pseudo_cells
from ..io.transcripts import MICRONS, PIXELS, Transcripts, count_in_cells, read_transcripts
from ..io.visium import check_full_resolution, read_visium, visium_files
from ..io.xenium import Boundaries, Xenium, open_xenium, read_boundaries, way_to_slide
from .checks import doubt_pixel_size, match

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

    def cells_file(self) -> Path | None:
        """The file `cells` names, if it names one."""
        if not self.cells or self.cells.startswith(GRID) or self.hest is not None:
            return None
        return Path(self.cells)


@dataclass(frozen=True)
class Material:
    """Cells, and the expression of cells or of spots, in level-0 pixels of their slide."""

    mpp: float
    cells: Cells
    cells_from: str  # for messages
    cell_counts: Counts | None = None  # in the order of the cells
    spots: SpotTable | None = None
    spots_from: str = ""
    spot_counts: Counts | None = None  # in the order of the spots
    lattice: Lattice | None = None
    neighbours: np.ndarray | None = None  # (spots, k) rows of spots, -1 where missing
    transcripts: TranscriptSource | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TranscriptSource:
    """Where the molecules of a sample are, and how to come by their places on the slide."""

    path: Path
    run: Xenium | None = None  # whose transcripts are in microns
    slide_mpp: float | None = None
    given_mpp: float | None = None

    def batches(self) -> Iterator[Transcripts]:
        """Transcripts in level-0 pixels, some at a time."""
        if self.run is None:
            yield from read_transcripts(self.path, PIXELS)
            return
        way, _ = way_to_slide(self.run, self.slide_mpp, self.given_mpp)
        for batch in read_transcripts(self.path, MICRONS):
            yield replace(batch, xy=way.points(batch.xy))


def source_files(sources: Sources, transcripts: bool) -> dict[str, Path]:
    """All files a sample is made from but its slide, by what they are; `transcripts` if a Xenium run's are counted.

    Raises InputError for a folder that lacks one.
    """
    files = {"counts": sources.counts, "spots": sources.spots, "cells": sources.cells_file()}
    if sources.visium is not None:
        files |= {f"visium {path.name}": path for path in visium_files(sources.visium, sources.raw)}
    if sources.xenium is not None:
        run = open_xenium(sources.xenium, sources.boundaries, sources.alignment)
        files |= {f"xenium {path.name}": path for path in run.files}
        files |= {"xenium transcripts": run.transcripts if transcripts else None}
    if sources.hest is not None:
        hest = open_hest(sources.hest, sources.hest_id)
        files |= {
            "hest metadata": hest.metadata_file,
            "hest spots": hest.spots,
            "hest cells": _hest_cells(hest, sources),
        }
        files |= {"hest transcripts": hest.transcripts}
    return {kind: path for kind, path in files.items() if path is not None}


def gather(sources: Sources, slide: Slide, tissue: TissueMask) -> Material:
    """Read what a sample is made from.

    Raises InputError for anything missing, malformed or contradictory in the files.
    """
    if sources.xenium is not None:
        return _from_xenium(sources, slide)
    if sources.hest is not None:
        return _from_hest(sources, slide, tissue)
    if sources.visium is not None:
        return _from_visium(sources, slide, tissue)
    mpp = _pixel_size(sources, slide, sources.mpp, slide.mpp)
    cells = _cells(sources.cells, slide, tissue, mpp)
    notes = doubt_pixel_size(mpp, slide.mpp) + _noted(sources.cells, cells.note)
    if sources.counts is None:
        return Material(mpp, cells, sources.cells, notes=notes)
    counts = read_counts(sources.counts)
    notes += _noted(sources.counts, counts.note)
    if sources.spots is None:
        cells, counts = _in_one_order(cells, counts, sources.cells, str(sources.counts), sources.keep_matching)
        return Material(mpp, cells, sources.cells, counts, notes=notes)
    spots, counts, without = _spots_with_counts(sources, counts)
    if without:
        notes.append(f"{without:,} positions of {sources.spots} have no counts and are no spots")
    return _measured(mpp, cells, sources.cells, spots, str(sources.spots), counts, None, notes)


def _from_visium(sources: Sources, slide: Slide, tissue: TissueMask) -> Material:
    assert sources.visium is not None
    visium = read_visium(sources.visium, sources.raw)
    check_full_resolution(visium, slide.width, slide.height, sources.slide)
    mpp = _pixel_size(sources, slide, sources.mpp, visium.mpp)
    cells = _cells(sources.cells, slide, tissue, mpp)
    notes = doubt_pixel_size(mpp, slide.mpp) + _noted(sources.cells, cells.note)
    notes += _noted(sources.visium, visium.counts.note)
    where = str(sources.visium)
    return _measured(
        mpp, cells, sources.cells, visium.spots, where, visium.counts, visium.array, notes, visium.pitch_px
    )


def _from_xenium(sources: Sources, slide: Slide) -> Material:
    assert sources.xenium is not None
    run = open_xenium(sources.xenium, sources.boundaries, sources.alignment)
    way, note = way_to_slide(run, slide.mpp, sources.mpp)
    mpp = sources.mpp or way.mpp
    notes = doubt_pixel_size(mpp, slide.mpp) + ([note] if note else [])
    cells, counts = read_boundaries(run, way), read_counts(run.matrix)
    notes += _noted(run.boundaries, cells.note) + _noted(run.matrix, counts.note)
    # A cell without an outline (no nucleus was found in it) is no contradiction; an outline without counts is one.
    outlined = np.isin(counts.ids, cells.cell_id)
    if not outlined.all() and outlined.any():
        notes.append(f"{(~outlined).sum():,} of {len(outlined):,} cells have no {sources.boundaries} outline, left out")
        counts = Counts(counts.ids[outlined], counts.genes, counts.matrix[np.flatnonzero(outlined)])
    cells, counts = _in_one_order(cells, counts, str(run.boundaries), str(run.matrix), sources.keep_matching)
    transcripts = TranscriptSource(run.transcripts, run, slide.mpp, sources.mpp) if run.transcripts else None
    return Material(mpp, cells, str(run.boundaries), counts, transcripts=transcripts, notes=notes)


def _from_hest(sources: Sources, slide: Slide, tissue: TissueMask) -> Material:
    assert sources.hest is not None
    hest = open_hest(sources.hest, sources.hest_id)
    spots, spot_counts, array = read_hest_spots(hest)
    lattice = lattice_of(np.column_stack([spots.x, spots.y]))
    believed, note = believed_mpp(hest, lattice.pitch_px if np.isfinite(lattice.pitch_px) else None)
    mpp = sources.mpp or believed
    notes = doubt_pixel_size(mpp, slide.mpp) + ([note] if note else [])
    chosen = _hest_cells(hest, sources)
    cells = _cells(str(chosen or sources.cells), slide, tissue, mpp)
    where = str(chosen or sources.cells)
    notes += _noted(where, cells.note)
    if hest.transcripts is not None and chosen is not None and "xenium" in chosen.name:
        counts, strangers = count_in_cells(read_transcripts(hest.transcripts, PIXELS, cells=True), cells.cell_id)
        if strangers:
            notes.append(f"{strangers:,} transcripts are of cells that {chosen.name} does not have")
        if not counts.matrix.nnz:
            raise InputError(
                f"no transcript of {hest.transcripts} is in a cell of {chosen}", "Give files of the same sample."
            )
        return Material(mpp, cells, where, counts, transcripts=TranscriptSource(hest.transcripts), notes=notes)
    if hest.technology.startswith("Xenium"):
        notes.append(f"{hest.id} has no transcripts here: HEST's pooled spots are its expression")
    return _measured(mpp, cells, where, spots, str(hest.spots), spot_counts, array, notes)


def _measured(
    mpp: float,
    cells: Cells,
    cells_from: str,
    spots: SpotTable,
    spots_from: str,
    counts: Counts,
    array: np.ndarray | None,
    notes: list[str],
    pitch_px: float | None = None,
) -> Material:
    """Measured spots; neighbours by the array where it is known, else by distance."""
    centres = np.column_stack([spots.x, spots.y])
    lattice = Lattice("hex", pitch_px) if pitch_px else lattice_of(centres)
    neighbours = neighbours_of(centres, lattice) if array is None else array_neighbours(array)
    return Material(mpp, cells, cells_from, None, spots, spots_from, counts, lattice, neighbours, notes=notes)


def _hest_cells(hest: Hest, sources: Sources) -> Path | None:
    """The segmentation of a HEST sample to take: the one named, else the first there is; None for pseudo-cells."""
    if sources.cells.startswith(GRID):
        return None
    if sources.cells:
        if sources.cells in hest.cells:
            return hest.cells[sources.cells]
        if Path(sources.cells).is_file():
            return Path(sources.cells)
    elif hest.cells:
        return next(iter(hest.cells.values()))
    has = ", ".join(hest.cells) or "none"
    raise InputError(
        f"{hest.id} has no segmentation {sources.cells or 'here'} (it has: {has})",
        "Download xenium_seg/ or cellvit_seg/, or add --cells FILE or --cells grid:20.",
    )


def _pixel_size(sources: Sources, slide: Slide, *known: float | None) -> float:
    """Microns a pixel, the first that is known."""
    mpp = next((one for one in known if one is not None), None)
    if mpp is None:
        raise InputError(
            f"{sources.slide} does not say its pixel size", "Add --mpp MICRONS_PER_PIXEL (0.25 at 40x, 0.5 at 20x)."
        )
    if not 0.01 <= mpp <= 20:
        raise UsageError(f"--mpp {mpp:g} is not a pixel size in microns", "It is 0.25 at 40x, 0.5 at 20x.")
    return mpp


def _noted(source: object, note: str) -> list[str]:
    return [f"{source}: {note}"] if note else []


def _cells(source: str, slide: Slide, tissue: TissueMask, mpp: float) -> Cells:
    if source.startswith(GRID):
        try:
            side_um = float(source.removeprefix(GRID))
        except ValueError:
            side_um = 0.0
        if not side_um > 0:
            raise UsageError(f"--cells {source} does not name a side in microns", "Write --cells grid:20.")
        outline = pseudo_cells(tissue, mpp=mpp, side_um=side_um)
        if not len(outline):
            raise InputError(f"no tissue was found on {slide.path}", "Give the cells with --cells FILE.")
        return Cells(np.array([f"grid_{i:07d}" for i in range(len(outline))], object), outline)
    cells = read_cells(Path(source))
    if cells.extent is not None and cells.extent != (slide.width, slide.height):
        raise InputError(
            f"the label image {source} is {cells.extent[0]} x {cells.extent[1]} pixels, the slide "
            f"{slide.width} x {slide.height}",
            "Give the labels at level 0 of the slide.",
        )
    return cells


def _in_one_order(
    cells: Cells, counts: Counts, cells_from: str, counts_from: str, keep_matching: bool
) -> tuple[Cells, Counts]:
    """Cells and their counts in one order."""
    rows, counted = match(cells.cell_id, counts.ids, "cell", cells_from, counts_from, keep_matching)
    return (
        Cells(cells.cell_id[rows], cells.outline[rows], cells.extent),
        Counts(counts.ids[counted], counts.genes, counts.matrix[counted]),
    )


def _spots_with_counts(sources: Sources, counts: Counts) -> tuple[SpotTable, Counts, int]:
    """Spots and their counts in one order, and how many positions had none: an array's table lists all it has."""
    assert sources.spots is not None
    table = read_spots(sources.spots, sources.x_column, sources.y_column, sources.id_column)
    counted_here = np.isin(table.spot_id, counts.ids)
    listed = np.flatnonzero(counted_here) if counted_here.any() else np.arange(len(table.spot_id))
    rows, counted = match(
        table.spot_id[listed], counts.ids, "spot", str(sources.spots), str(sources.counts), sources.keep_matching
    )
    kept = listed[rows]
    return (
        SpotTable(table.spot_id[kept], table.x[kept], table.y[kept], table.in_tissue[kept]),
        Counts(counts.ids[counted], counts.genes, counts.matrix[counted]),
        len(table.spot_id) - len(kept),
    )
