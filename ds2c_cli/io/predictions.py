"""Predictions as AnnData: matrices are written and read a few cells at a time, never whole in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from .. import schema
from ..errors import InputError


def create_predictions(
    path: Path,
    obs: pd.DataFrame,
    genes: Sequence[str],
    obsm: dict[str, np.ndarray],
    about: dict[str, Any],
    counts: bool,
    spread: bool = False,
) -> dict[str, np.memmap]:
    """An h5ad with empty matrices, and these as writable arrays (cells, genes) float32 over the file.

    Keys: `X`, `spot_share` and, with `counts`, `counts`, with `spread`, `spot_share_sd`. The matrices are contiguous in
    the file, so that rows can be written in any order; `about` becomes uns["ds2c"] as JSON.
    """
    table = anndata.AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(list(genes))), obsm=obsm)
    table.uns[schema.UNS] = json.dumps(about)
    table.write_h5ad(path)
    names = {"X": "X", schema.LAYER_SPOT_SHARE: f"layers/{schema.LAYER_SPOT_SHARE}"}
    if spread:
        names[schema.LAYER_SD] = f"layers/{schema.LAYER_SD}"
    if counts:
        names[schema.LAYER_COUNTS] = f"layers/{schema.LAYER_COUNTS}"
    shape = (len(obs), len(genes))
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    offsets = {}
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        file.require_group("layers")
        for key, name in names.items():
            space = h5py.h5s.create_simple(shape)
            dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, dcpl=early)
            h5py.Dataset(dataset).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            offsets[key] = dataset.get_offset()
    return {key: np.memmap(path, "<f4", "r+", offset, shape) for key, offset in offsets.items()}


def write_column(path: Path, name: str, values: np.ndarray) -> None:
    """Write numbers (cells,) into a column of `obs` that `create_predictions` was given."""
    with h5py.File(path, "r+") as file:
        file[f"obs/{name}"][:] = values


class PredictionFile:
    """A prediction on disk: its genes, cells, provenance, and rows of `spot_share` or of shares on demand."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"there are no predictions {path}", "Run `ds2c predict` first.")
        try:
            table = anndata.read_h5ad(path, backed="r")
            self.about: dict[str, Any] = json.loads(table.uns[schema.UNS])
            self.genes, self.cell_id = list(table.var_names), table.obs_names.to_numpy()
            table.file.close()
            self._file = h5py.File(path, "r")
            self._x, self._share = self._file["X"], self._file[f"layers/{schema.LAYER_SPOT_SHARE}"]
            version = self.about["version"]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} is no prediction of ds2c ({error})", "Run `ds2c predict` again.") from error
        if version != schema.PREDICTION_VERSION:
            raise InputError(
                f"{path} is of version {version}, this ds2c reads {schema.PREDICTION_VERSION}",
                "Run `ds2c predict` again, or use the ds2c that wrote it.",
            )

    def spot_share(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) float32 of these cells (n,), in any order."""
        unique, inverse = np.unique(rows, return_inverse=True)
        return self._share[unique][inverse]

    def share(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) float32 counts per 10,000 of the spot of these cells (n,), in any order; they add up."""
        unique, inverse = np.unique(rows, return_inverse=True)
        return np.expm1(self._x[unique][inverse]) * self._file[f"obs/{schema.OF_SPOT}"][:][rows, None]


def recorded_recipe(path: Path) -> str | None:
    """What a prediction was made from; empty for a file that is no prediction, None when there is none."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file[f"uns/{schema.UNS}"][()])["recipe"]
    except (OSError, KeyError, TypeError, ValueError):
        return ""
