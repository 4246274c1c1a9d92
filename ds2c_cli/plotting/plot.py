"""Genes on a slide: the H&E, what was measured and what was predicted, cell by cell, whole and enlarged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import schema
from ..errors import InputError, UsageError
from ..expression import find_genes, log_share
from ..files import replacing
from ..io.slides import Slide, open_slide
from ..prediction.file import PredictionFile
from ..project import Project, Sample, Workspace
from .drawing import colour_bar, paint_cells, paint_spots, scale_bar, scale_of, show_slide

ENLARGED_UM = 400.0  # side of the part that is enlarged
STRIP = 2.5  # a slide this much wider than high has its panels one below the other
LONGEST = 1600  # pixels of the slide in a panel
UNIT = "log1p of counts per 10,000 of the spot"

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Plotted:
    """A figure, and how well the prediction fits what was measured where both are known."""

    gene: str
    path: Path
    prediction: str
    pearson: float | None


@dataclass(frozen=True)
class Layer:
    """Values to paint: a cell's, or a spot's."""

    title: str
    values: np.ndarray
    of_spots: bool = False
    about: str = ""  # said once, above the whole slide


def plot(
    workspace: Workspace | Project,
    sample_name: str,
    *,
    genes: Sequence[str],
    prediction: str = "",
    window_um: Window | None = None,
    output: Path | None = None,
) -> list[Plotted]:
    """Draw genes of a sample on its slide, a PNG each: measured (cells where they were, else spots) and predicted.

    `prediction` names one of the project's, the latest by default; `window_um` is the part to enlarge: x, y, width and
    height in microns from the slide's upper left corner. Raises InputError for a gene that is neither measured nor
    predicted, or a sample with neither.
    """
    workspace = Workspace.of(workspace)
    project, progress = workspace.project, workspace.progress
    if output is not None and len(genes) > 1:
        raise UsageError(f"one file {output} cannot hold {len(genes)} genes", "Name one gene, or leave out -o.")
    sample = project.sample(sample_name)
    slide = open_slide(sample.slide)
    chosen = _prediction(project, sample, prediction)
    file = PredictionFile(chosen) if chosen else None
    window = _enlarged(sample, slide, window_um)
    outline = sample.outlines()
    measured = _Measured(sample, file.genes if file else None)
    folder = chosen.parent if chosen else sample.folder
    done = []
    for number, gene in enumerate(genes):
        progress(f"plot {sample.name}", number, len(genes), gene)
        layers = measured.layers(gene)
        pearson = None
        if file is not None and gene in file.genes:
            predicted = file.gene(schema.LAYER_SPOT_SHARE, gene)
            pearson = _pearson(layers[0].values, predicted) if layers and not layers[0].of_spots else None
            fit = "" if pearson is None else f"; r = {pearson:.2f} over {len(predicted):,} cells"
            layers.append(Layer("predicted", predicted, about=f" by {chosen.parent.name}{fit}" if chosen else ""))
        if not layers:
            known = sorted({*(file.genes if file else ()), *measured.genes})
            if not known:
                raise InputError(
                    f"sample {sample.name} has neither counts nor a prediction", "Run `ds2c predict` first."
                )
            find_genes(known, [gene])
        figure = _draw(sample, slide, outline=outline, gene=gene, layers=layers, window=window)
        plain = re.sub(r"[^\w.+-]", "_", gene)
        path = output or folder / f"{sample.name}-{plain}.png"
        with replacing(path) as part:
            figure.savefig(part, format="png")
        done.append(Plotted(gene, path, chosen.parent.name if chosen else "", pearson))
        progress(f"plot {sample.name}", number + 1, len(genes), gene)
    return done


def _prediction(project: Project, sample: Sample, name: str) -> Path | None:
    """Find the file of the prediction named, else of the latest, else none."""
    if name:
        path = Path(name) if name.endswith(".h5ad") else project.predictions(name) / f"{sample.name}.h5ad"
        if not path.is_file():
            known = sorted(path.parent.name for path in project.predictions("").glob(f"*/{sample.name}.h5ad"))
            raise InputError(
                f"there is no prediction {path} (sample {sample.name} has: {', '.join(known) or 'none yet'})",
                "Run `ds2c predict` first.",
            )
        return path
    return max(
        project.predictions("").glob(f"*/{sample.name}.h5ad"), key=lambda path: path.stat().st_mtime, default=None
    )


class _Measured:
    """What was measured of a sample, over the genes of a prediction where there is one, gene by gene."""

    def __init__(self, sample: Sample, panel: Sequence[str] | None) -> None:
        spots = sample.spot_counts() if sample.has_spot_counts else None
        self._cells = sample.cell_counts() if sample.has_cell_truth else None
        self._spots, self._context = spots, sample.cells["spot"].to_numpy()
        self.genes: list[str] = [] if spots is None else spots.genes.tolist()
        kept = np.isin(self.genes, panel) if panel is not None else np.ones(len(self.genes), bool)
        # The scale of a score: the spot's total over the genes that a model has.
        self._totals = (
            np.empty(0) if spots is None else np.asarray(spots.matrix[:, np.flatnonzero(kept)].sum(1)).ravel()
        )

    def layers(self, gene: str) -> list[Layer]:
        """Its cells, or where only spots were measured, its spots; nothing where the gene was not."""
        for counts, of_spots in ((self._cells, False), (self._spots, True)):
            if counts is None or gene not in counts.genes:
                continue
            column = counts.matrix[:, np.flatnonzero(counts.genes == gene)].toarray()
            context = np.arange(len(self._totals)) if of_spots else self._context
            totals = np.where(context >= 0, self._totals[context], 0)
            return [Layer("measured in spots" if of_spots else "measured", log_share(column, totals)[:, 0], of_spots)]
        return []


def _pearson(truth: np.ndarray, predicted: np.ndarray) -> float | None:
    known = np.isfinite(truth) & np.isfinite(predicted)
    x, y = truth[known], predicted[known]
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.ptp(x) and np.ptp(y) else None


def _enlarged(sample: Sample, slide: Slide, window_um: Window | None) -> Window:
    """Place the window, in pixels: the one asked for, else around the cell nearest the middle of all."""
    if window_um is not None:
        x, y, width, height = (value / sample.mpp for value in window_um)
        if min(width, height, x + width, y + height) <= 0 or x >= slide.width or y >= slide.height:
            raise UsageError(
                f"the window {', '.join(f'{value:g}' for value in window_um)} is not on the slide, which is "
                f"{slide.width * sample.mpp:.0f} x {slide.height * sample.mpp:.0f} um",
                "Give --window X,Y,WIDTH,HEIGHT in microns.",
            )
        return x, y, width, height
    points = sample.cells[["x", "y"]].to_numpy()
    centre = points[np.abs(points - np.median(points, 0)).sum(1).argmin()]
    side = min(ENLARGED_UM / sample.mpp, slide.width, slide.height)
    x, y = np.clip(centre - side / 2, 0, np.array([slide.width, slide.height]) - side)
    return float(x), float(y), side, side


def _draw(
    sample: Sample, slide: Slide, *, outline: np.ndarray, gene: str, layers: Sequence[Layer], window: Window
) -> Figure:
    """Draw the H&E and every layer beside it: the whole slide above, the window below."""
    whole: Window = (0, 0, slide.width, slide.height)
    aspect, n = slide.width / slide.height, len(layers) + 1
    strip = aspect > STRIP
    panel = (13.0, 13.0 / aspect + 0.3) if strip else (min(6.0, 6.0 * aspect) + 0.9, min(6.0, 6.0 / aspect) + 0.3)
    size = (13.0, n * panel[1]) if strip else (n * panel[0], panel[1])
    across = size[0] / n
    near = (size[0], (across - 0.9) * window[3] / window[2] + 0.4)
    figure = Figure(figsize=(size[0], size[1] + near[1] + 0.3), dpi=120, layout="constrained")
    figure.suptitle(f"{sample.name}: {gene}, {UNIT}", fontsize=11)
    parts = figure.subfigures(2, 1, height_ratios=[size[1], near[1]], squeeze=False).ravel()
    for part, place, rows in zip(parts, (whole, window), (n if strip else 1, 1), strict=True):
        axes_of = part.subplots(rows, n // rows, squeeze=False).ravel()
        for axes, layer in zip(axes_of, [None, *layers], strict=True):
            show_slide(axes, slide, window=place, longest=LONGEST, faint=layer is not None)
            if layer is None:
                axes.set_title("H&E", fontsize=9)
                scale_bar(axes, sample.mpp)
                if place is whole:
                    axes.add_patch(Rectangle(window[:2], *window[2:], fill=False, edgecolor="black", linewidth=1))
                continue
            _paint(axes, sample, outline=outline, layer=layer, place=place)
            axes.set_title(layer.title + (layer.about if place is whole else ""), fontsize=9, wrap=True)
            colour_bar(part, axes, layer.values)
    return figure


def _paint(axes: Axes, sample: Sample, *, outline: np.ndarray, layer: Layer, place: Window) -> None:
    """Paint what of a layer lies in a window."""
    scale, (x, y, width, height) = scale_of(layer.values), place
    if layer.of_spots:
        centres = sample.spots[["x", "y"]].to_numpy()
        diameter = sample.geometry.in_microns(sample.mpp).spot_um / sample.mpp
        paint_spots(axes, centres, layer.values, scale=scale, diameter=diameter)
        return
    near = np.flatnonzero(shapely.intersects(outline, shapely.box(x, y, x + width, y + height)))
    paint_cells(axes, outline[near], layer.values[near], scale=scale, mpp=sample.mpp)
