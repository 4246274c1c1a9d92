"""SpatialData on disk: the shapes of a Zarr store as cells, through its coordinate systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, UsageError
from .outlines import Found
from .tables import identifiers, listed, readable

SYSTEM = "global"  # SpatialData's default coordinate system, here level-0 pixels
CELLS, CELL_POINTS = "cells", "cell_points"  # as `ds2c export` names its shapes; the second beside polygons only


def is_spatialdata(path: Path) -> bool:
    """Whether a path is a Zarr store, or names shapes in one: sdata.zarr, sdata.zarr/shapes/cells."""
    return any(part.endswith(".zarr") for part in (path.name, *(parent.name for parent in path.parents)))


def load_spatialdata() -> Any:
    """Load the library; raises UsageError that names the extra when it is not installed."""
    try:
        import spatialdata
    except ImportError as error:
        raise UsageError(
            "SpatialData needs the library of that name, which is not installed",
            "Install it with: pip install 'ds2c[spatialdata]'",
        ) from error
    return spatialdata


def read_spatialdata_shapes(path: Path) -> tuple[Found, np.ndarray]:
    """Shapes in the coordinate system `global` (or the only one), which must be the slide's level-0 pixels; circles as
    their centres. Unless others are named they are the only ones, or those that `ds2c export` names its cells.

    Raises InputError for a store without shapes, with several of which none is named, or without such a system.
    """
    spatialdata = load_spatialdata()
    store = next(folder for folder in (path, *path.parents) if folder.name.endswith(".zarr"))
    wanted = path.relative_to(store).as_posix().removeprefix("shapes/").strip("./")
    if not store.is_dir():
        raise InputError(f"{store} does not exist or is no folder", "Give the folder of a SpatialData.")
    with readable(store, "SpatialData"):
        data = spatialdata.read_zarr(store, selection=("shapes",))
    names = sorted(data.shapes)
    ours = [name for name in (CELLS, CELL_POINTS) if name in names]
    chosen = [wanted] if wanted else names if len(names) == 1 else ours
    if not chosen or not set(chosen) <= set(names):
        lacks = f"no shapes {wanted!r}" if wanted else "several shapes, and which are the cells is not clear"
        raise InputError(
            f"{store} has {lacks if names else 'no shapes'}: it has {listed(names)}",
            f"Name them: --cells {store}/shapes/NAME.",
        )
    moved = [_in_pixels(spatialdata, store=store, name=name, shapes=data.shapes[name]) for name in chosen]
    cell_id = identifiers(store, np.concatenate([shapes.index.to_numpy() for shapes in moved]), noun="cell")
    outline = np.concatenate([shapes.geometry.to_numpy() for shapes in moved])
    return Found(store, cell_id, np.arange(1, len(cell_id) + 1)), outline


def _in_pixels(spatialdata: Any, *, store: Path, name: str, shapes: Any) -> Any:
    """Shapes moved into the slide's pixels."""
    systems = sorted(spatialdata.transformations.get_transformation(shapes, get_all=True))
    system = SYSTEM if SYSTEM in systems else systems[0]
    if system != SYSTEM and len(systems) > 1:
        raise InputError(
            f"the shapes {name} of {store} have the coordinate systems {listed(systems)}",
            f"Name the one of the slide's level-0 pixels {SYSTEM!r}.",
        )
    with readable(store, "SpatialData"):
        return spatialdata.transform(shapes, to_coordinate_system=system)
