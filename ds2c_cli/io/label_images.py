"""Cells of label images: TIFF, PNG or NPZ of whole numbers, one per cell."""

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
    """Find the pixel edges of every label of a (h, w) integer image; 0 is background, pixel (row, column) covers
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
    label, length = label[order], length[order]
    y, x = np.divmod(start[order], image.shape[1])
    first = np.flatnonzero(np.diff(label, prepend=0))  # runs of a label follow one another, from top to bottom
    labels = label[first]
    outline = _outlines_of_runs(x, x + length, y=y, first=first)
    if len(labels) == 1 and shapely.get_num_geometries(outline[0]) > 1:
        raise InputError(
            f"{path} is a mask: its only label, {labels[0]}, is in {shapely.get_num_geometries(outline[0]):,} pieces",
            "Give every cell a number of its own, for instance with scipy.ndimage.label.",
        )
    height, width = image.shape
    return Found(path, identifiers(path, labels, noun="cell"), labels, "label", (width, height)), outline


def _outlines_of_runs(left: np.ndarray, right: np.ndarray, *, y: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Outlines (n,) of runs of pixels (r,), each from left to right in the row y; a label's runs begin at `first` (n,).

    Nearly all cells have one run a row, each touching the next; of the others the runs are dissolved, which takes
    thirty times as long.
    """
    label = np.repeat(np.arange(len(first)), np.diff(first, append=len(y)))
    touches = np.ones(len(y), bool)
    touches[1:] = (y[1:] == y[:-1] + 1) & (left[1:] < right[:-1]) & (left[:-1] < right[1:])
    touches[first] = True
    plain = np.logical_and.reduceat(touches, first) if len(first) else np.empty(0, bool)
    stairs = plain[label]
    outline = np.empty(len(first), object)
    outline[plain] = _staircases(left[stairs], right[stairs], y=y[stairs], label=label[stairs])
    boxes = shapely.box(left[~stairs], y[~stairs], right[~stairs], y[~stairs] + 1)
    member = np.unique(label[~stairs], return_inverse=True)[1]
    # The same as union_all of each, in two thirds of the time.
    outline[~plain] = shapely.buffer(shapely.multipolygons(boxes, indices=member), 0)
    return outline


def _staircases(left: np.ndarray, right: np.ndarray, *, y: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Outlines (n,) of labels whose runs (r,) touch from row to row: down the right side and up the left one."""
    corners = []
    for side, x in ((1, right), (-1, left)):
        turns = np.flatnonzero((np.diff(x) != 0) | (np.diff(label) != 0))  # between this run and the next
        for down, runs in ((0, np.append(0, turns + 1)), (1, np.append(turns, len(x) - 1))):
            runs = runs[: len(x)]
            corners.append(
                np.stack([label[runs], np.full(len(runs), side), np.full(len(runs), down), x[runs], y[runs]])
            )
    owner, side, down, x, top = np.concatenate(corners, 1)
    at = top + down
    order = np.lexsort((-side * down, side * at, -side, owner))
    ring = np.unique(owner, return_inverse=True)[1]
    return shapely.polygons(shapely.linearrings(x[order], at[order], indices=ring[order]))
