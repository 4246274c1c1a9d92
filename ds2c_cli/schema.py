"""Every column, key, unit, dtype, file name and version of what ds2c writes, spelled once."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """What is stored or passed, as a type: frozen and strict; a key that is not known is refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def changed(self, **changes: Any) -> Self:
        """Make a checked copy with other values."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    def document(self) -> dict[str, Any]:
        """Give the record in JSON's types."""
        return self.model_dump(mode="json")


SAMPLE_VERSION = 1  # samples/<sample>/
CHECKPOINT_VERSION = 4  # checkpoints/<name>.pt
CHECKPOINT_VERSIONS_READ = (3, 4)  # they differ in the names of weights
PREDICTION_VERSION = 2  # predictions/<name>/<sample>.h5ad, uns["ds2c"]
METRICS_VERSION = 2  # evaluation/<name>/metrics.json
EXPORT_VERSION = 1  # exports/

# Files of a project
SETTINGS_FILE = "ds2c.toml"
SAMPLE_FILE = "sample.json"
CELLS_FILE = "cells.parquet"
OUTLINES_FILE = "outlines.parquet"  # GeoParquet: cell_id and geometry (WKB), level-0 pixels, rows as in cells.parquet
SPOTS_FILE = "spots.parquet"
NEIGHBOURS_FILE = "neighbours.npy"
SPOT_COUNTS_FILE = "spot_counts.h5ad"
CELL_COUNTS_FILE = "cell_counts.h5ad"
OVERLAY_FILE = "overlay.png"
EMBEDDINGS_FOLDER = "embeddings"  # a file per encoder that the project was embedded with; jobs may write at once

# cells.parquet: one row per cell; x right, y down, level-0 pixels unless the name says um
CELL_COLUMNS = {
    "cell_id": "str",
    "x": "float64",  # centroid
    "y": "float64",
    "tile_x": "float64",  # upper left corner of the cell tile
    "tile_y": "float64",
    "tile_side": "float64",
    "area_um2": "float64",  # NaN where the cell is only a point
    "spot": "int32",  # row of spots.parquet that is the cell's context, -1 without spots
    "inside": "bool",  # the cell is a member of that spot
}

# spots.parquet: one row per spot
SPOT_COLUMNS = {
    "spot_id": "str",
    "x": "float64",  # centre
    "y": "float64",
    "tile_x": "float64",
    "tile_y": "float64",
    "tile_side": "float64",
    "in_tissue": "bool",
    "n_cells": "int32",  # members
}

# AnnData of predictions
LAYER_SPOT_SHARE = "spot_share"  # what log1p(1e4 * c / total of the spot) should come to: the paper's scale
OF_SPOT = "of_spot"  # obs: the cell's share of its spot's counts, all genes together; NaN for a cell without a spot
LAYER_SD = "spot_share_sd"  # SD of what spot_share is the mean of, with --uncertainty only
LAYER_COUNTS = "counts"  # expected counts, mode deconvolve only
OBSM_UM = "spatial"
OBSM_PX = "spatial_px"
UNS = "ds2c"

TARGET_SUM = 10_000.0  # counts that a spot (or cell) is normalised to before log1p
