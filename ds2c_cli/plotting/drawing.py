"""A slide as axes of a figure: its pixels, cells and spots painted by value, and a scale bar in microns."""

from __future__ import annotations

import numpy as np
import shapely
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase
from matplotlib.path import Path as Outline
from matplotlib.patheffects import Normal, Stroke

from ..io.slides import Slide

VALUES = "viridis"  # told apart with any colour vision and in print
UNKNOWN = "#bbbbbb"
PERCENTILES = (1, 99)  # of the values; what lies beyond has the colour of the end
POINT_UM = 8.0  # diameter of the mark for a cell that is only a point


def show_slide(
    axes: Axes, slide: Slide, *, window: tuple[float, float, float, float], longest: int, faint: bool = False
) -> None:
    """Draw a window (x, y, width, height in level-0 pixels) at most about `longest` pixels long; `faint` for what is
    painted over.
    """
    x, y, width, height = (round(value) for value in window)
    if max(width, height) > 2 * longest:
        thumbnail, factor = slide.thumbnail(round(longest * max(slide.width, slide.height) / max(width, height)))
        left, top, right, bottom = (round(value / factor) for value in (x, y, x + width, y + height))
        pixels = thumbnail[max(top, 0) : bottom, max(left, 0) : right]
    else:
        pixels = slide.read(x, y, width=width, height=height)
    if faint:
        grey = pixels.mean(2, keepdims=True)
        pixels = np.repeat(grey * 0.35 + 255 * 0.65, 3, 2).astype(np.uint8)
    axes.imshow(pixels, extent=(x, x + width, y + height, y), interpolation="antialiased")
    axes.set(xlim=(x, x + width), ylim=(y + height, y), xticks=[], yticks=[], aspect="equal")


def paint_cells(axes: Axes, outline: np.ndarray, values: np.ndarray, *, scale: Normalize, mpp: float) -> None:
    """Fill outlines (n,) by their values (n,), NaN in grey; a point is a disc of 8 um."""
    colours = _colours(values, scale)
    points = shapely.get_type_id(outline) == shapely.GeometryType.POINT
    if points.any():
        paint_discs(axes, shapely.get_coordinates(outline[points]), diameter=POINT_UM / mpp, colours=colours[points])
    if not points.all():
        shapes = [_outline_of(shape) for shape in shapely.normalize(outline[~points])]
        axes.add_collection(PathCollection(shapes, facecolors=colours[~points], linewidths=0), autolim=False)


def paint_discs(axes: Axes, centres: np.ndarray, *, diameter: float, colours: np.ndarray) -> None:
    """Fill discs of a diameter in pixels around centres (n, 2)."""
    size = np.full(len(centres), diameter)
    discs = EllipseCollection(
        size, size, np.zeros(len(centres)), units="xy", offsets=centres, offset_transform=axes.transData,
        facecolors=colours, linewidths=0,
    )  # fmt: skip
    axes.add_collection(discs, autolim=False)


def paint_spots(axes: Axes, centres: np.ndarray, values: np.ndarray, *, scale: Normalize, diameter: float) -> None:
    """Fill discs of a diameter in pixels around centres (n, 2) by their values (n,), NaN in grey."""
    paint_discs(axes, centres, diameter=diameter, colours=_colours(values, scale))


def scale_of(values: np.ndarray) -> Normalize:
    """Scale colours from the 1st to the 99th percentile of the known values."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, PERCENTILES) if len(known) else (0.0, 1.0)
    return Normalize(low, max(high, low + 1e-6), clip=True)


def colour_bar(figure: FigureBase, axes: Axes, values: np.ndarray) -> None:
    """Draw the colours of values beside their axes; an end that also stands for values beyond it is pointed."""
    scale = scale_of(values)
    beyond = bool(np.nanmin(values, initial=np.inf) < scale.vmin), bool(np.nanmax(values, initial=-np.inf) > scale.vmax)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    bar = figure.colorbar(ScalarMappable(scale, VALUES), ax=axes, fraction=0.05, pad=0.01, aspect=15, extend=extend)
    bar.ax.tick_params(labelsize=7)


def scale_bar(axes: Axes, pixel_um: float) -> None:
    """Draw a bar of a round length, about a fifth of the axes' width, in their lower left corner.

    `pixel_um` is how many microns a unit of the axes is.
    """
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    width, height = right - left, high - low
    fifth = width * pixel_um / 5
    length = 10 ** np.floor(np.log10(fifth))
    length *= max(step for step in (1, 2, 5) if step * length <= fifth)
    x, y = left + 0.03 * width, high - 0.06 * height  # y points down
    bar = axes.plot([x, x + length / pixel_um], [y, y], color="black", linewidth=2.5, solid_capstyle="butt", zorder=5)
    bar[0].set_path_effects([Stroke(linewidth=4.5, foreground="white"), Normal()])  # seen on any tissue
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    axes.annotate(
        words, (x, y), xytext=(0, 3), textcoords="offset points", fontsize=7,
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}, zorder=6,
    )  # fmt: skip


def _colours(values: np.ndarray, scale: Normalize) -> np.ndarray:
    """(n, 4) RGBA."""
    map_of = colormaps[VALUES].with_extremes(bad=UNKNOWN)
    return map_of(scale(np.ma.masked_invalid(values)))


def _outline_of(shape: shapely.Geometry) -> Outline:
    """A normalised polygon or MultiPolygon as one path: holes run against their shell, so they stay empty."""
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(shape))]
    codes = [[Outline.MOVETO] + [Outline.LINETO] * (len(ring) - 2) + [Outline.CLOSEPOLY] for ring in rings]
    return Outline(np.concatenate(rings), np.concatenate(codes))
