"""Step 1: slide, cells and expression become the tables of a sample."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import shapely
from scipy import sparse

from . import __version__, schema
from .errors import InputError, UsageError
from .expression import is_control, sum_over_spots
from .geometry import (
    Lattice,
    array_neighbours,
    cell_tiles,
    centroids,
    context_of,
    lattice_of,
    member_of,
    neighbours_of,
    pseudo_cells,
    pseudo_spots,
    square_tiles,
)
from .io.cells import Cells, read_cells
from .io.counts import Counts, read_counts
from .io.slides import Slide, open_slide, tissue_mask
from .io.spots import SpotTable, read_spots
from .io.visium import Visium, check_full_resolution, read_visium
from .overlay import draw_overlay
from .plausibility import check_coordinates, doubt_cell_size, doubt_pitch, doubt_pixel_size, match
from .progress import Progress, silent
from .project import Project, file_hash, must_run, recipe_hash, replacing, write_json
from .settings import Geometry

GRID = "grid:"  # --cells grid:20 lays pseudo-cells of 20 um on the tissue


@dataclass(frozen=True)
class Sources:
    """What a sample is made from. `cells` is a file, or `grid:SIDE_UM` for pseudo-cells on the tissue."""

    slide: Path
    cells: str
    counts: Path | None = None
    spots: Path | None = None
    visium: Path | None = None  # Space Ranger's outs folder: spots with their counts
    raw: bool = False  # of a Visium folder also the spots beside the tissue
    x_column: str = ""
    y_column: str = ""
    id_column: str = ""
    mpp: float | None = None
    keep_matching: bool = False  # go on with the cells (or spots) that both files have
    trust_coordinates: bool = False  # do not compare coordinates with the tissue


@dataclass
class Prepared:
    """What `prepare` did. `warnings` are sentences for a person."""

    folder: Path
    unchanged: bool = False
    n_cells: int = 0
    n_inside: int = 0
    n_spots: int = 0
    n_genes: int = 0
    warnings: list[str] = field(default_factory=list)


def prepare(
    project: Project,
    sources: Sources,
    geometry: Geometry,
    sample: str = "",
    donor: str = "",
    cohort: str = "",
    dry_run: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Prepared:
    """Read one slide with its cells and, where given, its expression, and write samples/<sample>/ (DESIGN 4).

    Cell counts make pseudo-spots with known single-cell truth; a spot table with counts makes measured spots;
    cells alone make a sample to predict on, with pseudo-spots for context only.
    Raises InputError for anything missing, malformed or contradictory in the files.
    """
    name = _sample_name(sample or sources.slide.name.split(".")[0])
    if sources.spots is not None and sources.counts is None:
        raise UsageError("--spots needs --counts, the expression of these spots", "Add --counts FILE.")
    if sources.visium is not None and (sources.counts is not None or sources.spots is not None):
        raise UsageError("--visium has the spots and their counts", "Leave out --counts and --spots.")
    slide = open_slide(sources.slide)
    visium = read_visium(sources.visium, sources.raw) if sources.visium is not None else None
    recipe = _recipe(sources, visium, slide, geometry, donor or name, cohort or "cohort")
    folder = project.samples_folder / name
    recorded = project.sample(name).record["recipe"] if (folder / schema.SAMPLE_FILE).exists() and not force else None
    if not must_run(f"sample {name}", recorded, recipe_hash(recipe), force or dry_run):
        return Prepared(folder, unchanged=True)

    done = Prepared(folder)
    if visium is not None:
        check_full_resolution(visium, slide.width, slide.height, sources.slide)
    mpp = _pixel_size(sources, slide, visium)
    done.warnings += doubt_pixel_size(mpp, slide.mpp)
    progress("prepare", 0, 4, "slide")
    thumbnail, scale = slide.thumbnail(2048)
    tissue = tissue_mask(thumbnail)
    progress("prepare", 1, 4, "cells")
    cells = _cells(sources, slide, tissue, scale, mpp)
    counts = read_counts(sources.counts) if sources.counts else None
    told = counts or (visium.counts if visium else None)
    if told is not None and told.note:
        done.warnings.append(f"{sources.counts or sources.visium}: {told.note}")

    if visium is not None or sources.spots is not None:
        if visium is not None:
            table, spot_counts = visium.spots, visium.counts
            lattice = Lattice("hex", visium.pitch_px)
        else:
            assert counts is not None
            table, spot_counts, without = _spots_with_counts(sources, counts)
            if without:
                done.warnings.append(f"{without:,} positions of {sources.spots} have no counts and are no spots")
            lattice = lattice_of(np.column_stack([table.x, table.y]))
        spots = np.column_stack([table.x, table.y])
        geometry = replace(geometry, layout=lattice.layout)
        done.warnings += doubt_pitch(lattice, mpp, geometry)
        cell_counts = None
        if not sources.trust_coordinates:
            source = str(sources.spots or sources.visium)
            check_coordinates("spot", table.spot_id, spots, source, slide, tissue, scale, mpp)
    else:
        cells, cell_counts = _cells_with_counts(cells, counts, sources) if counts else (cells, None)
        spots = pseudo_spots(slide.width, slide.height, mpp, geometry)
        pitch_um = geometry.spot_tile_um if geometry.layout == "grid" else geometry.pitch_um
        lattice = Lattice(geometry.layout, pitch_um / mpp)
        table, spot_counts = None, None
    points = centroids(cells.outline)
    if not sources.cells.startswith(GRID):
        done.warnings += doubt_cell_size(cells.outline, mpp)
        if not sources.trust_coordinates:
            check_coordinates("cell", cells.cell_id, points, sources.cells, slide, tissue, scale, mpp)

    progress("prepare", 2, 4, "membership")
    spots, member, context = _membership(cells.outline, points, spots, mpp, geometry, measured=table is not None)
    if not len(spots):
        raise InputError(
            f"{sources.slide} has no room for a spot: its {slide.width} x {slide.height} pixels are "
            f"{slide.width * mpp:.0f} x {slide.height * mpp:.0f} um, or no cell lies in a spot's tile",
            "Check --mpp, or make spots smaller with --spot-um and --spot-tile-um.",
        )
    n_cells = np.bincount(member[member >= 0], minlength=len(spots)).astype(np.int32)
    if cell_counts is not None and not n_cells.any():
        raise InputError(
            f"no cell of {sources.cells} is in a spot by the rule {geometry.membership!r}: the spot set is empty",
            "Choose another --membership, or larger spots with --spot-um.",
        )
    spot_id = table.spot_id if table is not None else np.array([f"spot_{i:06d}" for i in range(len(spots))], object)
    in_tissue = table.in_tissue if table is not None else n_cells > 0
    if cell_counts is not None:
        spot_counts = Counts(spot_id, cell_counts.genes, sum_over_spots(cell_counts.matrix, member, len(spots)))
    truth = cell_counts or spot_counts
    if truth is not None:
        kept, sentence = _genes_kept(truth)
        done.warnings += [sentence] if sentence else []
        done.n_genes = int(kept.sum())
    done.n_cells, done.n_inside, done.n_spots = len(points), int((member >= 0).sum()), len(spots)
    if dry_run:
        return done

    progress("prepare", 3, 4, "write")
    for file, counted in ((schema.CELL_COUNTS_FILE, cell_counts), (schema.SPOT_COUNTS_FILE, spot_counts)):
        if counted is None:
            (folder / file).unlink(missing_ok=True)
        else:
            _write_counts(folder / file, counted, kept)
    cell_table = _cell_table(cells, points, mpp, geometry, context, member)
    spot_table = _spot_table(spot_id, spots, geometry.spot_tile_um / mpp, in_tissue, n_cells)
    neighbours = neighbours_of(spots, lattice) if visium is None else array_neighbours(visium.array)
    with replacing(folder / schema.CELLS_FILE) as part:
        cell_table.to_parquet(part, index=False)
    with replacing(folder / schema.SPOTS_FILE) as part:
        spot_table.to_parquet(part, index=False)
    with replacing(folder / schema.NEIGHBOURS_FILE) as part, part.open("wb") as file_object:
        np.save(file_object, neighbours, allow_pickle=False)
    with replacing(folder / schema.OVERLAY_FILE) as part:
        draw_overlay(part, slide, tissue, scale, mpp, cells.outline, spots, geometry)
    record = {
        "version": schema.SAMPLE_VERSION,
        "ds2c": __version__,
        "recipe": recipe_hash(recipe),
        "slide": str(sources.slide.resolve()),
        "slide_fingerprint": slide.fingerprint(),
        "width": slide.width,
        "height": slide.height,
        "mpp": mpp,
        "donor": donor or name,
        "cohort": cohort or "cohort",
        "measured": table is not None,
        "geometry": asdict(geometry),
        "lattice": asdict(lattice),
        "sources": recipe["sources"],
        "warnings": done.warnings,
    }
    write_json(folder / schema.SAMPLE_FILE, record)
    progress("prepare", 4, 4, "")
    return done


def _membership(
    outline: np.ndarray, points: np.ndarray, spots: np.ndarray, mpp: float, geometry: Geometry, measured: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The spots (n, 2) that are kept, and of each cell the spot it is a member of and the one whose context it sees.

    Measured spots are all kept; of pseudo-spots those whose tile holds a cell: the others are glass.
    """
    tile_side = geometry.spot_tile_um / mpp
    member = member_of(outline, spots, mpp, geometry)
    context = context_of(points, member, spots, tile_side)
    if measured or not len(spots):
        return spots, member, context
    held = member >= 0
    held |= np.abs(points - spots[context]).max(1) <= tile_side / 2
    used = np.unique(context[held])
    row = np.full(len(spots), -1, np.int32)
    row[used] = np.arange(len(used))
    spots, member = spots[used], np.where(member >= 0, row[member], -1).astype(np.int32)
    return spots, member, context_of(points, member, spots, tile_side)


