"""Reading a sample's files as cells, spots and counts that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError, UsageError
from ..geometry import Lattice, array_neighbours, lattice_of, neighbours_of
from ..io.cells import Cells, read_cells
from ..io.counts import Counts, read_counts
from ..io.hest import Hest, believed_mpp, read_hest_spots
from ..io.spots import SpotTable, read_spots
from ..io.tissue import TissueMask, pseudo_cells
from ..io.transcripts import PIXELS, count_in_cells, read_transcripts
from ..io.visium import check_full_resolution, read_visium
from ..io.xenium import Xenium, read_boundaries, way_to_slide
from .checks import doubt_pixel_size, match
from .inputs import SampleInputs
from .material import Material, MeasuredSpots, TranscriptSource
from .sources import GRID


def read(inputs: SampleInputs, tissue: TissueMask) -> Material:
    """Read what a sample is made from.

    Raises:
        InputError: Something in the files is missing, malformed or contradictory.
    """
    if inputs.xenium is not None:
        return _from_xenium(inputs, inputs.xenium)
    if inputs.hest is not None:
        return _from_hest(inputs, inputs.hest, tissue=tissue)
    if inputs.sources.visium is not None:
        return _from_visium(inputs, inputs.sources.visium, tissue=tissue)
    return _from_files(inputs, tissue)


def _from_files(inputs: SampleInputs, tissue: TissueMask) -> Material:
    sources = inputs.sources
    mpp = _pixel_size(inputs, inputs.slide.mpp)
    cells = _cells(inputs, sources.cells, tissue=tissue, mpp=mpp)
    notes = doubt_pixel_size(mpp, inputs.slide.mpp) + _noted(sources.cells, cells.note)
    if sources.counts is None:
        return Material(mpp, cells, sources.cells, notes=notes)
    counts = read_counts(sources.counts)
    notes += _noted(sources.counts, counts.note)
    if sources.spots is None:
        cells, counts = _in_one_order(
            cells, counts, cells_from=sources.cells, counts_from=sources.counts, keep_matching=sources.keep_matching
        )
        return Material(mpp, cells, sources.cells, cell_counts=counts, notes=notes)
    spots, counts, without = _spots_with_counts(inputs, counts, spots_from=sources.spots)
    if without:
        notes.append(f"{without:,} positions of {sources.spots} have no counts and are no spots")
    measured = _measured(spots, counts, spots_from=sources.spots)
    return Material(mpp, cells, sources.cells, measured=measured, notes=notes)


def _from_visium(inputs: SampleInputs, folder: Path, *, tissue: TissueMask) -> Material:
    sources, slide = inputs.sources, inputs.slide
    visium = read_visium(folder, raw=sources.raw)
    check_full_resolution(visium, width=slide.width, height=slide.height, slide=sources.slide)
    mpp = _pixel_size(inputs, visium.mpp)
    cells = _cells(inputs, sources.cells, tissue=tissue, mpp=mpp)
    notes = doubt_pixel_size(mpp, slide.mpp) + _noted(sources.cells, cells.note)
    notes += _noted(folder, visium.counts.note)
    measured = _measured(visium.spots, visium.counts, spots_from=folder, array=visium.array, pitch_px=visium.pitch_px)
    return Material(mpp, cells, sources.cells, measured=measured, notes=notes)


def _from_xenium(inputs: SampleInputs, run: Xenium) -> Material:
    sources, slide = inputs.sources, inputs.slide
    way, note = way_to_slide(run, slide_mpp=slide.mpp, given_mpp=sources.mpp)
    mpp = sources.mpp or way.mpp
    notes = doubt_pixel_size(mpp, slide.mpp) + ([note] if note else [])
    cells, counts = read_boundaries(run, way), read_counts(run.matrix)
    notes += _noted(run.boundaries, cells.note) + _noted(run.matrix, counts.note)
    # A cell without an outline (no nucleus was found in it) is no contradiction; an outline without counts is one.
    outlined = np.isin(counts.ids, cells.cell_id)
    if not outlined.all() and outlined.any():
        notes.append(f"{(~outlined).sum():,} of {len(outlined):,} cells have no {sources.boundaries} outline, left out")
        counts = Counts(counts.ids[outlined], counts.genes, counts.matrix[np.flatnonzero(outlined)])
    cells, counts = _in_one_order(
        cells, counts, cells_from=run.boundaries, counts_from=run.matrix, keep_matching=sources.keep_matching
    )
    transcripts = TranscriptSource(run.transcripts, way) if run.transcripts else None
    return Material(mpp, cells, str(run.boundaries), cell_counts=counts, transcripts=transcripts, notes=notes)


def _from_hest(inputs: SampleInputs, hest: Hest, *, tissue: TissueMask) -> Material:
    sources, slide = inputs.sources, inputs.slide
    spots, spot_counts, array = read_hest_spots(hest)
    lattice = lattice_of(spots.centres)
    believed, note = believed_mpp(hest, pitch_px=lattice.pitch_px if np.isfinite(lattice.pitch_px) else None)
    mpp = sources.mpp or believed
    notes = doubt_pixel_size(mpp, slide.mpp) + ([note] if note else [])
    chosen = inputs.hest_cells
    where = str(chosen or sources.cells)
    cells = _cells(inputs, where, tissue=tissue, mpp=mpp)
    notes += _noted(where, cells.note)
    if hest.transcripts is not None and chosen is not None and "xenium" in chosen.name:
        counts, strangers = count_in_cells(read_transcripts(hest.transcripts, PIXELS, cells=True), cells.cell_id)
        if strangers:
            notes.append(f"{strangers:,} transcripts are of cells that {chosen.name} does not have")
        if not counts.matrix.nnz:
            raise InputError(
                f"no transcript of {hest.transcripts} is in a cell of {chosen}", "Give files of the same sample."
            )
        transcripts = TranscriptSource(hest.transcripts)
        return Material(mpp, cells, where, cell_counts=counts, transcripts=transcripts, notes=notes)
    if hest.technology.startswith("Xenium"):
        notes.append(f"{hest.id} has no transcripts here: HEST's pooled spots are its expression")
    measured = _measured(spots, spot_counts, spots_from=hest.spots, array=array)
    return Material(mpp, cells, where, measured=measured, notes=notes)


def _measured(
    spots: SpotTable,
    counts: Counts,
    *,
    spots_from: Path,
    array: np.ndarray | None = None,
    pitch_px: float | None = None,
) -> MeasuredSpots:
    """Find the neighbours of measured spots: by their places (n, 2) in the array where known, else by distance."""
    lattice = Lattice("hex", pitch_px) if pitch_px else lattice_of(spots.centres)
    neighbours = neighbours_of(spots.centres, lattice) if array is None else array_neighbours(array)
    return MeasuredSpots(spots, str(spots_from), counts, lattice, neighbours)


def _pixel_size(inputs: SampleInputs, known: float | None) -> float:
    """Give the microns per pixel that the user said, else those that are `known`."""
    given = inputs.sources.mpp
    mpp = given if given is not None else known
    if mpp is None:
        raise InputError(
            f"{inputs.sources.slide} does not say its pixel size",
            "Add --mpp MICRONS_PER_PIXEL (0.25 at 40x, 0.5 at 20x).",
        )
    if not 0.01 <= mpp <= 20:
        raise UsageError(f"--mpp {mpp:g} is not a pixel size in microns", "It is 0.25 at 40x, 0.5 at 20x.")
    return mpp


def _noted(source: object, note: str) -> list[str]:
    return [f"{source}: {note}"] if note else []


def _cells(inputs: SampleInputs, source: str, *, tissue: TissueMask, mpp: float) -> Cells:
    """Read the cells of a file, or lay pseudo-cells where `source` says their side."""
    slide = inputs.slide
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
    cells: Cells, counts: Counts, *, cells_from: str | Path, counts_from: Path, keep_matching: bool
) -> tuple[Cells, Counts]:
    """Put cells and their counts in one order."""
    rows, counted = match(
        cells.cell_id,
        counts.ids,
        kind="cell",
        source=str(cells_from),
        counts_source=str(counts_from),
        keep_matching=keep_matching,
    )
    return (
        Cells(cells.cell_id[rows], cells.outline[rows], cells.extent),
        Counts(counts.ids[counted], counts.genes, counts.matrix[counted]),
    )


def _spots_with_counts(inputs: SampleInputs, counts: Counts, *, spots_from: Path) -> tuple[SpotTable, Counts, int]:
    """Put spots and their counts in one order, and count the positions without: an array's table lists all it has."""
    sources = inputs.sources
    table = read_spots(spots_from, x_column=sources.x_column, y_column=sources.y_column, id_column=sources.id_column)
    counted_here = np.isin(table.spot_id, counts.ids)
    listed = np.flatnonzero(counted_here) if counted_here.any() else np.arange(len(table.spot_id))
    rows, counted = match(
        table.spot_id[listed],
        counts.ids,
        kind="spot",
        source=str(spots_from),
        counts_source=str(sources.counts),
        keep_matching=sources.keep_matching,
    )
    kept = listed[rows]
    return (
        table.only(kept),
        Counts(counts.ids[counted], counts.genes, counts.matrix[counted]),
        len(table.spot_id) - len(kept),
    )
