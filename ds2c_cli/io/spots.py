"""Spot tables: which columns are the spots' centres, ids and tissue flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError, UsageError
from .tables import (
    TABLES,
    column_names,
    find_columns,
    identifiers,
    listed,
    no_columns,
    numbers,
    read_columns,
    require_unique,
    suffix_of,
)

# Columns of the centre in level-0 pixels, the explicit names first; the last pair is all that plain tables have.
CENTRES = (("pixel_x", "pixel_y"), ("x_pixel", "y_pixel"), ("pxl_col_in_fullres", "pxl_row_in_fullres"), ("x", "y"))
ID_COLUMNS = (("spot_id",), ("barcode",), ("id",))
TISSUE_COLUMNS = (("in_tissue",), ("selected",))
FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True)
class SpotTable:
    """Spots as a file gives them, in file order; positions in level-0 pixels, x right, y down."""

    spot_id: np.ndarray  # (n,) str, unique
    x: np.ndarray  # (n,) float64 centre
    y: np.ndarray  # (n,) float64 centre
    in_tissue: np.ndarray  # (n,) bool

    @property
    def centres(self) -> np.ndarray:
        """Give x and y as (n, 2)."""
        return np.column_stack([self.x, self.y])

    def only(self, rows: np.ndarray) -> SpotTable:
        """Give some of the spots, in the order of `rows`."""
        return SpotTable(self.spot_id[rows], self.x[rows], self.y[rows], self.in_tissue[rows])


def read_spots(path: Path, *, x_column: str = "", y_column: str = "", id_column: str = "") -> SpotTable:
    """Spots of a CSV, TSV or Parquet table; empty column names are detected.

    The id is a column spot_id, barcode or id; in a legacy Spatial Transcriptomics table (array positions x, y beside
    pixel_x, pixel_y) it is "{x}x{y}"; else the first column of text. `in_tissue` (or `selected`) is 0 or 1, and
    without it every spot is on tissue.

    Raises UsageError when only one of x_column and y_column is given, InputError for everything the file lacks.
    """
    if bool(x_column) != bool(y_column):
        raise UsageError(
            f"only the {'x' if x_column else 'y'} column of the spots is named", "Name both columns, or neither."
        )
    suffix_of(path, TABLES, what="spots")
    header = column_names(path)
    for column in (x_column, y_column, id_column):
        if column and column not in header:
            raise InputError(f"{path} has no column {column!r}", f"It has {listed(header, 20)}.")
    centre = (x_column, y_column) if x_column else find_columns(header, CENTRES)
    if not centre:
        raise no_columns(path, header, what="spot centres", candidates=CENTRES)
    frame = read_columns(path, header)
    if frame.empty:
        raise InputError(f"{path} has no spots", "The table has a header and no rows; export it again.")
    ids = identifiers(path, _spot_ids(path, frame, centre=centre, id_column=id_column), noun="spot")
    require_unique(path, ids, noun="spot")
    x, y = (numbers(path, frame, column=column, ids=ids, noun="spot") for column in centre)
    return SpotTable(ids, x, y, _in_tissue(path, frame, ids=ids))


def _spot_ids(path: Path, frame: pd.DataFrame, *, centre: tuple[str, ...], id_column: str) -> pd.Series:
    """Give the spots' ids as the file has them, or composed of the array positions of a legacy table."""
    header = list(frame.columns)
    named = (id_column,) if id_column else find_columns(header, ID_COLUMNS)
    if named:
        return frame[named[0]]
    array = find_columns(header, [("x", "y")])
    if array and array != centre:
        rows = np.arange(1, len(frame) + 1).astype(str)
        column, row = (numbers(path, frame, column=name, ids=rows, noun="spot in row") for name in array)
        if (column % 1 == 0).all() and (row % 1 == 0).all():
            text = [pd.Series(values.astype(np.int64)).astype(str) for values in (column, row)]
            return text[0] + "x" + text[1]
    taken = {*centre, *(name for columns in TISSUE_COLUMNS for name in find_columns(header, [columns]))}
    for name in header:
        if name not in taken and pd.to_numeric(frame[name], errors="coerce").isna().all():
            return frame[name]
    raise InputError(
        f"{path} has no column of spot ids: found {listed(header, 20)}",
        "Name the column spot_id or barcode; its values are the row keys of the counts.",
    )


def _in_tissue(path: Path, frame: pd.DataFrame, *, ids: np.ndarray) -> np.ndarray:
    """(n,) bool from the table's own column, all True without one."""
    named = find_columns(list(frame.columns), TISSUE_COLUMNS)
    if not named:
        return np.ones(len(frame), bool)
    text = frame[named[0]].astype(str).str.strip().str.lower().str.removesuffix(".0")
    flags = text.map(FLAGS)
    if flags.isna().any():
        row = int(np.flatnonzero(flags.isna())[0])
        raise InputError(
            f"{path}: {named[0]} of spot {ids[row]}, row {row + 1}, is {frame[named[0]].iloc[row]!r}",
            "Write 1 for a spot on tissue and 0 for one beside it.",
        )
    return flags.to_numpy(bool)