def _cell_table(
    cells: Cells, points: np.ndarray, mpp: float, geometry: Geometry, context: np.ndarray, member: np.ndarray
) -> pd.DataFrame:
    tiles = cell_tiles(cells.outline, mpp, geometry.cell_tile_um)
    area = shapely.area(cells.outline) * mpp**2
    columns = {
        "cell_id": cells.cell_id,
        "x": points[:, 0],
        "y": points[:, 1],
        "tile_x": tiles[:, 0],
        "tile_y": tiles[:, 1],
        "tile_side": tiles[:, 2],
        "area_um2": np.where(area > 0, area, np.nan),
        "spot": context,
        "inside": member >= 0,
    }
    return pd.DataFrame(columns).astype(schema.CELL_COLUMNS)


def _spot_table(
    spot_id: np.ndarray, spots: np.ndarray, tile_side: float, in_tissue: np.ndarray, n_cells: np.ndarray
) -> pd.DataFrame:
    tiles = square_tiles(spots[:, 0], spots[:, 1], tile_side)
    columns = {
        "spot_id": spot_id,
        "x": spots[:, 0],
        "y": spots[:, 1],
        "tile_x": tiles[:, 0],
        "tile_y": tiles[:, 1],
        "tile_side": tiles[:, 2],
        "in_tissue": in_tissue,
        "n_cells": n_cells,
    }
    return pd.DataFrame(columns).astype(schema.SPOT_COLUMNS)


