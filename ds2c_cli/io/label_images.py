"""Cells of label images: TIFF, PNG or NPZ of whole numbers, one a cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
import tifffile
from PIL import Image

from ..errors import InputError
from .outlines import Found
from .tables import identifiers, listed, readable

LABEL_ARRAYS = ("inst_map", "labels", "masks")


def read_label_tiff(path: Path) -> tuple[Found, np.ndarray]:
    with readable(path, "a label image"):
        image = tifffile.imread(path)
    return _label_outlines(path, image)


def read_label_png(path: Path) -> tuple[Found, np.ndarray]:
    with readable(path, "a label image"), Image.open(path) as png:
        image = np.asarray(png)
    return _label_outlines(path, image)


def read_label_npz(path: Path) -> tuple[Found, np.ndarray]:
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


def _label_outlines(path: Path, image: np.ndarray) -> tuple[Found, np.ndarray]:
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
    return Found(path, identifiers(path, labels, "cell"), labels, "label", (width, height)), outline
