"""10x Genomics feature-barcode matrices: HDF5 of Cell Ranger 2 and later, and Matrix Market with its two lists."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.io import mmread

from ..errors import InputError
from .tables import listed, readable

GENES = "Gene Expression"  # the one feature type that is counts of a gene
FEATURE_LISTS = ("features.tsv", "genes.tsv")  # Cell Ranger 3 and later; 2 and earlier


@dataclass(frozen=True)
class FeatureMatrix:
    """Counts of genes as a file gives them, not yet checked to be counts."""

    barcodes: list[str]
    genes: list[str]  # symbols; of a symbol that several genes share, their ids
    matrix: sparse.csr_matrix  # (barcodes, genes)
    note: str  # what was left out or renamed, a sentence or nothing


def read_feature_matrix_h5(path: Path) -> FeatureMatrix:
    """Read a feature-barcode matrix in HDF5.

    It is the group `matrix` (Cell Ranger 3 on, Space Ranger, Xenium), or one group named after the genome (Cell
    Ranger 2).

    Raises InputError for a file of another layout, and for one of several genomes in Cell Ranger 2's.
    """
    with readable(path, "a feature-barcode matrix"), h5py.File(path, "r") as file:
        newer = "matrix" in file
        if not newer and len(file) != 1:
            raise InputError(
                f"{path} has the groups {listed(list(file))} and is not one feature-barcode matrix",
                "Give a filtered_feature_bc_matrix.h5 or cell_feature_matrix.h5; of several genomes save one.",
            )
        group = file["matrix"] if newer else file[next(iter(file))]
        features = group["features"] if newer else group
        ids = _texts(features["id" if newer else "genes"])
        names = _texts(features["name" if newer else "gene_names"])
        types = _texts(features["feature_type"]) if newer else [GENES] * len(ids)
        barcodes = _texts(group["barcodes"])
        # Stored by column, features x barcodes: the same numbers are barcodes x features by row.
        parts = tuple(group[name][()] for name in ("data", "indices", "indptr"))
        matrix = sparse.csr_matrix(parts, shape=(len(barcodes), len(ids)))
        matrix.check_format()
    return _of_genes(path, barcodes=barcodes, ids=ids, names=names, types=types, matrix=matrix)


def read_feature_matrix_mtx(path: Path) -> FeatureMatrix:
    """Read a matrix.mtx or matrix.mtx.gz with barcodes.tsv and features.tsv (or genes.tsv) beside it, packed or not.

    Raises InputError when a list is missing or is not as long as the matrix.
    """
    barcodes = _list_beside(path, ("barcodes.tsv",))
    features = _list_beside(path, FEATURE_LISTS)
    with readable(path, "a Matrix Market file"):
        matrix = sparse.csr_matrix(mmread(path).T)
    if matrix.shape != (len(barcodes), len(features)):
        raise InputError(
            f"{path} has {matrix.shape[1]:,} features and {matrix.shape[0]:,} barcodes, its lists {len(features):,} "
            f"and {len(barcodes):,}",
            "Give the three files of one run.",
        )
    columns = [features[column].tolist() if column in features else None for column in range(3)]
    ids = columns[0] or []
    return _of_genes(
        path,
        barcodes=barcodes[0].tolist(),
        ids=ids,
        names=columns[1] or ids,
        types=columns[2] or [GENES] * len(ids),
        matrix=matrix,
    )


def _of_genes(
    path: Path,
    *,
    barcodes: list[str],
    ids: list[str],
    names: list[str],
    types: Sequence[str],
    matrix: sparse.csr_matrix,
) -> FeatureMatrix:
    """Take the features that are genes, each with a name of its own."""
    kind = pd.Series(types, dtype=object)
    kept = np.flatnonzero(kind == GENES)
    if not len(kept):
        raise InputError(f"{path} has no features of type {GENES}, only {listed(kind.unique())}", "Give gene counts.")
    symbol = pd.Series(names, dtype=object).iloc[kept]
    shared = symbol.duplicated(keep=False)
    genes = symbol.where(~shared, pd.Series(ids, dtype=object).iloc[kept])
    notes = []
    if len(kept) < len(kind):
        others = kind[kind != GENES].value_counts()
        notes.append(f"left out {', '.join(f'{number:,} of {name}' for name, number in others.items())}")
    if shared.any():
        notes.append(f"{shared.sum():,} genes share a symbol and keep their ids ({listed(symbol[shared].unique(), 3)})")
    return FeatureMatrix(barcodes, genes.tolist(), matrix[:, kept], "; ".join(notes))


def _texts(dataset: h5py.Dataset) -> list[str]:
    return dataset.asstr()[()].tolist()


def _list_beside(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """One of the lists of a Matrix Market folder, (rows, columns) of text."""
    prefix = path.name.split("matrix.mtx")[0]  # GEO puts the sample's name before all three
    candidates = [path.with_name(f"{prefix}{name}{packed}") for name in names for packed in (".gz", "")]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(
            f"{path.parent} has no {prefix}{names[0]} or {prefix}{names[0]}.gz", "Keep the three files together."
        )
    opener = gzip.open if found.suffix == ".gz" else open
    with readable(found, "a list"), opener(found, "rt", encoding="utf-8") as text:
        return pd.DataFrame([line.rstrip("\r\n").split("\t") for line in text])
