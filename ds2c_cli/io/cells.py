"""Segmented cells: outlines or centroids in level-0 pixels from tables, GeoJSON, label images and AnnData."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import tifffile
from PIL import Image
from shapely import GeometryType

from ..errors import InputError
from .counts import open_anndata
from .spots import CENTRES
from .tables import (
    DELIMITERS,
    column_names,
    find_columns,
    identifiers,
    listed,
    no_columns,
    numbers,
    read_columns,
    readable,
    require_unique,
    suffix_of,
)

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
LABEL_ARRAYS = ("inst_map", "labels", "masks")
KINDS = (GeometryType.POINT, GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
# Early QuPath wrote the kind of an object in the place of its id (LEGACY_TYPE_IDS of its reader).
QUPATH_KINDS = {"PathCellObject": "cell", "PathDetectionObject": "detection", "PathAnnotationObject": "annotation"}


@dataclass(frozen=True)
class Cells:
    """Cells as a file gives them, in file order."""

    cell_id: np.ndarray  # (n,) str, unique
    outline: np.ndarray  # (n,) shapely Polygon, MultiPolygon or Point in level-0 pixels, x right, y down
    extent: tuple[int, int] | None = None  # (width, height) of the label image they came from


@dataclass(frozen=True)
class _Found:
    """What a reader found, and where in the file each cell begins, so that an error can point there."""

    path: Path
    cell_id: np.ndarray  # (n,) as in the file
    row: np.ndarray  # (n,) counted from 1
    unit: str = "row"  # what `row` counts
    extent: tuple[int, int] | None = None

    def refuse(self, cells: np.ndarray, problem: str, hint: str) -> None:
        """Raise InputError that names the first of some cells, given by position (k,), if there is one."""
        if cells.size:
            place = f"cell {self.cell_id[cells[0]]}, {self.unit} {self.row[cells[0]]},"
            count = f" ({cells.size:,} such cells)" if cells.size > 1 else ""
            raise InputError(f"{self.path}: {place} {problem}{count}", hint)


def read_cells(path: Path) -> Cells:
    """Cells of a table (vertices, boxes, centroids or WKB), a GeoJSON, a label image or an AnnData.

    Cells without an id of their own are numbered from 0 in file order. Outlines that cross themselves are repaired
    and keep what area they have.

    Raises InputError for a file that cannot be read or has no cells, and for a cell with a repeated or missing id,
    a coordinate that is not finite, or an outline without area: with its id and row.
    """
    found, outline = READERS[suffix_of(path, READERS, "cells")](path)
    if not len(found.cell_id):
        raise InputError(f"{path} has no cells", "Segment the slide, or give the file that holds the cells.")
    require_unique(path, found.cell_id, "cell id")
    return Cells(found.cell_id, _repaired(found, outline), found.extent)


def _repaired(found: _Found, outline: np.ndarray) -> np.ndarray:
    """Valid outlines (n,) with an area, or points; InputError where that cannot be had."""
    xy, owner = shapely.get_coordinates(outline, return_index=True)
    infinite = np.unique(owner[~np.isfinite(xy).all(1)])
    found.refuse(infinite, "has a coordinate that is not a finite number", "Correct it, or take the cell out.")
    absent = shapely.is_missing(outline) | shapely.is_empty(outline)
    found.refuse(np.flatnonzero(absent), "has no outline", "Give it one, or take the cell out.")
    other = ~np.isin(shapely.get_type_id(outline), KINDS)
    found.refuse(np.flatnonzero(other), "is not a Polygon, MultiPolygon or Point", "Save its outline or its centroid.")
    outline = shapely.force_2d(outline)
    invalid = ~shapely.is_valid(outline)
    outline[invalid] = [_areas_of(repaired) for repaired in shapely.make_valid(outline[invalid])]
    flat = (shapely.get_type_id(outline) != GeometryType.POINT) & ~(shapely.area(outline) > 0)
    found.refuse(np.flatnonzero(flat), "has an outline without area", "It needs three vertices that are not on a line.")
    return outline


def _areas_of(geometry: shapely.Geometry) -> shapely.Geometry:
    """The polygons of a repaired outline: make_valid also returns the lines that some of it collapsed to."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # a collection may hold a MultiPolygon
    return shapely.union_all(parts[shapely.area(parts) > 0])


