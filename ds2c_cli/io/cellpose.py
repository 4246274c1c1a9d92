"""Cellpose's outlines as text: a line per cell, x and y of its vertices in turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from .outlines import Found, polygons
from .tables import readable


def read_cellpose_outlines(path: Path) -> tuple[Found, np.ndarray]:
    """Cells of a `*_cp_outlines.txt`, numbered from 1 as in Cellpose's masks.

    Raises InputError for a line that is no even number of whole numbers.
    """
    xy: list[np.ndarray] = []
    with readable(path, "outlines"), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                xy.append(np.array(line.strip().split(","), np.float64).reshape(-1, 2))
            except ValueError:
                raise InputError(
                    f"{path}: line {number} is not an outline", "Give Cellpose's *_cp_outlines.txt or its masks."
                ) from None
    each = np.arange(len(xy))
    found = Found(path, np.array([str(i + 1) for i in each], object), each + 1, "line")
    if not xy:
        return found, np.empty(0, object)
    return found, polygons(
        found, np.concatenate(xy), ring=np.repeat(each, [len(ring) for ring in xy]), part=each, cell=each
    )


def refuse_pickle(path: Path) -> tuple[Found, np.ndarray]:
    """Raise InputError: a `*_seg.npy` is a pickle, which may run anything when it is loaded."""
    raise InputError(
        f"{path} is a pickle, which ds2c never loads",
        "Save the masks as an image: cellpose --save_tif, or tifffile.imwrite('masks.tif', data['masks']).",
    )
