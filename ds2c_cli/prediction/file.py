"""Keep predictions as AnnData: matrices are written and read a few cells at a time, never whole in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from .. import schema
from ..errors import InputError
from ..files import parse_record
from ..records import PredictionInfo

LAYERS = (schema.LAYER_SPOT_SHARE, schema.LAYER_COUNTS, schema.LAYER_SD)


@dataclass(frozen=True)
class MatrixOnDisk:
    """A matrix (cells, genes) float32 of a file, of which rows are written in any order.

    Not through a memory map: its pages count as the process's memory, and a full disk would kill it.
    """

    file: int  # descriptor
    offset: int
    genes: int

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write values (n, genes) as these rows (n,); raises OSError when the disk is full."""
        order = np.argsort(rows)
        runs = np.flatnonzero(np.diff(rows[order]) != 1) + 1  # neighbouring rows are one write
        for run in np.split(order, runs) if len(order) else ():
            content = np.ascontiguousarray(values[run], "<f4").tobytes()
            at = self.offset + int(rows[run[0]]) * self.genes * 4
            while content:
                written = os.pwrite(self.file, content, at)
                content, at = content[written:], at + written


@contextmanager
def create_predictions(
    path: Path,
    obs: pd.DataFrame,
    *,
    genes: Sequence[str],
    obsm: dict[str, np.ndarray],
    info: PredictionInfo,
    counts: bool,
    predictive_sd: bool = False,
) -> Iterator[dict[str, MatrixOnDisk]]:
    """Make an h5ad with empty matrices, to be written in any order of rows: they are contiguous in the file.

    Args:
        path: The file.
        obs: The cells.
        genes: Names of the columns.
        obsm: Where the cells are.
        info: Becomes uns["ds2c"] as JSON.
        counts: Whether there is a matrix of counts.
        predictive_sd: Whether there is one of the SD of `spot_share`.

    Yields:
        The matrices: `X`, `spot_share` and, where asked for, `counts` and `spot_share_sd`.
    """
    table = anndata.AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(list(genes))), obsm=obsm)
    table.uns[schema.UNS] = json.dumps(info.document())
    table.write_h5ad(path)
    names = {"X": "X", schema.LAYER_SPOT_SHARE: f"layers/{schema.LAYER_SPOT_SHARE}"}
    if predictive_sd:
        names[schema.LAYER_SD] = f"layers/{schema.LAYER_SD}"
    if counts:
        names[schema.LAYER_COUNTS] = f"layers/{schema.LAYER_COUNTS}"
    shape = (len(obs), len(genes))
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    offsets = {}
    with h5py.File(path, "r+") as tables:
        if "X" in tables:
            del tables["X"]
        tables.require_group("layers")
        for key, name in names.items():
            space = h5py.h5s.create_simple(shape)
            dataset = h5py.h5d.create(tables.id, name.encode(), h5py.h5t.IEEE_F32LE, space, dcpl=early)
            h5py.Dataset(dataset).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            offsets[key] = dataset.get_offset()
    with path.open("r+b", buffering=0) as file:
        yield {key: MatrixOnDisk(file.fileno(), offset, len(genes)) for key, offset in offsets.items()}


def write_column(path: Path, name: str, values: np.ndarray) -> None:
    """Write numbers (cells,) into a column of `obs` that `create_predictions` was given."""
    with h5py.File(path, "r+") as file:
        file[f"obs/{name}"][:] = values


class PredictionFile:
    """A prediction on disk: its genes, cells, provenance, and rows of its matrices on demand."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"there are no predictions {path}", "Run `ds2c predict` first.")
        self.path = path
        try:
            self._file = h5py.File(path, "r")
            # Element by element: anndata's backed mode would read the layers.
            obs, var, self.obsm, self.uns = (read_elem(self._file[name]) for name in ("obs", "var", "obsm", "uns"))
            text: str = self.uns[schema.UNS]
            self.obs: pd.DataFrame = obs
            self.genes, self.cell_id = list(var.index), obs.index.to_numpy()
            self._share = self._file[f"layers/{schema.LAYER_SPOT_SHARE}"]
            version = json.loads(text)["version"]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} is no prediction of ds2c ({error})", "Run `ds2c predict` again.") from error
        if version != schema.PREDICTION_VERSION:
            raise InputError(
                f"{path} is of version {version}, this ds2c reads {schema.PREDICTION_VERSION}",
                "Run `ds2c predict` again, or use the ds2c that wrote it.",
            )
        self.info = parse_record(PredictionInfo, text, where=str(path), hint="Run `ds2c predict` again.")

    def spot_share(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) float32 of these cells (n,), in any order."""
        unique, inverse = np.unique(rows, return_inverse=True)
        return self._share[unique][inverse]

    def share(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) float32 counts per 10,000 of the spot of these cells (n,), in any order; they add up."""
        unique, inverse = np.unique(rows, return_inverse=True)
        return np.expm1(self._matrix("X")[unique][inverse]) * self.obs[schema.OF_SPOT].to_numpy()[rows, None]

    @property
    def matrices(self) -> list[str]:
        """Name those there are: X and some of the layers."""
        return ["X", *(name for name in LAYERS if name in self._file["layers"])]

    def block(self, matrix: str, begin: int, end: int) -> np.ndarray:
        """(end - begin, genes) of one of the `matrices`; raises InputError where other software stored it sparse."""
        return self._matrix(matrix)[begin:end]

    def gene(self, matrix: str, gene: str) -> np.ndarray:
        """(cells,) of one of the `genes`, likewise."""
        return self._matrix(matrix)[:, self.genes.index(gene)]

    def _matrix(self, name: str) -> h5py.Dataset:
        found = self._file.get("X" if name == "X" else f"layers/{name}")
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"{self.path} has no dense matrix {name}", "Give the file that `ds2c predict` wrote.")
        return found


def read_prediction(path: Path) -> anndata.AnnData:
    """Read a prediction whole, into memory.

    Returns:
        Cells x genes: `X` and `layers` as docs/formats.md says, places in `obsm`, and in `uns["ds2c"]` what it was made
        from, as JSON.

    Raises:
        InputError: There is no such file, or it is no prediction of this version.
    """
    PredictionFile(path)
    return anndata.read_h5ad(path)


def recorded_recipe(path: Path) -> str | None:
    """Read what a prediction was made from; empty for a file that is no prediction, None when there is none."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file[f"uns/{schema.UNS}"][()])["recipe"]
    except (OSError, KeyError, TypeError, ValueError):
        return ""
