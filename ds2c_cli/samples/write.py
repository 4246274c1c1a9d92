"""The files of a sample's folder: its tables, counts and overlay, and the record that makes it whole."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import shapely
from scipy import sparse

from .. import schema
from ..files import replacing, write_record
from ..geometry import cell_tiles, square_tiles
from ..io.counts import Counts
from ..io.outlines import write_outlines
from ..io.slides import Slide
from ..io.tissue import TissueMask
from ..records import SampleRecord
from ..version import __version__
from .material import Material
from .overlay import draw_overlay
from .place import Placed
from .recipe import Recipe


def write(
    folder: Path,
    recipe: Recipe,
    *,
    slide: Slide,
    tissue: TissueMask,
    material: Material,
    placed: Placed,
    warnings: list[str],
) -> None:
    """Write a sample's folder, the record last: a folder without it is not done."""
    cells, mpp = material.cells, material.mpp
    for file, counted in ((schema.CELL_COUNTS_FILE, material.cell_counts), (schema.SPOT_COUNTS_FILE, placed.counts)):
        if counted is None:
            (folder / file).unlink(missing_ok=True)
        else:
            _write_counts(folder / file, counted, genes=placed.genes)
    with replacing(folder / schema.CELLS_FILE) as part:
        _cell_table(material, placed).to_parquet(part, index=False)
    with replacing(folder / schema.OUTLINES_FILE) as part:
        write_outlines(part, cell_id=cells.cell_id, outline=cells.outline)
    with replacing(folder / schema.SPOTS_FILE) as part:
        _spot_table(placed, tile_side=placed.geometry.spot_tile_um / mpp).to_parquet(part, index=False)
    with replacing(folder / schema.NEIGHBOURS_FILE) as part, part.open("wb") as file_object:
        np.save(file_object, placed.neighbours, allow_pickle=False)
    with replacing(folder / schema.OVERLAY_FILE) as part:
        draw_overlay(
            part,
            slide=slide,
            tissue=tissue,
            mpp=mpp,
            outline=cells.outline,
            spots=placed.spots.centres,
            spot_um=placed.geometry.spot_um,
        )
    record = SampleRecord(
        version=schema.SAMPLE_VERSION,
        ds2c=__version__,
        recipe=recipe.hash(),
        slide=str(recipe.sources.slide.resolve()),
        slide_fingerprint=recipe.slide_fingerprint,
        width=slide.width,
        height=slide.height,
        mpp=mpp,
        donor=recipe.donor,
        cohort=recipe.cohort,
        measured=material.measured is not None,
        geometry=recipe.geometry.changed(layout=placed.geometry.layout),
        lattice=placed.lattice,
        sources=recipe.files,
        warnings=warnings,
    )
    write_record(folder / schema.SAMPLE_FILE, record)


def _cell_table(material: Material, placed: Placed) -> pd.DataFrame:
    outline, mpp = material.cells.outline, material.mpp
    tiles = cell_tiles(outline, mpp, placed.geometry.cell_tile_um)
    area = shapely.area(outline) * mpp**2
    columns = {
        "cell_id": material.cells.cell_id,
        "x": placed.points[:, 0],
        "y": placed.points[:, 1],
        "tile_x": tiles[:, 0],
        "tile_y": tiles[:, 1],
        "tile_side": tiles[:, 2],
        "area_um2": np.where(area > 0, area, np.nan),
        "spot": placed.context,
        "inside": placed.member >= 0,
    }
    return pd.DataFrame(columns).astype(schema.CELL_COLUMNS)


def _spot_table(placed: Placed, *, tile_side: float) -> pd.DataFrame:
    spots = placed.spots
    tiles = square_tiles(spots.x, spots.y, tile_side)
    columns = {
        "spot_id": spots.spot_id,
        "x": spots.x,
        "y": spots.y,
        "tile_x": tiles[:, 0],
        "tile_y": tiles[:, 1],
        "tile_side": tiles[:, 2],
        "in_tissue": spots.in_tissue,
        "n_cells": placed.n_cells,
    }
    return pd.DataFrame(columns).astype(schema.SPOT_COLUMNS)


def _write_counts(path: Path, counts: Counts, *, genes: np.ndarray) -> None:
    """Write the counts of those genes (g,) bool that stay."""
    table = anndata.AnnData(
        sparse.csr_matrix(counts.matrix[:, genes], dtype=np.int32),
        obs=pd.DataFrame(index=pd.Index(counts.ids.astype(str))),
        var=pd.DataFrame(index=pd.Index(counts.genes[genes].astype(str))),
    )
    with replacing(path) as part:
        table.write_h5ad(part, compression="gzip")