def _polygons(found: _Found, xy: np.ndarray, ring: np.ndarray, part: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Outlines (n,) of nested rings: vertices xy (v, 2), the ring of each vertex (v,), the polygon of each ring (its
    first is the shell), the cell of each polygon; all ascending from 0, several polygons make a MultiPolygon.
    """
    few = np.flatnonzero(np.bincount(ring, minlength=len(part)) < 3)
    found.refuse(
        np.unique(cell[part[few]]), "has a ring of fewer than 3 vertices", "Take the cell out, or segment it again."
    )
    with np.errstate(invalid="ignore"):  # NaN is refused with its cell
        polygon = shapely.polygons(shapely.linearrings(xy, indices=ring), indices=part)
    outline = polygon[np.unique(cell, return_index=True)[1]]
    several = np.bincount(cell) > 1
    member = several[cell]
    outline[several] = shapely.multipolygons(polygon[member], indices=np.unique(cell[member], return_inverse=True)[1])
    return outline


# Tables


def _read_table(path: Path) -> tuple[_Found, np.ndarray]:
    """A CSV, TSV or Parquet of geometries, vertices, boxes or centroids."""
    header = column_names(path)
    geometry, index = _parquet_columns(path) if path.suffix.lower() == ".parquet" else ("", "")
    id_column = find_columns(header, (*ID_COLUMNS, (index,)) if index else ID_COLUMNS)
    vertex, corners, sized = (find_columns(header, group) for group in ([VERTEX], CORNERS, [SIZED]))
    if vertex and not geometry:
        return _read_vertices(path, header, id_column, vertex)
    columns = (geometry,) if geometry else corners or sized or find_columns(header, CENTROIDS)
    if not columns:
        raise no_columns(path, header, "cells", (VERTEX, *CORNERS, SIZED, *CENTROIDS))
    if "transcript_counts" in header and columns == ("x_centroid", "y_centroid"):
        raise InputError(
            f"{path} is the cell table of a Xenium run, whose centroids are in microns",
            "Give the run's folder with --xenium, or centroids in level-0 pixels as x_pixel, y_pixel.",
        )
    frame = read_columns(path, [*id_column, *columns])
    cell_id = identifiers(path, frame[id_column[0]] if id_column else np.arange(len(frame)), "cell")
    found = _Found(path, cell_id, np.arange(1, len(frame) + 1))
    if geometry:
        with readable(path, "WKB geometries"), np.errstate(invalid="ignore"):  # NaN is refused with its cell
            return found, shapely.from_wkb(frame[geometry].to_numpy(object))
    values = [numbers(path, frame, column, cell_id, "cell") for column in columns]
    if len(columns) == 2:
        return found, shapely.points(*values)
    x0, y0, x1, y1 = values if corners else (*values[:2], values[0] + values[2], values[1] + values[3])
    flat = np.flatnonzero((x1 <= x0) | (y1 <= y0))
    found.refuse(flat, "is a box without width or height", f"Its columns are {', '.join(columns)}.")
    return found, shapely.box(x0, y0, x1, y1)


def _parquet_columns(path: Path) -> tuple[str, str]:
    """The column of WKB (the primary one of a GeoParquet, else a binary `geometry`) and that of pandas' index; empty
    where there is none.
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


def _read_vertices(
    path: Path, header: list[str], id_column: tuple[str, ...], vertex: tuple[str, ...]
) -> tuple[_Found, np.ndarray]:
    """Xenium's long form: one row a vertex; a cell's vertices are in row order, even where its rows are apart."""
    if not id_column:
        raise no_columns(path, header, "the vertices' cells", ID_COLUMNS[:2])
    label = find_columns(header, [("label_id",)])  # newer Xenium: one label a nucleus, several in a cell
    frame = read_columns(path, [*id_column, *label, *vertex])
    cell, names = pd.factorize(frame[id_column[0]], use_na_sentinel=False)
    first = np.unique(cell, return_index=True)[1]
    found = _Found(path, identifiers(path, names, "cell"), first + 1)
    x, y = (numbers(path, frame, column, found.cell_id[cell], "cell") for column in vertex)
    piece = pd.factorize(frame[label[0]])[0] if label else np.zeros(len(cell), np.int64)
    order = np.lexsort((piece, cell))
    cell, piece = cell[order], piece[order]
    begins = np.flatnonzero((np.diff(cell, prepend=-1) != 0) | (np.diff(piece, prepend=-1) != 0))
    ring = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(cell)))
    return found, _polygons(found, np.column_stack([x, y])[order], ring, np.arange(len(begins)), cell[begins])


# GeoJSON


