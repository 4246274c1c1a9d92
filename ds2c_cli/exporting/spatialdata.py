"""SpatialData to write: slide, cells and spots in pixels and microns, and the table that annotates the cells."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import anndata
import numpy as np
import pandas as pd
import shapely
import zarr

from .. import schema
from ..errors import InputError
from ..io.slides import Slide
from ..io.spatialdata import CELL_POINTS, CELLS, SYSTEM, load_spatialdata
from ..progress import Progress
from .anndata_zarr import anndata_without_matrices, sign, write_matrices
from .formats import POINT_RADIUS_UM, Export, Place

IMAGE, SPOTS, TABLE, SPOT_TABLE, MICRONS = "slide", "spots", "table", "spot_table", "microns"
TILE = 1024  # pixels a side of the image's chunks
SMALLEST = 1024  # pixels of the longest side at which the pyramid ends


def write_spatialdata(path: Path, export: Export, progress: Progress) -> None:
    """Elements `slide` (an image pyramid), `cells` (polygons, or circles where only centroids are known), `spots`
    (circles), `table` (annotates the cells) and, where spots were counted, `spot_table`.

    Coordinate systems: `global`, level-0 pixels, and `microns`. Raises UsageError when the library is not installed.
    """
    spatialdata = load_spatialdata()
    import dask

    place = export.place
    assert place is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library about its own dependencies
        try:
            shapes, region = _cell_shapes(export, place)
            tables = {TABLE: _cell_table(export, region)}
            if len(place.spots):
                shapes[SPOTS] = _circles(
                    shapely.points(place.spots[["x", "y"]].to_numpy()),
                    place.spots["spot_id"],
                    radius_um=place.spot_um / 2,
                    place=place,
                )
                if place.spot_counts is not None:
                    tables[SPOT_TABLE] = _spot_table(place)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the cells of {export.name} cannot be a SpatialData: {error}", "Rename the column in obs."
            ) from error
        stage = f"export slide {export.name}"
        images = {} if place.slide is None else {IMAGE: _image(place.slide, place.mpp, partial(progress, stage))}
        data = spatialdata.SpatialData(images=images, shapes=shapes, tables=tables)
        # A pool of its own is waited for: nothing is written any more when a stopped export is put away.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, dask.config.set(pool=pool):
            data.write(path, update_sdata_path=False)
        write_matrices(zarr.open_group(path / "tables" / TABLE, mode="r+"), export, progress)
        sign(zarr.open_group(path, mode="r+", use_consolidated=False), export.about)


def _systems(mpp: float) -> dict[str, object]:
    from spatialdata.transformations import Identity, Scale

    return {SYSTEM: Identity(), MICRONS: Scale([mpp, mpp], axes=("x", "y"))}


def _image(slide: Slide, mpp: float, tell: Callable[[int, int, str], None]) -> Any:
    """The slide as a pyramid, each tile of which is read once, while it is written."""
    import dask.array
    from spatialdata.models import Image2DModel

    def tile(block_info: Any = None) -> np.ndarray:
        _, (top, bottom), (left, right) = block_info[None]["array-location"]
        pixels = slide.read(left, top, width=right - left, height=bottom - top)
        with one_at_a_time:  # tiles are read by several threads
            tell(next(done), tiles, "tiles")
        return np.moveaxis(pixels, -1, 0)

    done, one_at_a_time = count(1), Lock()
    chunks = ((3,), *(dask.array.core.normalize_chunks(TILE, (size,))[0] for size in (slide.height, slide.width)))
    tiles = len(chunks[1]) * len(chunks[2])
    pixels = dask.array.map_blocks(tile, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    halvings = max(0, math.ceil(math.log2(max(slide.width, slide.height) / SMALLEST)))
    halvings = min(halvings, int(math.log2(min(slide.width, slide.height))))
    return Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * halvings or None,
        chunks=(3, TILE, TILE),
        transformations=_systems(mpp),
    )


def _cell_shapes(export: Export, place: Place) -> tuple[dict[str, object], np.ndarray]:
    """The elements of the cells, and the element of each cell (n,): polygons and points may not share one."""
    import geopandas
    from spatialdata.models import ShapesModel

    point = shapely.get_type_id(place.outline) == shapely.GeometryType.POINT
    both = point.any() and not point.all()
    cell_id = export.obs.index
    shapes = {}
    if not point.all():
        frame = geopandas.GeoDataFrame({"geometry": place.outline[~point]}, index=cell_id[~point])
        shapes[CELLS] = ShapesModel.parse(frame, transformations=_systems(place.mpp))
    if point.any():
        shapes[CELL_POINTS if both else CELLS] = _circles(
            place.outline[point], cell_id[point], radius_um=POINT_RADIUS_UM, place=place
        )
    return shapes, np.where(point & both, CELL_POINTS, CELLS)


def _circles(points: np.ndarray, ids: Any, *, radius_um: float, place: Place) -> Any:
    import geopandas
    from spatialdata.models import ShapesModel

    frame = geopandas.GeoDataFrame({"geometry": points, "radius": radius_um / place.mpp}, index=pd.Index(ids))
    return ShapesModel.parse(frame, transformations=_systems(place.mpp))


def _cell_table(export: Export, region: np.ndarray) -> anndata.AnnData:
    obs = export.obs.rename_axis(None).assign(cell_id=export.obs.index.to_numpy())
    return _annotating(anndata_without_matrices(export, obs), region, "cell_id")


def _spot_table(place: Place) -> anndata.AnnData:
    assert place.spot_counts is not None
    spots, counts = place.spots, place.spot_counts
    centre = spots[["x", "y"]].to_numpy()
    table = anndata.AnnData(
        counts.matrix,
        obs=spots.set_index(spots["spot_id"].to_numpy()),
        var=pd.DataFrame(index=pd.Index(counts.genes, dtype=object)),
        obsm={schema.OBSM_UM: centre * place.mpp, schema.OBSM_PX: centre},
    )
    return _annotating(table, np.full(len(spots), SPOTS), "spot_id")


def _annotating(table: anndata.AnnData, region: np.ndarray, instance_key: str) -> anndata.AnnData:
    """The table, of which each row annotates the shape that `instance_key` names in the element `region` (n,)."""
    from spatialdata.models import TableModel

    key = "region" if "region" not in table.obs else "element"
    table.obs[key] = pd.Categorical(region)
    elements = table.obs[key].cat.categories.tolist()
    region_of_table = elements if len(elements) > 1 else elements[0]
    return TableModel.parse(table, region=region_of_table, region_key=key, instance_key=instance_key)
