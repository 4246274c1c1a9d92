"""The demo's generated tissue: one donor's slide, cells and counts, drawn from a seed; nothing in it is measured."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from scipy import sparse

from .. import schema
from ..errors import InputError
from ..files import replacing
from .cells import TYPES, Cells, grow_cells
from .expression import GENES, express
from .layout import ANGLES, lay_out
from .painting import paint

SLIDE_FILE = "slide.tif"
SMALLEST_UM = 300.0  # a slide's side that holds nests and glands
LEVELS = 3


def paint_sample(folder: Path, *, seed: int, size_px: int = 2560, mpp: float = 0.5) -> None:
    """Write `slide.tif`, `cells.parquet` (Xenium's long form, level-0 pixels) and `cell_counts.h5ad` of one donor.

    The seed draws the layout, the stain and the counts; which gene marks which type is the same for every seed.
    `mpp` is in microns per pixel. Raises InputError for a slide too small to hold tissue.
    """
    if size_px * mpp < SMALLEST_UM:
        raise InputError(
            f"a slide of {size_px} px at {mpp:g} um a pixel is too small for tissue",
            f"Make it at least {SMALLEST_UM:g} um a side.",
        )
    rng = np.random.default_rng(seed)
    layout, glands = lay_out(rng, size_px=size_px, mpp=mpp)
    cells = grow_cells(rng, layout, glands=glands, size_px=size_px, mpp=mpp)
    x, y = cells.vertices()
    area_um2 = 0.5 * (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1) * mpp**2  # the shoelace formula
    counts = express(rng, cells, area_um2=area_um2, nest_um=layout.at(cells.centre).nest)
    pixels = paint(rng, layout, cells=cells, size_px=size_px, mpp=mpp)

    cell_ids = np.array([f"cell_{i:06d}" for i in range(len(x))], object)
    with replacing(folder / schema.CELLS_FILE) as part:
        outlines = {"vertex_x": x.ravel().astype(np.float32), "vertex_y": y.ravel().astype(np.float32)}
        pd.DataFrame({"cell_id": np.repeat(cell_ids, len(ANGLES)), **outlines}).to_parquet(part, index=False)
    with replacing(folder / schema.CELL_COUNTS_FILE) as part:
        _counts_table(cells, cell_ids=cell_ids, counts=counts).write_h5ad(part)
    with replacing(folder / SLIDE_FILE) as part:  # last: where it stands, the sample is whole
        _write_pyramid(part, pixels, mpp=mpp)


def _counts_table(cells: Cells, *, cell_ids: np.ndarray, counts: np.ndarray) -> ad.AnnData:
    """Raw counts with each cell's type, cells x genes."""
    obs = pd.DataFrame({"type": pd.Categorical.from_codes(cells.kind, pd.Index(TYPES))}, index=cell_ids)
    return ad.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=list(GENES)))


def _write_pyramid(path: Path, pixels: np.ndarray, *, mpp: float) -> None:
    """Write a tiled JPEG TIFF whose level k is 2^k times smaller and kept as a SubIFD of the first."""
    image = Image.fromarray(pixels)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(LEVELS):
            resolution = 1e4 / (mpp * 2**level)  # pixels a centimetre
            tiff.write(
                np.asarray(image.reduce(2**level)),
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 90},
                resolution=(resolution, resolution),
                resolutionunit="CENTIMETER",
                subifds=0 if level else LEVELS - 1,
                subfiletype=1 if level else 0,
                metadata=None,
            )