def _sample_name(name: str) -> str:
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a sample", "Use letters, digits, '_', '-', '+' and '.' with --sample.")
    return name


def _recipe(
    sources: Sources, visium: Visium | None, slide: Slide, geometry: Geometry, donor: str, cohort: str
) -> dict[str, Any]:
    """What the sample depends on: the content of its files, not their paths or times."""
    files = {"counts": sources.counts, "spots": sources.spots}
    if not sources.cells.startswith(GRID):
        files["cells"] = Path(sources.cells)
    if visium is not None:
        files.update({f"visium {path.name}": path for path in visium.files})
    hashes = {kind: {"path": str(path), "sha256": file_hash(path)} for kind, path in files.items() if path is not None}
    return {
        "slide": slide.fingerprint(),
        "sources": hashes,
        "cells": sources.cells if sources.cells.startswith(GRID) else "",
        "columns": (sources.x_column, sources.y_column, sources.id_column),
        "mpp": sources.mpp,
        "keep_matching": sources.keep_matching,
        "geometry": asdict(geometry),
        "donor": donor,
        "cohort": cohort,
        "version": schema.SAMPLE_VERSION,
    }


def _pixel_size(sources: Sources, slide: Slide, visium: Visium | None) -> float:
    """Microns a pixel: as said, else by the spots' pitch, which is measured over the whole array, else by the tag."""
    known = [sources.mpp, visium.mpp if visium else None, slide.mpp]
    mpp = next((one for one in known if one is not None), None)
    if mpp is None:
        raise InputError(
            f"{sources.slide} does not say its pixel size", "Add --mpp MICRONS_PER_PIXEL (0.25 at 40x, 0.5 at 20x)."
        )
    if not 0.01 <= mpp <= 20:
        raise UsageError(f"--mpp {mpp:g} is not a pixel size in microns", "It is 0.25 at 40x, 0.5 at 20x.")
    return mpp


