"""Transcript tables of Xenium and of HEST: one row a molecule, read a million at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from scipy import sparse

from ..errors import InputError
from ..expression import is_control
from ..geometry import disc_of
from .counts import Counts
from .tables import column_names, identifiers, listed, open_delimited, readable

LOWEST_QUALITY = 20.0  # Phred-scaled; what Xenium's own matrix keeps
MICRONS = ("x_location", "y_location")  # Xenium's own columns
PIXELS = ("he_x", "he_y")  # HEST's, level-0 pixels of the slide
AT_ONCE = 1 << 20
NO_CELL = ("UNASSIGNED", "-1", "")  # new and old Xenium


@dataclass(frozen=True)
class Transcripts:
    """Transcripts of genes at the quality that counts, some at a time."""

    gene: np.ndarray  # (n,) int32 index of `genes`
    genes: np.ndarray  # (g,) str
    xy: np.ndarray  # (n, 2) float64 in the columns' unit
    cell: pd.Categorical | None  # (n,) str


def read_transcripts(path: Path, columns: tuple[str, str], *, cells: bool = False) -> Iterator[Transcripts]:
    """Transcripts of a .parquet, .csv or .csv.gz whose qv is at least 20 and which are of genes (is_gene where the file
    has it, else by name); `columns` are those of x and y, `cells` asks for the cell each is in.

    Raises InputError for a file without these columns.
    """
    header = column_names(path)
    wanted = ["feature_name", *columns, *(["cell_id"] if cells else [])]
    absent = [name for name in wanted if name not in header]
    if absent:
        raise InputError(
            f"{path} has no column {listed(absent)}: found {listed(header, 20)}", "Give the run's own file."
        )
    wanted += [name for name in ("qv", "is_gene") if name in header]
    for batch in _batches(path, wanted):
        kept = np.ones(len(batch), bool)
        if "qv" in wanted:
            kept &= pc.cast(batch["qv"], pa.float64()).to_numpy(zero_copy_only=False) >= LOWEST_QUALITY
        if "is_gene" in wanted:
            kept &= pc.cast(batch["is_gene"], pa.bool_()).to_numpy(zero_copy_only=False)
        batch = batch.filter(pa.array(kept))
        if not len(batch):
            continue
        gene = pc.dictionary_encode(batch["feature_name"])
        genes = identifiers(path, gene.dictionary.to_pylist(), noun="gene")
        real = ~is_control(list(genes))[gene.indices.to_numpy(zero_copy_only=False)]
        xy = np.column_stack([pc.cast(batch[name], pa.float64()).to_numpy(zero_copy_only=False) for name in columns])
        cell = None
        if cells:
            code = pc.dictionary_encode(batch["cell_id"])
            names = identifiers(path, code.dictionary.to_pylist(), noun="transcript's cell")
            cell = pd.Categorical.from_codes(code.indices.to_numpy(zero_copy_only=False)[real], pd.Index(names))
        yield Transcripts(gene.indices.to_numpy(zero_copy_only=False)[real].astype(np.int32), genes, xy[real], cell)


def count_in_spots(
    batches: Iterator[Transcripts], spots: np.ndarray, *, radius: float, spot_id: np.ndarray, genes: np.ndarray
) -> tuple[Counts, int]:
    """Count the transcripts of some genes within `radius` of a spot (n, 2), and how many there are of other features.

    Whatever cell they are in; spots and xy are in one unit.
    """
    tally = _Tally(spot_id)
    for batch in batches:
        tally.add(disc_of(batch.xy, spots, radius), batch)
    all_genes = tally.counts()
    place = pd.Index(all_genes.genes).get_indexer(pd.Index(genes))
    empty = sparse.csr_matrix(np.zeros((len(spot_id), 1), np.int32))  # column -1: a gene without transcripts
    matrix = sparse.hstack([all_genes.matrix, empty], format="csr")[:, place].tocsr()
    matrix.sort_indices()
    return Counts(spot_id, genes, matrix), int(all_genes.matrix.sum() - matrix.sum())


def count_in_cells(batches: Iterator[Transcripts], cell_id: np.ndarray) -> tuple[Counts, int]:
    """Count the transcripts assigned to each cell (n,) str; and how many are of cells that are not among them."""
    tally, index, strangers = _Tally(cell_id), pd.Index(cell_id), 0
    for batch in batches:
        assert batch.cell is not None
        names = batch.cell.categories
        number = np.bincount(batch.cell.codes, minlength=len(names))
        row_of = index.get_indexer(names)
        strangers += int(number[(row_of < 0) & ~names.isin(NO_CELL)].sum())
        tally.add(row_of[batch.cell.codes], batch)
    return tally.counts(), strangers


class _Tally:
    """Counts that grow batch by batch, and in genes as these are met."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids
        self._genes: list[str] = []
        self._matrix = sparse.csr_matrix(np.empty((len(ids), 0), np.int32))

    def add(self, row: np.ndarray, batch: Transcripts) -> None:
        """Count each transcript of a batch in its row (n,); -1 is none."""
        place = pd.Index(self._genes).get_indexer(pd.Index(batch.genes))
        new = np.flatnonzero(place < 0)
        place[new] = len(self._genes) + np.arange(len(new))
        self._genes += batch.genes[new].tolist()
        shape = (len(self._ids), len(self._genes))
        counted = row >= 0
        entries = (np.ones(counted.sum(), np.int32), (row[counted], place[batch.gene[counted]]))
        grown = (self._matrix.data, self._matrix.indices, self._matrix.indptr)
        self._matrix = sparse.csr_matrix(grown, shape=shape) + sparse.coo_matrix(entries, shape=shape).tocsr()

    def counts(self) -> Counts:
        """All counts, genes in alphabetical order; those never met in a row are left out."""
        met = np.flatnonzero(self._matrix.getnnz(axis=0))
        genes = np.array(self._genes, object)
        order = met[np.argsort(genes[met])]
        matrix = self._matrix[:, order].tocsr()
        matrix.sort_indices()
        return Counts(self._ids, genes[order], matrix)


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with readable(path, "transcripts"):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(AT_ONCE, columns=columns)
            return
        stream, parse_options = open_delimited(path)
        convert = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types={"feature_name": pa.string(), "cell_id": pa.string()}
        )
        read = pyarrow.csv.ReadOptions(block_size=AT_ONCE * 32)
        yield from pyarrow.csv.open_csv(stream, read, parse_options, convert)
