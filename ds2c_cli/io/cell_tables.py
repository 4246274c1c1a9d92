"""Cells of tables: CSV, TSV or Parquet of vertices, boxes or centroids, GeoParquet, and AnnData with centroids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from ..errors import InputError
from .counts import open_anndata
from .outlines import AT_ONCE, Found, polygons
from .spots import CENTRES
from .tables import column_names, find_columns, identifiers, no_columns, numbers, read_columns, readable

# Groups of columns, the most telling first. A sized box has x, y at its upper left corner.
VERTEX = ("vertex_x", "vertex_y")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"))
SIZED = ("x", "y", "width", "height")
CENTROIDS = (
    *CENTRES[:-1],
    ("x_centroid", "y_centroid"),
    ("centroid_x", "centroid_y"),
    ("centroid_x_px", "centroid_y_px"),
    CENTRES[-1],
)
ID_COLUMNS = (("cell_id",), ("id",), ("object_id",), ("barcode",), ("index",), ("unnamed:_0",), ("",))


def read_cell_table(path: Path) -> tuple[Found, np.ndarray]:
    """Read a CSV, TSV or Parquet of geometries, vertices, boxes or centroids."""
    header = column_names(path)
    geometry, index = _parquet_columns(path) if path.suffix.lower() == ".parquet" else ("", "")
    id_column = find_columns(header, (*ID_COLUMNS, (index,)) if index else ID_COLUMNS)
    vertex, corners, sized = (find_columns(header, group) for group in ([VERTEX], CORNERS, [SIZED]))
    if vertex and not geometry:
        return read_vertices(path, header=header, id_column=id_column, vertex=vertex)
    columns = (geometry,) if geometry else corners or sized or find_columns(header, CENTROIDS)
    if not columns:
        raise no_columns(path, header, what="cells", candidates=(VERTEX, *CORNERS, SIZED, *CENTROIDS))
    if "transcript_counts" in header and columns == ("x_centroid", "y_centroid"):
        raise InputError(
            f"{path} is the cell table of a Xenium run, whose centroids are in microns",
            "Give the run's folder with --xenium, or centroids in level-0 pixels as x_pixel, y_pixel.",
        )
    frame = read_columns(path, [*id_column, *columns])
    cell_id = identifiers(path, frame[id_column[0]] if id_column else np.arange(len(frame)), noun="cell")
    found = Found(path, cell_id, np.arange(1, len(frame) + 1))
    if geometry:
        with readable(path, "WKB geometries"), np.errstate(invalid="ignore"):  # NaN is refused with its cell
            return found, shapely.from_wkb(frame[geometry].to_numpy(object))
    values = [numbers(path, frame, column=column, ids=cell_id, noun="cell") for column in columns]
    if len(columns) == 2:
        return found, shapely.points(*values)
    x0, y0, x1, y1 = values if corners else (*values[:2], values[0] + values[2], values[1] + values[3])
    flat = np.flatnonzero((x1 <= x0) | (y1 <= y0))
    found.refuse(flat, "is a box without width or height", hint=f"Its columns are {', '.join(columns)}.")
    return found, shapely.box(x0, y0, x1, y1)


def _parquet_columns(path: Path) -> tuple[str, str]:
    """Find the column of WKB and that of pandas' index; empty where there is none.

    That of WKB is the primary one of a GeoParquet, else a binary `geometry`.
    """
    with readable(path, "Parquet"):
        schema = pq.read_schema(path)
        primary = json.loads((schema.metadata or {}).get(b"geo", b"{}")).get("primary_column", "geometry")
    index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    if primary in schema.names:
        kind = schema.field(primary).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{path} has its geometries as {kind}, not as WKB", "Write the table with geopandas' to_parquet."
            )
    return primary if primary in schema.names else "", index[0] if index else ""


def read_vertices(
    path: Path, *, header: list[str], id_column: tuple[str, ...], vertex: tuple[str, ...]
) -> tuple[Found, np.ndarray]:
    """Xenium's long form: one row a vertex; a cell's vertices are in row order, even where its rows are apart."""
    if not id_column:
        raise no_columns(path, header, what="the vertices' cells", candidates=ID_COLUMNS[:2])
    label = find_columns(header, [("label_id",)])  # newer Xenium: one label a nucleus, several in a cell
    frame = read_columns(path, [*id_column, *label, *vertex])
    cell, names = pd.factorize(frame[id_column[0]], use_na_sentinel=False)
    found = Found(path, identifiers(path, names, noun="cell"), np.unique(cell, return_index=True)[1] + 1)
    xy = np.column_stack(
        [numbers(path, frame, column=column, ids=found.cell_id[cell], noun="cell") for column in vertex]
    )
    piece = pd.factorize(frame[label[0]])[0] if label else None
    del frame
    if (np.diff(cell) < 0).any():
        order = np.argsort(cell, kind="stable")
        cell, xy, piece = cell[order], xy[order], piece[order] if piece is not None else None
    begin = np.searchsorted(cell, np.arange(len(names) + 1))
    outline = []
    for first in range(0, len(names), AT_ONCE):
        cells = slice(first, first + AT_ONCE)
        rows = slice(begin[first], begin[min(cells.stop, len(names))])
        pieces = piece[rows] if piece is not None else None
        outline.append(_pieces_of(found.only(cells), xy=xy[rows], cell=cell[rows] - first, piece=pieces))
    return found, np.concatenate(outline) if outline else np.empty(0, object)


def _pieces_of(found: Found, *, xy: np.ndarray, cell: np.ndarray, piece: np.ndarray | None) -> np.ndarray:
    """Outlines (n,) of vertices xy (v, 2) whose cell (v,) ascends; a cell has a polygon for each label `piece` (v,)."""
    piece = _closings(xy, cell) if piece is None else piece
    order = np.lexsort((piece, cell))
    cell, piece = cell[order], piece[order]
    begins = np.flatnonzero((np.diff(cell, prepend=-1) != 0) | (np.diff(piece, prepend=-1) != 0))
    ring = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(cell)))
    return polygons(found, xy[order], ring=ring, part=np.arange(len(begins)), cell=cell[begins])


def _closings(xy: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """How many rings of its cell (v,) are closed before each vertex (v, 2): a ring ends where it is back at its start.

    Early Xenium 2.0 writes the nuclei of a cell one after another without a label.
    """
    piece = np.zeros(len(xy), np.int64)
    begin = np.searchsorted(cell, np.arange(cell.max(initial=-1) + 2))
    back = (xy == xy[begin[cell]]).all(1)  # where its cell began
    for several in np.flatnonzero(np.bincount(cell[back], minlength=len(begin) - 1) > 2):
        number, start = 0, None
        for row in range(begin[several], begin[several + 1]):
            piece[row] = number
            if start is None:
                start = xy[row]
            elif (xy[row] == start).all():
                number, start = number + 1, None
    return piece


def read_cell_anndata(path: Path) -> tuple[Found, np.ndarray]:
    """Centroids of an AnnData: pixel columns of obs (HEST has x_pixel, y_pixel), else obsm["spatial"]."""
    data = open_anndata(path, backed="r")  # the counts stay on disk
    data.file.close()
    cell_id = identifiers(path, data.obs_names, noun="cell")
    found = Found(path, cell_id, np.arange(1, len(cell_id) + 1))
    columns = find_columns(list(data.obs.columns), CENTRES[:-1])
    if columns:
        return found, shapely.points(
            *(numbers(path, data.obs, column=column, ids=cell_id, noun="cell") for column in columns)
        )
    if "spatial" not in data.obsm:
        raise no_columns(
            path, list(data.obs.columns), what='cells in obs, nor obsm["spatial"]', candidates=CENTRES[:-1]
        )
    spatial = np.asarray(data.obsm["spatial"])
    if spatial.ndim != 2 or spatial.shape[1] < 2:
        raise InputError(f'{path} has obsm["spatial"] of shape {spatial.shape}', "It has a row of x, y for each cell.")
    return found, shapely.points(spatial[:, :2].astype(np.float64))
