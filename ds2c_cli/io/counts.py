"""Raw counts of cells or spots: AnnData, 10x matrices, delimited text and Parquet, checked to be counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from scipy import sparse

from ..errors import InputError
from .tables import (
    DELIMITERS,
    column_names,
    identifiers,
    listed,
    numbers,
    open_delimited,
    read_columns,
    readable,
    require_unique,
    suffix_of,
)
from .tenx import FeatureMatrix, read_feature_matrix_h5, read_feature_matrix_mtx

BLOCK_BYTES = 1 << 24  # of text at a time: a dense block of 15,000 genes stays below about 100 MB
LARGEST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Counts:
    """Raw counts in file order."""

    ids: np.ndarray  # (n,) str, unique: cell ids or spot ids
    genes: np.ndarray  # (g,) str, unique
    matrix: sparse.csr_matrix  # (n, g) int32, without stored zeros
    note: str = ""  # what the reader left out or renamed, a sentence or nothing


def read_counts(path: Path) -> Counts:
    """Read raw counts in any format that is known.

    A .h5ad (X, or layers["counts"] where X is not raw), a 10x feature-barcode matrix (.h5, or a matrix.mtx with its
    lists beside it), a delimited text with the row key in its first column and genes in its header, or a Parquet table
    with the row key in its index or first column of text.

    Raises InputError for what cannot be read, is empty, has an id or gene twice or missing, or holds a value that is
    no count (negative, fractional, missing): the first such value is named with its row and gene.
    """
    return READERS[suffix_of(path, READERS, what="counts")](path)


def open_anndata(path: Path, backed: Literal["r"] | None = None) -> anndata.AnnData:
    """Read an AnnData; with backed="r" its X stays in the file, which the caller closes.

    Raises InputError when it cannot be read.
    """
    with readable(path, "AnnData"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that are not unique: the readers make them an error
        return anndata.read_h5ad(path, backed=backed)


def counts_of(path: Path, data: anndata.AnnData) -> Counts:
    """Take the counts of an AnnData that was read from `path`; raises InputError as `read_counts` does."""
    matrices = [_csr(matrix) for matrix in (data.X, data.layers.get("counts")) if matrix is not None]
    if not matrices:
        raise InputError(f'{path} has neither X nor layers["counts"]', "Save the raw counts as X.")
    raw = next((matrix for matrix in matrices if not _not_counts(matrix.data).any()), matrices[0])
    return _checked(path, data.obs_names, genes=data.var_names, matrix=raw)


def _read_delimited(path: Path) -> Counts:
    header = column_names(path, "gene")
    if len(header) < 2:
        raise InputError(f"{path} has no genes in its header", "A .csv is read with commas and a .tsv with tabs.")
    key, genes = header[0], header[1:]
    ids: list[str] = []
    blocks = [sparse.csr_matrix((0, len(genes)))]
    with readable(path, "a table of counts"):
        stream, parse_options = open_delimited(path)
        try:
            batches = pyarrow.csv.open_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
                parse_options=parse_options,
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={key: pa.string()} | dict.fromkeys(genes, pa.float64()), null_values=[]
                ),
            )
            for batch in batches:
                ids += batch.column(0).to_pylist()
                blocks.append(sparse.csr_matrix(np.column_stack([gene.to_numpy() for gene in batch.columns[1:]])))
        except pa.ArrowInvalid as error:
            # Arrow says which column does not convert; which row is found by reading that column as text.
            found = re.search(r"In CSV column #(\d+):(?: Row #\d+:)? CSV conversion error", str(error))
            if found:
                column = header[int(found[1])]
                frame = read_columns(path, [key, column])
                numbers(path, frame, column=column, ids=frame[key].to_numpy(), noun="row key")
            raise
    return _checked(path, ids, genes=genes, matrix=sparse.vstack(blocks, format="csr"))


def _read_parquet(path: Path) -> Counts:
    column_names(path, "gene")
    with readable(path, "a Parquet table"):
        frame = pd.read_parquet(path)
    text = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    if isinstance(frame.index, pd.RangeIndex):
        if not text:
            raise InputError(f"{path} has no ids: no index and no column of text", "Save the ids as the index.")
        frame = frame.set_index(text.pop(0))
    if text:
        raise InputError(
            f"{path} has columns that are not numbers: {listed(text)}", "Keep the ids and the genes' counts only."
        )
    return _checked(path, frame.index, genes=frame.columns, matrix=_csr(frame.to_numpy()))


def _of_tenx(read: Callable[[Path], FeatureMatrix]) -> Callable[[Path], Counts]:
    def checked(path: Path) -> Counts:
        found = read(path)
        return replace(_checked(path, found.barcodes, genes=found.genes, matrix=_csr(found.matrix)), note=found.note)

    return checked


READERS: dict[str, Callable[[Path], Counts]] = {
    ".h5ad": lambda path: counts_of(path, open_anndata(path)),
    ".h5": _of_tenx(read_feature_matrix_h5),
    **dict.fromkeys((".mtx", ".mtx.gz"), _of_tenx(read_feature_matrix_mtx)),
    **dict.fromkeys(DELIMITERS, _read_delimited),
    ".parquet": _read_parquet,
}


def _csr(matrix: np.ndarray | sparse.csr_matrix) -> sparse.csr_matrix:
    """Any matrix as CSR, entries that share a place summed."""
    rows = sparse.csr_matrix(matrix)
    rows.sum_duplicates()
    return rows


def _not_counts(values: np.ndarray) -> np.ndarray:
    """(k,) bool: not a whole number from 0 to what int32 holds; NaN fails every comparison."""
    with np.errstate(invalid="ignore"):  # infinity % 1
        return ~((values >= 0) & (values <= LARGEST) & (values % 1 == 0))


def _checked(
    path: Path, ids: pd.Index | list[str], *, genes: pd.Index | list[str], matrix: sparse.csr_matrix
) -> Counts:
    """Give counts, or the InputError that names what is wrong with them."""
    if not len(ids):
        raise InputError(f"{path} has no rows of counts", "Export the counts again.")
    if not len(genes):
        raise InputError(f"{path} has no genes", "Export the counts again.")
    row_ids, gene_names = identifiers(path, ids, noun="row"), identifiers(path, genes, noun="gene")
    require_unique(path, row_ids, noun="row key")
    require_unique(path, gene_names, noun="gene")
    bad = np.flatnonzero(_not_counts(matrix.data))
    if bad.size:
        row = int(np.searchsorted(matrix.indptr, bad[0], "right")) - 1
        value = matrix.data[bad[0]]
        raise InputError(
            f"{path}: the count of gene {gene_names[matrix.indices[bad[0]]]} in {row_ids[row]}, row {row + 1}, "
            f"is {value}, {_reason(float(value))} ({bad.size:,} such values)",
            'Raw counts are needed; in a .h5ad they are X or layers["counts"].',
        )
    matrix = matrix.astype(np.int32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return Counts(row_ids, gene_names, matrix)


def _reason(value: float) -> str:
    """Why a value is not a count."""
    if np.isnan(value):
        return "a missing value"
    if value < 0:
        return "a negative number"
    return "more than 32 bits hold" if value > LARGEST else "not a whole number"
