"""Long tables: a row for each cell and gene, as CSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .. import schema
from ..progress import Progress
from .formats import Export

ROW_GROUP = 1 << 20  # rows at a time
SAMPLED = 20  # cells whose text tells how large a table becomes


def write_parquet(path: Path, export: Export, progress: Progress) -> None:
    """Columns cell_id, gene, then X, spot_share and counts where they are (null where not measured), cell by cell."""
    table_schema = _columns(export).with_metadata({schema.UNS: json.dumps(export.about)})
    with pq.ParquetWriter(path, table_schema, compression="zstd") as writer:
        for batch in _batches(export, progress):
            writer.write_batch(batch, row_group_size=ROW_GROUP)


def write_csv(path: Path, export: Export, progress: Progress, compressed: bool = False) -> None:
    """The same columns as text; what was not measured is empty."""
    with pa.output_stream(path, compression="gzip" if compressed else None) as stream:
        for text in _csv(export, progress):
            stream.write(text)


def equals_csv(path: Path, export: Export, *, progress: Progress, compressed: bool = False) -> bool:
    """Whether a CSV, which has no room to say what it was made from, holds what `write_csv` would write."""
    try:
        with pa.input_stream(path, compression="gzip" if compressed else None) as stream:
            return all(stream.read(len(text)) == text for text in _csv(export, progress)) and not stream.read(1)
    except OSError:  # not compressed, or cut short
        return False


def parquet_made_from(path: Path) -> str:
    """The recipe in a Parquet's metadata; empty where there is none."""
    try:
        return str(json.loads((pq.read_schema(path).metadata or {})[schema.UNS.encode()])["recipe"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return ""


def weigh_parquet(export: Export) -> int:
    """About how many bytes the Parquet would have: the values hardly compress."""
    return 4 * len(export.matrices) * len(export) * len(export.genes)


def weigh_csv(export: Export) -> int:
    """About how many bytes the CSV would have, by its first cells."""
    cells = min(SAMPLED, len(export))
    return len(_text(_batch(export, 0, end=cells, columns=_columns(export)))) * len(export) // cells


def _columns(export: Export) -> pa.Schema:
    names = pa.dictionary(pa.int32(), pa.string())
    values = [(key, pa.from_numpy_dtype(rows(0, 1).dtype)) for key, rows in export.matrices.items()]
    return pa.schema([("cell_id", names), ("gene", names), *values])


def _batches(export: Export, progress: Progress) -> Iterator[pa.RecordBatch]:
    columns = _columns(export)
    for begin, end in export.blocks(max(1, ROW_GROUP // len(export.genes))):
        yield _batch(export, begin, end=end, columns=columns)
        progress(f"export {export.name}", end, len(export), "")


def _batch(export: Export, begin: int, *, end: int, columns: pa.Schema) -> pa.RecordBatch:
    cells, genes = end - begin, len(export.genes)
    cell, gene = np.repeat(np.arange(cells, dtype=np.int32), genes), np.tile(np.arange(genes, dtype=np.int32), cells)
    ids = pa.array(export.obs.index[begin:end].to_numpy(object), pa.string())
    arrays = [
        pa.DictionaryArray.from_arrays(cell, ids),
        pa.DictionaryArray.from_arrays(gene, pa.array(export.genes, pa.string())),
        # A value that was not measured is NaN in a prediction.
        *(pa.array(rows(begin, end).ravel(), from_pandas=True) for rows in export.matrices.values()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _csv(export: Export, progress: Progress) -> Iterator[bytes]:
    columns = _columns(export)
    yield (",".join(columns.names) + "\n").encode()
    for batch in _batches(export, progress):
        yield _text(batch)


def _text(batch: pa.RecordBatch) -> bytes:
    """The rows of a batch without a header."""
    plain = pa.RecordBatch.from_arrays(
        [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns],
        names=batch.schema.names,
    )
    stream = pa.BufferOutputStream()
    pyarrow.csv.write_csv(plain, stream, pyarrow.csv.WriteOptions(include_header=False))
    return stream.getvalue().to_pybytes()
