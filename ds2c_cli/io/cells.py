"""Segmented cells: outlines or centroids in level-0 pixels, from whichever format the file has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .cell_tables import read_cell_anndata, read_cell_table
from .cellpose import read_cellpose_outlines, refuse_pickle
from .cellvit import read_cellvit
from .geojson import read_geojson
from .json_objects import JsonObjects
from .label_images import read_label_npz, read_label_png, read_label_tiff
from .outlines import Found, repaired
from .spatialdata import is_spatialdata, read_spatialdata_shapes
from .tables import DELIMITERS, require_unique, suffix_of


@dataclass(frozen=True)
class Cells:
    """Cells as a file gives them, in file order."""

    cell_id: np.ndarray  # (n,) str, unique
    outline: np.ndarray  # (n,) shapely Polygon, MultiPolygon or Point in level-0 pixels, x right, y down
    extent: tuple[int, int] | None = None  # (width, height) of the label image they came from
    note: str = ""  # what the reader left out or repaired, a sentence or nothing


def read_cells(path: Path) -> Cells:
    """Cells of a table (vertices, boxes, centroids or WKB), GeoJSON, CellViT's JSON, a label image, Cellpose's
    outlines, the shapes of a SpatialData, or an AnnData.

    Cells without an id of their own are numbered from 0 in file order. Outlines that cross themselves are repaired,
    keep what area they have, and are counted in the note.

    Raises InputError for a file that cannot be read or has no cells, and for a cell with a repeated or missing id,
    a coordinate that is not finite, or an outline without area: with its id and row.
    """
    read = read_spatialdata_shapes if is_spatialdata(path) else READERS[suffix_of(path, READERS, what="cells")]
    return checked_cells(*read(path))


def checked_cells(found: Found, outline: np.ndarray) -> Cells:
    """Cells with unique ids and valid outlines; raises InputError as `read_cells` does."""
    if not len(found.cell_id):
        raise InputError(f"{found.path} has no cells", "Segment the slide, or give the file that holds the cells.")
    require_unique(found.path, found.cell_id, noun="cell id")
    outline, crossed = repaired(found, outline)
    notes = [found.note] if found.note else []
    notes += [f"{crossed:,} outlines crossed themselves and were repaired"] if crossed else []
    return Cells(found.cell_id, outline, found.extent, "; ".join(notes))


def _read_json(path: Path) -> tuple[Found, np.ndarray]:
    objects = JsonObjects(path)
    return read_cellvit(path, objects) if objects.list_name == "cells" else read_geojson(path, objects)


READERS: dict[str, Callable[[Path], tuple[Found, np.ndarray]]] = {
    ".parquet": read_cell_table,
    **dict.fromkeys(DELIMITERS, read_cell_table),
    **dict.fromkeys((kind + packed for kind in (".geojson", ".json") for packed in ("", ".gz", ".zip")), _read_json),
    **dict.fromkeys((".tif", ".tiff"), read_label_tiff),
    ".png": read_label_png,
    ".npz": read_label_npz,
    ".npy": refuse_pickle,
    ".txt": read_cellpose_outlines,
    ".h5ad": read_cell_anndata,
}
