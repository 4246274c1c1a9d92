"""Step 1: slide, cells and expression become the tables of a sample."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import shapely
from scipy import sparse

from .. import __version__, schema
from ..errors import InputError, UsageError
from ..expression import is_control, sum_over_spots
from ..files import file_hash, recipe_hash, replacing, write_record
from ..geometry import Lattice, cell_tiles, centroids, context_of, member_of, neighbours_of, pseudo_spots, square_tiles
from ..io.cells import Cells
from ..io.counts import Counts
from ..io.outlines import write_outlines
from ..io.slides import Slide, open_slide
from ..io.tissue import TissueMask, tissue_mask
from ..io.transcripts import count_in_spots
from ..project import Project, must_run
from ..records import SampleRecord, SourceFile
from ..settings import Geometry
from ..workspace import Workspace
from .checks import check_coordinates, doubt_cell_size, doubt_pitch
from .overlay import draw_overlay
from .sources import GRID, Material, Sources, gather, source_files


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
    workspace: Workspace | Project,
    sources: Sources,
    *,
    geometry: Geometry = Geometry(),  # noqa: B008  (frozen)
    sample: str = "",
    donor: str = "",
    cohort: str = "",
    dry_run: bool = False,
    force: bool = False,
) -> Prepared:
    """Read one slide with its cells and, where given, its expression, and write samples/<sample>/ (DESIGN 4).

    Cell counts make pseudo-spots with known single-cell truth; a spot table with counts makes measured spots;
    cells alone make a sample to predict on, with pseudo-spots for context only.
    Raises InputError for anything missing, malformed or contradictory in the files.
    """
    workspace = Workspace.of(workspace)
    project, progress = workspace.project, workspace.progress
    name = sample_name(sample or sources.slide.name.split(".")[0])
    sources.check()
    slide = open_slide(sources.slide)
    recipe = _recipe(sources, slide, geometry, donor or name, cohort or "cohort")
    folder = project.samples_folder / name
    recorded = project.sample(name).record.recipe if (folder / schema.SAMPLE_FILE).exists() and not force else None
    if not must_run(f"sample {name}", recorded, recipe_hash(recipe), force or dry_run):
        return Prepared(folder, unchanged=True)

    progress("prepare", 0, 4, "slide")
    thumbnail, scale = slide.thumbnail(2048)
    tissue = TissueMask(tissue_mask(thumbnail), scale)
    progress("prepare", 1, 4, "cells")
    found = gather(sources, slide, tissue)
    mpp, cells, cell_counts, spot_counts, table = (
        found.mpp,
        found.cells,
        found.cell_counts,
        found.spot_counts,
        found.spots,
    )
    done = Prepared(folder, warnings=found.notes)
    declared, geometry = geometry, geometry.in_microns(mpp)
    if table is not None:
        assert found.lattice is not None
        spots, lattice = np.column_stack([table.x, table.y]), found.lattice
        geometry = geometry.changed(layout=lattice.layout)
        done.warnings += doubt_pitch(lattice, mpp, geometry)
        if not sources.trust_coordinates:
            check_coordinates("spot", table.spot_id, spots, found.spots_from, slide, tissue, mpp)
    else:
        spots = pseudo_spots(slide.width, slide.height, mpp, geometry)
        pitch_um = geometry.spot_tile_um if geometry.layout == "grid" else geometry.pitch_um
        lattice = Lattice(geometry.layout, pitch_um / mpp)
    points = centroids(cells.outline)
    if not found.cells_from.startswith(GRID):
        done.warnings += doubt_cell_size(cells.outline, mpp)
        if not sources.trust_coordinates:
            check_coordinates("cell", cells.cell_id, points, found.cells_from, slide, tissue, mpp)

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
            f"no cell of {found.cells_from} is in a spot by the rule {geometry.membership!r}: the spot set is empty",
            "Choose another --membership, or larger spots with --spot-um.",
        )
    spot_id = table.spot_id if table is not None else np.array([f"spot_{i:06d}" for i in range(len(spots))], object)
    in_tissue = table.in_tissue if table is not None else n_cells > 0
    if cell_counts is not None and geometry.pseudospot == "cells":
        spot_counts = Counts(spot_id, cell_counts.genes, sum_over_spots(cell_counts.matrix, member, len(spots)))
    elif cell_counts is not None:
        spot_counts, sentence = _transcripts_in_spots(found, cell_counts, spot_id, spots, geometry)
        done.warnings += [sentence] if sentence else []
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
    neighbours = neighbours_of(spots, lattice) if found.neighbours is None else found.neighbours
    with replacing(folder / schema.CELLS_FILE) as part:
        cell_table.to_parquet(part, index=False)
    with replacing(folder / schema.OUTLINES_FILE) as part:
        write_outlines(part, cells.cell_id, cells.outline)
    with replacing(folder / schema.SPOTS_FILE) as part:
        spot_table.to_parquet(part, index=False)
    with replacing(folder / schema.NEIGHBOURS_FILE) as part, part.open("wb") as file_object:
        np.save(file_object, neighbours, allow_pickle=False)
    with replacing(folder / schema.OVERLAY_FILE) as part:
        draw_overlay(part, slide, tissue, mpp, cells.outline, spots, geometry)
    record = SampleRecord(
        version=schema.SAMPLE_VERSION,
        ds2c=__version__,
        recipe=recipe_hash(recipe),
        slide=str(sources.slide.resolve()),
        slide_fingerprint=slide.fingerprint(),
        width=slide.width,
        height=slide.height,
        mpp=mpp,
        donor=donor or name,
        cohort=cohort or "cohort",
        measured=table is not None,
        geometry=declared.changed(layout=geometry.layout),
        lattice=lattice,
        sources={kind: SourceFile(**file) for kind, file in recipe["sources"].items()},
        warnings=done.warnings,
    )
    write_record(folder / schema.SAMPLE_FILE, record)
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


def sample_name(name: str) -> str:
    """The name, if it can name a folder; raises UsageError."""
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a sample", "Use letters, digits, '_', '-', '+' and '.' with --sample.")
    return name


def _recipe(sources: Sources, slide: Slide, geometry: Geometry, donor: str, cohort: str) -> dict[str, Any]:
    """What the sample depends on: the content of its files, not their paths or times."""
    files = source_files(sources, geometry.pseudospot == "transcripts")
    return {
        "slide": slide.fingerprint(),
        "sources": {kind: {"path": str(path), "sha256": file_hash(path)} for kind, path in files.items()},
        "cells": sources.cells if sources.cells.startswith(GRID) else "",
        "columns": (sources.x_column, sources.y_column, sources.id_column),
        "mpp": sources.mpp,
        "keep_matching": sources.keep_matching,
        "geometry": geometry.document(),
        "donor": donor,
        "cohort": cohort,
        "version": schema.SAMPLE_VERSION,
    }


def _transcripts_in_spots(
    found: Material, cell_counts: Counts, spot_id: np.ndarray, spots: np.ndarray, geometry: Geometry
) -> tuple[Counts, str]:
    """Every transcript in a spot's disc, of the genes that the cells have; and a sentence about others, or nothing."""
    if found.transcripts is None:
        raise InputError(
            f"there are no transcripts beside {found.cells_from} for pseudo-spots of transcripts",
            "Give a run with its transcripts, or --pseudospot cells.",
        )
    counted, left = count_in_spots(
        found.transcripts.batches(), spots, geometry.spot_um / found.mpp / 2, spot_id, cell_counts.genes
    )
    if not counted.matrix.nnz:
        raise InputError(f"no transcript of {found.transcripts.path} is in a spot", "Check the alignment and --mpp.")
    return counted, f"{left:,} transcripts are of features that the cells' counts do not have" if left else ""


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
