"""Tables of spots, cells or counts (CSV, TSV, Parquet): how every one is opened, read and checked."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import InputError

DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
TABLES = (*DELIMITERS, ".parquet")
MICRONS = re.compile(r"(_[uµμ]m|microns?)$")  # both code points of the micro sign are in use
SHOWN = 5  # names an error lists before "and n more"


def suffix_of(path: Path, known: Collection[str], *, what: str) -> str:
    """Which of the known suffixes a file has, whatever its case; the longest that fits.

    Raises InputError when there is no such file or no suffix fits.
    """
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {problem}", f"Give the file of the {what}.")
    fitting = [suffix for suffix in known if path.name.lower().endswith(suffix)]
    if not fitting:
        raise InputError(f"{path} has a suffix that {what} are not read from", f"Known: {', '.join(known)}.")
    return max(fitting, key=len)


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reading library raises, and libraries raise anything, into one sentence about the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} cannot be read as {what}: {reason}", "The file may be cut short; copy or export it again."
        ) from error


def column_names(path: Path, noun: str = "column") -> list[str]:
    """Read the header of a table, by its suffix.

    Raises InputError when it cannot be read or has a name twice; `noun` is what a column holds.
    """
    suffix = suffix_of(path, TABLES, what="tables")
    with readable(path, "a table"):
        if suffix == ".parquet":
            names = list(pq.read_schema(path).names)
        else:
            opener = gzip.open if suffix.endswith(".gz") else open
            with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
                names = next(csv.reader(lines, delimiter=DELIMITERS[suffix]), [])
    require_unique(path, np.array(names, object), noun=noun)
    return names


def open_delimited(path: Path) -> tuple[pa.NativeFile, pyarrow.csv.ParseOptions]:
    """Open a CSV or TSV as pyarrow.csv takes it: its decompressed bytes and its delimiter, by its suffix."""
    suffix = suffix_of(path, DELIMITERS, what="tables")
    stream = pa.input_stream(path, compression="gzip" if suffix.endswith(".gz") else None)
    return stream, pyarrow.csv.ParseOptions(delimiter=DELIMITERS[suffix])


def read_columns(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a table, (rows, columns); those of CSV and TSV are text, so that an id 007 stays 007.

    Raises InputError when the file is cut short or a row has too few or too many fields.
    """
    suffix = suffix_of(path, TABLES, what="tables")
    with readable(path, "a table"):
        if suffix == ".parquet":
            # Without pandas' own metadata: an index is a column like the others here.
            table = pq.read_table(path, columns=list(columns)).replace_schema_metadata(None)
            return table.to_pandas(split_blocks=True, self_destruct=True)  # never all of it twice
        stream, parse_options = open_delimited(path)
        return pyarrow.csv.read_csv(
            stream,
            parse_options=parse_options,
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        ).to_pandas()


def find_columns(header: Sequence[str], candidates: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """Find the header's own spelling of the first group of columns it has in full, () without one.

    Case and spaces do not matter: "Centroid X px" is centroid_x_px.
    """
    spelled = {_plain(name): name for name in reversed(header)} | {name: name for name in header}
    for group in candidates:
        if all(name in spelled for name in group):
            return tuple(spelled[name] for name in group)
    return ()


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def no_columns(path: Path, header: Sequence[str], *, what: str, candidates: Collection[tuple[str, ...]]) -> InputError:
    """Make the error for a table that has none of the groups of columns; microns are told apart from nothing."""
    microns = [name for name in header if MICRONS.search(_plain(name))]
    if microns:
        return InputError(
            f"{path} has columns in microns ({listed(microns)}) and none of {what} in level-0 pixels",
            "Divide by the slide's microns per pixel and name the columns x_pixel, y_pixel.",
        )
    expected = "; or ".join(", ".join(group) for group in candidates)
    return InputError(f"{path} has no columns of {what}: found {listed(header, 20)}", f"Expected {expected}.")


def numbers(path: Path, frame: pd.DataFrame, *, column: str, ids: np.ndarray, noun: str) -> np.ndarray:
    """Read a column as (n,) float64.

    Raises InputError that names the first value that is not a finite number, with its id and row.
    """
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row = int(bad[0])
        value = frame[column].iloc[[row]].tolist()[0]  # a plain float or str, for its repr
        raise InputError(
            f"{path}: {column} of {noun} {ids[row]}, row {row + 1}, is {value!r}, "
            f"not a finite number ({bad.size:,} of {len(values):,} rows)",
            "Correct the value, or take the row out if the measurement is missing.",
        )
    return values


def identifiers(path: Path, values: Sequence[object] | np.ndarray | pd.Series | pd.Index, *, noun: str) -> np.ndarray:
    """Ids as an (n,) object array of str: bytes are decoded, whole floats lose their ".0".

    Raises InputError for a missing or empty id.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 == 0).all():
        values = values.astype(np.int64)  # integers that once shared their column with a missing value
    text = np.empty(len(values), object)
    text[:] = [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        for value in values.tolist()
    ]
    missing = np.flatnonzero(pd.isna(values) | (text == ""))
    if missing.size:
        raise InputError(f"{path}: {noun} {missing[0] + 1} of {len(values):,} has no id", f"Give every {noun} an id.")
    return text


def require_unique(path: Path, ids: np.ndarray, *, noun: str) -> None:
    """Raise InputError that lists the ids (n,) which appear more than once."""
    repeated = pd.unique(ids[pd.Series(ids, dtype=object).duplicated()])
    if len(repeated):
        raise InputError(
            f"{path} has the same {noun} more than once: {listed(repeated)}", f"Give every {noun} a name of its own."
        )


def listed(names: Sequence[str] | np.ndarray, shown: int = SHOWN) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = len(names) - shown
    first = ", ".join(str(name) or '""' for name in names[:shown]) or "nothing"
    return first + (f" and {more:,} more" if more > 0 else "")
