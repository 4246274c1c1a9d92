"""GeoJSON of cells, as QuPath, CellViT and others write it, read feature by feature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import shapely

from ..errors import InputError
from .json_objects import JsonObjects, Positions
from .outlines import Found, polygons
from .tables import identifiers

DEPTH = {"Point": 1, "MultiPoint": 2, "Polygon": 3, "MultiPolygon": 4}  # in how many lists a position stands
AT_ONCE = 1 << 21  # positions made into polygons at a time
# Early QuPath wrote the kind of an object in the place of its id (LEGACY_TYPE_IDS of its reader).
QUPATH_KINDS = {"PathCellObject": "cell", "PathDetectionObject": "detection", "PathAnnotationObject": "annotation"}


def read_geojson(path: Path, objects: JsonObjects) -> tuple[Found, np.ndarray]:
    """Cells of Features: a FeatureCollection, a bare list of Features or one Feature.

    A MultiPoint is one cell a point, and a MultiPolygon that is an annotation (CellViT's, one feature a class) one
    cell a polygon; their ids are the feature's and an ordinal. Of QuPath's cells the outline of the cell is read.

    Raises InputError for a geometry that is no cell's, and for a file that mixes cells with annotations.
    """
    names: list[str] = []
    arrays: list[int] = []
    depths: list[int] = []
    shared: list[bool] = []
    kinds: dict[str, int] = {}  # what QuPath calls the objects, and the first feature of each kind
    for number, feature in enumerate(objects, 1):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise InputError(
                f"{path} is not GeoJSON of cells", "It holds a FeatureCollection, a list of Features or one Feature."
            )
        geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
        kind, array = geometry.get("type"), geometry.get("coordinates")
        if kind not in DEPTH or not isinstance(array, int):
            raise InputError(
                f"{path}: feature {number} has the geometry {kind}, which is no cell",
                "Cells are Polygon, MultiPolygon, Point or MultiPoint.",
            )
        called = _object_kind(feature.get("id"), properties)
        kinds.setdefault(called, number)
        names.append(_feature_id(feature.get("id"), properties, ordinal=number - 1))
        arrays.append(array)
        depths.append(DEPTH[kind])
        shared.append(kind == "MultiPoint" or (kind == "MultiPolygon" and called == "annotation"))
    if "annotation" in kinds and {"cell", "detection"} & kinds.keys():
        raise InputError(
            f"{path} mixes cells with annotations (feature {kinds['annotation']} is one)",
            "Export the detections only: an annotation is a region of the slide, not a cell.",
        )
    return _cells(
        path,
        names,
        arrays=np.array(arrays, np.int64),
        depths=np.array(depths),
        shared=np.array(shared),
        positions=objects.positions(),
    )


def _cells(
    path: Path, names: list[str], *, arrays: np.ndarray, depths: np.ndarray, shared: np.ndarray, positions: Positions
) -> tuple[Found, np.ndarray]:
    """Cells of features (f,): the array of each, how deep its positions should stand, whether it holds many cells."""
    if not names:
        return Found(path, np.empty(0, object), np.empty(0, np.int64), "feature"), np.empty(0, object)
    array = positions.array()
    feature_of = np.full(max(int(arrays.max(initial=-1)), int(array.max(initial=-1))) + 2, -1, np.int64)
    feature_of[arrays] = np.arange(len(names))
    feature = feature_of[array]
    empty = np.isnan(positions.xy[:, 0]) & (positions.depth == 1) & (depths[feature] > 1) & shared[feature]
    kept = np.flatnonzero((feature >= 0) & ~empty)
    xy, depth, level, feature = positions.xy[kept], positions.depth[kept], positions.level[kept], feature[kept]
    wrong = np.flatnonzero(depth != depths[feature])
    if len(wrong):
        raise InputError(
            f"{path}: feature {feature[wrong[0]] + 1} has coordinates that do not fit its geometry", "Export it again."
        )
    # A position whose list, or list of lists, is not that of the one before begins a ring, or a polygon.
    begins_ring, begins_part = level <= depth - 2, level <= depth - 3
    begins_cell = np.where(shared[feature], begins_part | (depth == 2), level == 0)
    begins = np.flatnonzero(begins_cell)
    owner = feature[begins]
    found = Found(path, identifiers(path, _names(names, owner=owner, shared=shared), noun="cell"), owner + 1, "feature")
    outline = np.full(len(begins), None, object)
    point = depth[begins] < 3
    outline[point] = shapely.points(xy[begins[point]])
    drawn = np.flatnonzero(~point)
    ends = np.append(begins[1:], len(xy))
    block = begins[drawn] // AT_ONCE
    for cells in np.split(drawn, np.flatnonzero(np.diff(block)) + 1):
        if len(cells):
            rows = _rows(begins[cells], ends[cells])
            ring, part = np.cumsum(begins_ring[rows]) - 1, np.cumsum(begins_part[rows]) - 1
            part_of_ring = part[begins_ring[rows]]
            cell = (np.cumsum(begins_cell[rows]) - 1)[begins_part[rows]]
            outline[cells] = polygons(found.only(cells), xy[rows], ring=ring, part=part_of_ring, cell=cell)
    return found, outline


def _rows(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """List the numbers from begins (k,) to ends (k,), all ranges after one another."""
    length = ends - begins
    return np.repeat(begins - np.append(0, np.cumsum(length)[:-1]), length) + np.arange(length.sum())


def _names(names: list[str], *, owner: np.ndarray, shared: np.ndarray) -> list[str]:
    """Make the id of each cell from its feature's: with an ordinal where the feature holds many."""
    first = np.searchsorted(owner, owner)  # ascending: cells are in file order
    ordinal = np.arange(len(owner)) - first
    many = shared[owner].tolist()
    return [
        f"{names[feature]}-{nth}" if one_of_many else names[feature]
        for feature, nth, one_of_many in zip(owner.tolist(), ordinal.tolist(), many, strict=True)
    ]


def _object_kind(feature_id: object, properties: Mapping[str, object]) -> str:
    """Say what QuPath calls the object (cell, detection, annotation), empty where nothing is said."""
    return str(properties.get("objectType") or QUPATH_KINDS.get(str(feature_id), ""))


def _feature_id(feature_id: object, properties: Mapping[str, object], *, ordinal: int) -> str:
    """Take the cell_id in its properties or in QuPath's metadata, else the feature's id, else its name or ordinal.

    `ds2c export` puts the cell_id into the metadata, beside the UUID that QuPath wants.
    """
    metadata = properties.get("metadata")
    told = metadata.get("cell_id") if isinstance(metadata, dict) else None
    for name in (properties.get("cell_id"), told, feature_id, properties.get("name")):
        if name not in (None, "") and str(name) not in QUPATH_KINDS:
            return str(name)
    return str(ordinal)