def _read_geojson(path: Path) -> tuple[_Found, np.ndarray]:
    """Features of QuPath, CellViT and others: a FeatureCollection, a bare list of Features or one Feature.

    A MultiPoint is one cell a point, and a MultiPolygon that is an annotation (CellViT's, one feature a class) one
    cell a polygon; their ids are the feature's and an ordinal.
    """
    cell_id: list[str] = []
    feature_of: list[int] = []
    points: list[np.ndarray] = []
    point_cell: list[int] = []
    rings: list[np.ndarray] = []
    ring_part: list[int] = []
    part_cell: list[int] = []
    for number, feature in enumerate(_features(path), 1):
        kind, coordinates, one_cell = _geometry(path, number, feature)
        name = _feature_id(feature, number - 1)
        cells = [coordinates] if one_cell else coordinates
        here = range(len(cell_id), len(cell_id) + len(cells))
        cell_id += [name] if one_cell else [f"{name}-{ordinal}" for ordinal in range(len(cells))]
        feature_of += [number] * len(cells)
        if "Point" in kind:
            points += [_positions(path, number, cells)] if cells else []
            point_cell += here
            continue
        for cell, polygons in zip(here, cells, strict=True):
            for polygon in polygons if one_cell and kind == "MultiPolygon" else [polygons]:
                shell_and_holes = _rings(path, number, polygon)
                rings += shell_and_holes
                ring_part += [len(part_cell)] * len(shell_and_holes)
                part_cell.append(cell)
    found = _Found(path, identifiers(path, cell_id, "cell"), np.array(feature_of), "feature")
    outline = np.full(len(cell_id), None, object)
    if points:
        outline[point_cell] = shapely.points(np.concatenate(points))
    if rings:
        drawn, cell_of = np.unique(np.array(part_cell), return_inverse=True)
        ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
        outline[drawn] = _polygons(
            replace(found, cell_id=found.cell_id[drawn], row=found.row[drawn]),
            np.concatenate(rings),
            ring_of,
            np.array(ring_part),
            cell_of,
        )
    return found, outline


def _features(path: Path) -> list[dict[str, Any]]:
    """The Features of a GeoJSON file; a file that mixes cells with annotations is refused."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with readable(path, "GeoJSON"), opener(path, "rt", encoding="utf-8") as text:
        document = json.load(text)
    if isinstance(document, dict):
        document = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(document, list) or not all(isinstance(f, dict) and f.get("type") == "Feature" for f in document):
        raise InputError(
            f"{path} is not GeoJSON of cells", "It holds a FeatureCollection, a list of Features or one Feature."
        )
    kinds = [_object_kind(feature) for feature in document]
    if "annotation" in kinds and {"cell", "detection"} & set(kinds):
        raise InputError(
            f"{path} mixes cells with annotations (feature {kinds.index('annotation') + 1} is one)",
            "Export the detections only: an annotation is a region of the slide, not a cell.",
        )
    return document


def _geometry(path: Path, number: int, feature: dict[str, Any]) -> tuple[str, list, bool]:
    """(type, coordinates, whether the feature is one cell)."""
    geometry = feature.get("geometry") or {}
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Point", "MultiPoint", "Polygon", "MultiPolygon") or not isinstance(coordinates, list):
        raise InputError(
            f"{path}: feature {number} has the geometry {kind}, which is no cell",
            "Cells are Polygon, MultiPolygon, Point or MultiPoint.",
        )
    shared = kind == "MultiPoint" or (kind == "MultiPolygon" and _object_kind(feature) == "annotation")
    return kind, coordinates, not shared


def _object_kind(feature: dict[str, Any]) -> str:
    """What QuPath calls the object (cell, detection, annotation), empty where nothing is said."""
    return (feature.get("properties") or {}).get("objectType") or QUPATH_KINDS.get(str(feature.get("id")), "")


def _feature_id(feature: dict[str, Any], ordinal: int) -> str:
    """The feature's id, else its property cell_id or name, else its ordinal."""
    properties = feature.get("properties") or {}
    for name in (feature.get("id"), properties.get("cell_id"), properties.get("name")):
        if name not in (None, "") and str(name) not in QUPATH_KINDS:
            return str(name)
    return str(ordinal)


def _rings(path: Path, number: int, polygon: Any) -> list[np.ndarray]:
    """The rings of a GeoJSON polygon, its shell first: each (v, 2) float64."""
    if not isinstance(polygon, list) or not polygon:
        raise _malformed(path, number)
    return [_positions(path, number, ring) for ring in polygon]


def _positions(path: Path, number: int, positions: Any) -> np.ndarray:
    """GeoJSON positions as (n, 2) float64; a third coordinate is left out."""
    try:
        pairs = np.asarray(positions, np.float64)
    except (TypeError, ValueError):
        raise _malformed(path, number) from None
    if pairs.ndim != 2 or pairs.shape[1] < 2:
        raise _malformed(path, number)
    return pairs[:, :2]


