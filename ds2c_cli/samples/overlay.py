"""The picture that shows at a glance whether cells and spots fit their slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure

from ..io.slides import Slide
from ..io.tissue import TissueMask

CELL_COLOUR, SPOT_COLOUR, TISSUE_COLOUR = "#00a651", "#0057b8", "#d98c00"
ZOOM_UM = 250.0


def draw_overlay(
    path: Path,
    *,
    slide: Slide,
    tissue: TissueMask,
    mpp: float,
    outline: np.ndarray,
    spots: np.ndarray,
    spot_um: float,
) -> None:
    """Write a PNG: the slide with cells as dots, spots as discs and the tissue's edge, and one place enlarged.

    `outline` (cells,) and `spots` (n, 2) are in level-0 pixels.
    """
    points = shapely.get_coordinates(shapely.centroid(outline))
    wide = slide.width > slide.height
    aspect = slide.width / slide.height
    figure = Figure(figsize=(14, 14 / aspect + 7) if wide else (7 * aspect + 7.5, 7.5), dpi=110, layout="constrained")
    ratios = [14 / aspect, 6.5] if wide else [7 * aspect, 7]
    whole, near = figure.subplots(2, 1, height_ratios=ratios) if wide else figure.subplots(1, 2, width_ratios=ratios)
    thumbnail, factor = slide.thumbnail(1600)
    whole.imshow(thumbnail, extent=(0, thumbnail.shape[1] * factor, thumbnail.shape[0] * factor, 0))
    rows, columns = (np.arange(n) for n in tissue.mask.shape)
    whole.contour(columns * tissue.scale, rows * tissue.scale, tissue.mask, [0.5], colors=TISSUE_COLOUR, linewidths=0.7)
    shown = np.random.default_rng(0).permutation(len(points))[:20_000]
    whole.scatter(*points[shown].T, s=0.6, c=CELL_COLOUR, linewidths=0)
    _discs(whole, spots, diameter=spot_um / mpp, width=0.4)
    whole.set(xlim=(0, slide.width), ylim=(slide.height, 0))
    whole.set_title(f"{len(points):,} cells (green), {len(spots):,} spots (blue), tissue (orange)", fontsize=10)

    centre = _crowded(points)
    half = ZOOM_UM / mpp / 2
    x, y = (int(v - half) for v in centre)
    side = int(2 * half)
    near.imshow(slide.read(x, y, width=side, height=side), extent=(x, x + side, y + side, y))
    close = np.abs(points - centre).max(1) < half
    if shapely.area(outline[close]).any():
        edges = [shapely.get_coordinates(cell) for cell in outline[close]]
        near.add_collection(LineCollection(edges, colors=CELL_COLOUR, linewidths=0.9))
    else:
        near.scatter(*points[close].T, s=14, facecolors="none", edgecolors=CELL_COLOUR)
    _discs(near, spots, diameter=spot_um / mpp, width=1.6)
    near.set(xlim=(x, x + side), ylim=(y + side, y))
    near.set_title(f"{ZOOM_UM:g} um: outlines should follow the cells", fontsize=10)
    for axes in (whole, near):
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, format="png")


def _discs(axes: Axes, spots: np.ndarray, *, diameter: float, width: float) -> None:
    sizes = np.full(len(spots), diameter)
    axes.add_collection(
        EllipseCollection(
            sizes, sizes, np.zeros(len(spots)), units="xy", offsets=spots, offset_transform=axes.transData,
            facecolors="none", edgecolors=SPOT_COLOUR, linewidths=width,
        )
    )  # fmt: skip


def _crowded(points: np.ndarray) -> np.ndarray:
    """Find the cell nearest the middle of all: a place that certainly has cells."""
    return points[np.abs(points - np.median(points, 0)).sum(1).argmin()]