def _cells(sources: Sources, slide: Slide, tissue: np.ndarray, scale: float, mpp: float) -> Cells:
    if sources.cells.startswith(GRID):
        try:
            side_um = float(sources.cells.removeprefix(GRID))
        except ValueError:
            side_um = 0.0
        if not side_um > 0:
            raise UsageError(f"--cells {sources.cells} does not name a side in microns", "Write --cells grid:20.")
        outline = pseudo_cells(tissue, scale, mpp, side_um)
        if not len(outline):
            raise InputError(f"no tissue was found on {sources.slide}", "Give the cells with --cells FILE.")
        return Cells(np.array([f"grid_{i:07d}" for i in range(len(outline))], object), outline)
    cells = read_cells(Path(sources.cells))
    if cells.extent is not None and cells.extent != (slide.width, slide.height):
        raise InputError(
            f"the label image {sources.cells} is {cells.extent[0]} x {cells.extent[1]} pixels, the slide "
            f"{slide.width} x {slide.height}",
            "Give the labels at level 0 of the slide.",
        )
    return cells


def _cells_with_counts(cells: Cells, counts: Counts, sources: Sources) -> tuple[Cells, Counts]:
    """Cells and their counts in one order."""
    rows, counted = match(cells.cell_id, counts.ids, "cell", sources.cells, str(sources.counts), sources.keep_matching)
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


def _genes_kept(counts: Counts) -> tuple[np.ndarray, str]:
    """Genes (g,) that are no control features, and what was dropped, in words.

    Rare genes stay: they are left out of a model's panel, but are part of what was measured.
    """
    control = is_control(list(counts.genes))
    if control.all():
        raise InputError("all features of the counts are control features", "Give the counts of the genes.")
    if not control.any():
        return ~control, ""
    return ~control, f"left out {control.sum():,} control features; {(~control).sum():,} genes stay"


def _write_counts(path: Path, counts: Counts, kept: np.ndarray) -> None:
    table = anndata.AnnData(
        sparse.csr_matrix(counts.matrix[:, kept], dtype=np.int32),
        obs=pd.DataFrame(index=pd.Index(counts.ids.astype(str))),
        var=pd.DataFrame(index=pd.Index(counts.genes[kept].astype(str))),
    )
    with replacing(path) as part:
        table.write_h5ad(part, compression="gzip")