def _malformed(path: Path, number: int) -> InputError:
    return InputError(f"{path}: feature {number} has coordinates that do not fit its geometry", "Export it again.")


# Label images


def _read_tiff(path: Path) -> tuple[_Found, np.ndarray]:
    with readable(path, "a label image"):
        image = tifffile.imread(path)
    return _label_outlines(path, image)


def _read_png(path: Path) -> tuple[_Found, np.ndarray]:
    with readable(path, "a label image"), Image.open(path) as png:
        image = np.asarray(png)
    return _label_outlines(path, image)


def _read_npz(path: Path) -> tuple[_Found, np.ndarray]:
    with readable(path, "arrays"), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    named = [name for name in LABEL_ARRAYS if name in arrays]
    plane = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "iu"]
    if not named and len(plane) != 1:
        raise InputError(
            f"{path} has the arrays {listed(list(arrays))}, and which one labels the cells is not clear",
            f"Name the array of labels {LABEL_ARRAYS[0]}.",
        )
    return _label_outlines(path, arrays[(named or plane)[0]])


def _label_outlines(path: Path, image: np.ndarray) -> tuple[_Found, np.ndarray]:
    """The pixel edges of every label of a (h, w) integer image; 0 is background, pixel (row, column) covers
    x from column to column + 1 and y from row to row + 1.
    """
    if image.size == np.prod(image.shape[-2:]):
        image = image.reshape(image.shape[-2:])  # one plane of a stack
    if image.ndim != 2 or image.dtype.kind not in "iu" or image.min(initial=0) < 0:
        raise InputError(
            f"{path} is not a label image: shape {image.shape}, {image.dtype}",
            "It has one channel of whole numbers, 0 for background and one number a cell.",
        )
    # Runs of equal labels, row by row, as boxes one pixel high; the boxes of a label, dissolved, are its outline.
    begins = np.ones(image.shape, bool)
    np.not_equal(image[:, 1:], image[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    length, label = np.diff(start, append=image.size), image.ravel()[start]
    start, length, label = start[label > 0], length[label > 0], label[label > 0]
    order = np.argsort(label, kind="stable")
    y, x = np.divmod(start[order], image.shape[1])
    labels, member = np.unique(label[order], return_inverse=True)
    boxes = shapely.multipolygons(shapely.box(x, y, x + length[order], y + 1), indices=member)
    outline = shapely.buffer(boxes, 0)  # the same as union_all of each, in two thirds of the time
    if len(labels) == 1 and shapely.get_num_geometries(outline[0]) > 1:
        raise InputError(
            f"{path} is a mask: its only label, {labels[0]}, is in {shapely.get_num_geometries(outline[0]):,} pieces",
            "Give every cell a number of its own, for instance with scipy.ndimage.label.",
        )
    height, width = image.shape
    return _Found(path, identifiers(path, labels, "cell"), labels, "label", (width, height)), outline


# AnnData


def _read_h5ad(path: Path) -> tuple[_Found, np.ndarray]:
    """Centroids of an AnnData: pixel columns of obs (HEST has x_pixel, y_pixel), else obsm["spatial"]."""
    data = open_anndata(path, backed="r")  # the counts stay on disk
    data.file.close()
    cell_id = identifiers(path, data.obs_names, "cell")
    found = _Found(path, cell_id, np.arange(1, len(cell_id) + 1))
    columns = find_columns(list(data.obs.columns), CENTRES[:-1])
    if columns:
        return found, shapely.points(*(numbers(path, data.obs, column, cell_id, "cell") for column in columns))
    if "spatial" not in data.obsm:
        raise no_columns(path, list(data.obs.columns), 'cells in obs, nor obsm["spatial"]', CENTRES[:-1])
    spatial = np.asarray(data.obsm["spatial"])
    if spatial.ndim != 2 or spatial.shape[1] < 2:
        raise InputError(f'{path} has obsm["spatial"] of shape {spatial.shape}', "It has a row of x, y for each cell.")
    return found, shapely.points(spatial[:, :2].astype(np.float64))


READERS: dict[str, Callable[[Path], tuple[_Found, np.ndarray]]] = {
    ".parquet": _read_table,
    **dict.fromkeys(DELIMITERS, _read_table),
    **dict.fromkeys((".geojson", ".geojson.gz", ".json"), _read_geojson),
    **dict.fromkeys((".tif", ".tiff"), _read_tiff),
    ".png": _read_png,
    ".npz": _read_npz,
    ".h5ad": _read_h5ad,
}
