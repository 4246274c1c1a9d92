"""The JSON of CellViT and CellViT++: cells with contours, or with centroids where they were only detected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely

from ..errors import InputError
from .json_objects import JsonObjects
from .outlines import Found, polygons


def read_cellvit(path: Path, objects: JsonObjects) -> tuple[Found, np.ndarray]:
    """Cells in level-0 pixels (cells.json, cell_detection.json), numbered from 0: the file gives them no ids.

    Raises InputError for a cell with neither a contour nor a centroid.
    """
    drawn: list[bool] = []
    centroids: list[list[float]] = []
    for number, cell in enumerate(objects, 1):
        drawn.append(isinstance(cell, dict) and isinstance(cell.get("contour"), int))
        if not drawn[-1]:
            centroid = cell.get("centroid") if isinstance(cell, dict) else None
            if not isinstance(centroid, list) or len(centroid) != 2:
                raise InputError(
                    f"{path}: cell {number} has neither a contour nor a centroid", "Give CellViT's own cells.json."
                )
            centroids.append(centroid)
    found = Found(path, np.array([str(i) for i in range(len(drawn))], object), np.arange(1, len(drawn) + 1), "cell")
    outline = np.full(len(drawn), None, object)
    with_contour = np.array(drawn, bool)
    if centroids:
        outline[~with_contour] = shapely.points(np.array(centroids, np.float64))
    positions = objects.positions()
    begins = positions.level == 0
    if int(begins.sum()) != int(with_contour.sum()) or (positions.depth != 2).any():
        raise InputError(f"{path} has contours that are no lists of positions", "Give CellViT's own cells.json.")
    if with_contour.any():
        ring = np.cumsum(begins) - 1
        each = np.arange(with_contour.sum())
        outline[with_contour] = polygons(found.only(with_contour), positions.xy, ring=ring, part=each, cell=each)
    return found, outline
