"""Outlines of cells: rings become valid polygons, bad ones are refused by cell, and samples keep them as GeoParquet."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely import GeometryType

from ..errors import InputError

KINDS = (GeometryType.POINT, GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
AT_ONCE = 100_000  # cells: what checking needs beside the outlines themselves stays small


@dataclass(frozen=True)
class Found:
    """The cells a reader found, and where in the file each begins, so that an error can point there."""

    path: Path
    cell_id: np.ndarray  # (n,) as in the file
    row: np.ndarray  # (n,) counted from 1
    unit: str = "row"  # what `row` counts
    extent: tuple[int, int] | None = None  # (width, height) of a label image
    note: str = ""  # what the reader left out or changed, a sentence or nothing

    def only(self, cells: np.ndarray | slice) -> Found:
        """Take some of the cells."""
        return replace(self, cell_id=self.cell_id[cells], row=self.row[cells])

    def refuse(self, cells: np.ndarray, problem: str, *, hint: str) -> None:
        """Raise InputError that names the first of some cells, given by position (k,), if there is one."""
        if cells.size:
            place = f"cell {self.cell_id[cells[0]]}, {self.unit} {self.row[cells[0]]},"
            count = f" ({cells.size:,} such cells)" if cells.size > 1 else ""
            raise InputError(f"{self.path}: {place} {problem}{count}", hint)


def polygons(found: Found, xy: np.ndarray, *, ring: np.ndarray, part: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Outlines (n,) of nested rings: vertices xy (v, 2), the ring of each vertex (v,), the polygon of each ring (its
    first is the shell), the cell of each polygon; all ascending from 0, several polygons make a MultiPolygon.

    Raises InputError for a ring of fewer than 3 vertices, with its cell.
    """
    few = np.flatnonzero(np.bincount(ring, minlength=len(part)) < 3)
    found.refuse(
        np.unique(cell[part[few]]),
        "has a ring of fewer than 3 vertices",
        hint="Take the cell out, or segment it again.",
    )
    with np.errstate(invalid="ignore"):  # NaN is refused with its cell
        polygon = shapely.polygons(shapely.linearrings(xy, indices=ring), indices=part)
    outline = polygon[np.unique(cell, return_index=True)[1]]
    several = np.bincount(cell) > 1
    member = several[cell]
    outline[several] = shapely.multipolygons(polygon[member], indices=np.unique(cell[member], return_inverse=True)[1])
    return outline


def repaired(found: Found, outline: np.ndarray) -> tuple[np.ndarray, int]:
    """Make valid outlines (n,) with an area, or points; and how many crossed themselves and were repaired.

    Raises InputError where that cannot be had.
    """
    blocks = [slice(begin, begin + AT_ONCE) for begin in range(0, len(outline), AT_ONCE)]
    done = [_repaired(found.only(block), outline[block]) for block in blocks]
    return np.concatenate([valid for valid, _ in done]), sum(number for _, number in done)


def _repaired(found: Found, outline: np.ndarray) -> tuple[np.ndarray, int]:
    xy, owner = shapely.get_coordinates(outline, return_index=True)
    infinite = np.unique(owner[~np.isfinite(xy).all(1)])
    found.refuse(infinite, "has a coordinate that is not a finite number", hint="Correct it, or take the cell out.")
    absent = shapely.is_missing(outline) | shapely.is_empty(outline)
    found.refuse(np.flatnonzero(absent), "has no outline", hint="Give it one, or take the cell out.")
    other = ~np.isin(shapely.get_type_id(outline), KINDS)
    found.refuse(
        np.flatnonzero(other), "is not a Polygon, MultiPolygon or Point", hint="Save its outline or its centroid."
    )
    outline = shapely.force_2d(outline)
    invalid = ~shapely.is_valid(outline)
    outline[invalid] = [_areas_of(valid) for valid in shapely.make_valid(outline[invalid])]
    flat = (shapely.get_type_id(outline) != GeometryType.POINT) & ~(shapely.area(outline) > 0)
    found.refuse(
        np.flatnonzero(flat), "has an outline without area", hint="It needs three vertices that are not on a line."
    )
    return outline, int(invalid.sum())


def _areas_of(geometry: shapely.Geometry) -> shapely.Geometry:
    """Take the polygons of a repaired outline: make_valid also returns the lines that some of it collapsed to."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # a collection may hold a MultiPolygon
    return shapely.union_all(parts[shapely.area(parts) > 0])


def write_outlines(path: Path, *, cell_id: np.ndarray, outline: np.ndarray) -> None:
    """Write outlines (n,) with their ids as GeoParquet 1.0, which geopandas and `--cells` read."""
    types = sorted({geometry.name.title() for geometry in map(GeometryType, np.unique(shapely.get_type_id(outline)))})
    column = {
        "encoding": "WKB",
        "geometry_types": [name.replace("Multipolygon", "MultiPolygon") for name in types],
        "crs": None,  # pixels of a slide
        "bbox": shapely.total_bounds(outline).tolist(),
    }
    about = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table(
        {"cell_id": pa.array(cell_id, pa.string()), "geometry": pa.array(shapely.to_wkb(outline), pa.binary())}
    )
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(about)}), path, compression="zstd")


def read_outlines(path: Path) -> np.ndarray:
    """Outlines (n,) as `write_outlines` wrote them; raises InputError when the file is not there."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "Run `ds2c prepare --force`: an older ds2c kept no outlines.")
    return shapely.from_wkb(pq.read_table(path, columns=["geometry"])["geometry"].to_numpy())
