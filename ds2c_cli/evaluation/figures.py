"""Draw the figures of reports: told apart in print and with any colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plotting.drawing import VALUES, scale_bar, scale_of
from .scoring import Painted

# Okabe and Ito's colours; lines also differ by dashes and bars by place, so that none is told by colour alone.
COLOURS = ("#000000", "#e69f00", "#0072b2", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#7f7f7f")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
MOST_GENES = 200  # of the paper's curves


def score_by_genes(
    per_gene: pd.DataFrame, models: Sequence[str], *, scenarios: Sequence[str], given_spot: Sequence[str] = ()
) -> Figure:
    """Draw the mean correlation of the best k genes against k, a line per model, a panel per scenario, and its range.

    `per_gene` has model, scenario, sample, checkpoint and value; `given_spot` are dotted and thin.
    """
    figure = Figure(figsize=(1.2 + 3.3 * len(scenarios), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(scenarios), squeeze=False, sharey=True)[0]
    for axes, scenario in zip(panels, scenarios, strict=True):
        for model in models:
            curves = _curves(per_gene[(per_gene["model"] == model) & (per_gene["scenario"] == scenario)])
            if not len(curves):
                continue
            k = np.arange(1, curves.shape[1] + 1)
            number = models.index(model)
            dashes = ":" if model in given_spot else DASHES[number % len(DASHES)]
            line = {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes, "linewidth": 1.6}
            axes.plot(k, curves.mean(0), label=model, **line)
            if len(curves) > 1:
                axes.fill_between(k, curves.min(0), curves.max(0), color=line["color"], alpha=0.12, linewidth=0)
        axes.set(xlabel="best genes", title=scenario.replace("_", " "))
        _plain(axes)
    panels[0].set_ylabel("mean r")
    handles, labels = panels[0].get_legend_handles_labels()
    title = "dotted: given the spot" if set(models) & set(given_spot) else None
    figure.legend(handles, labels, frameon=False, loc="outside right center", fontsize=8, title=title, title_fontsize=8)
    return figure


def areas(per_gene: pd.DataFrame, models: Sequence[str], scenarios: Sequence[str]) -> pd.DataFrame:
    """Give the area under each run's curve over up to 200 genes, as a mean r: model, scenario, area."""
    rows = [
        {"model": model, "scenario": scenario, "area": float(curve.mean())}
        for model in models
        for scenario in scenarios
        for curve in _curves(per_gene[(per_gene["model"] == model) & (per_gene["scenario"] == scenario)])
    ]
    return pd.DataFrame(rows, columns=["model", "scenario", "area"])


def ablation(table: pd.DataFrame, models: Sequence[str], scenarios: Sequence[str]) -> Figure:
    """Draw `areas`: every run a dot, their mean a bar, a panel per scenario."""
    figure = Figure(figsize=(2.2 + 2.6 * len(scenarios), 0.9 + 0.32 * len(models)), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(scenarios), squeeze=False, sharey=True)[0]
    for axes, scenario in zip(panels, scenarios, strict=True):
        for place, model in enumerate(models):
            values = table.loc[(table["model"] == model) & (table["scenario"] == scenario), "area"].to_numpy()
            if not len(values):
                continue
            axes.barh(place, values.mean(), height=0.62, color="#cfe0ee", edgecolor="#0072b2", linewidth=0.8)
            axes.plot(values, np.full(len(values), place), "o", color="#000000", markersize=3)
            axes.annotate(
                f"{values.mean():.3f}", (0, place), (3, 0), textcoords="offset points", va="center", fontsize=8
            )
        known = table.loc[table["scenario"] == scenario, "area"]
        low = min(0.0, float(known.min())) if len(known) else 0.0
        axes.set(xlabel="area under the curve", title=scenario.replace("_", " "), yticks=range(len(models)))
        axes.set_yticklabels(models)
        axes.set_xlim(left=low)
        _plain(axes)
    panels[0].invert_yaxis()
    return figure


def cells_per_spot(numbers: Mapping[str, np.ndarray]) -> Figure:
    """Draw how many cells the spots of each sample hold, of those with any: an array may reach beyond the tissue."""
    figure = Figure(figsize=(7, 3), dpi=150, layout="constrained")
    axes = figure.subplots()
    numbers = {name: number[number > 0] for name, number in numbers.items()}
    top = max(int(n.max(initial=1)) for n in numbers.values())
    width = max(1, round(top / 40))
    for i, (name, number) in enumerate(numbers.items()):
        axes.hist(
            number, bins=list(np.arange(1, top + width + 1, width) - 0.5), histtype="step",
            color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i // len(COLOURS) % len(DASHES)], linewidth=1.4,
            label=f"{name}, median {np.median(number) if len(number) else 0:.0f}",
        )  # fmt: skip
    axes.set(xlabel="cells per spot", ylabel="spots with cells", title="Cells per spot")
    _plain(axes)
    axes.legend(frameon=False, fontsize=7 if len(numbers) > 6 else 9, ncols=1 + len(numbers) // 9)
    return figure


def painted(shown: Sequence[Painted]) -> Figure:
    """Draw a gene on one slide: the truth, what spots say, then every model with its r."""
    first = shown[0]
    panels = [(f"{first.gene}: truth", first.points, first.truth), ("spots", first.spot_points, first.spots)]
    panels += [(f"{one.model}, r = {one.pearson:.2f}", one.points, one.prediction) for one in shown]
    span = np.ptp(first.points, axis=0)
    down = span[0] > 3 * span[1]  # a strip is stacked, other slides stand side by side
    columns = 1 if down else min(len(panels), 4)
    rows = -(-len(panels) // columns)
    width = 12.0 if down else 3.2
    figure = Figure(
        figsize=(width * columns, rows * (width * span[1] / span[0] + 0.35) + 0.3), dpi=130, layout="constrained"
    )
    axes_of = figure.subplots(rows, columns, squeeze=False).ravel()
    frame = np.array([first.points.min(0), first.points.max(0)])
    area = width**2 * span[1] / span[0] * 72**2  # of a panel, in square points
    for axes, (title, points, values) in zip(axes_of, panels, strict=False):
        dot = float(np.clip(0.55 * area / len(points), 0.6, 200))
        axes.scatter(
            *points.T, c=values, s=dot, cmap=VALUES, norm=scale_of(values), linewidths=0, rasterized=True,
        )  # fmt: skip
        axes.set(aspect="equal", xticks=[], yticks=[], xlim=frame[:, 0], ylim=frame[::-1, 1])
        axes.set_title(title, fontsize=9)
    for axes in axes_of[len(panels) :]:
        axes.set_axis_off()
    scale_bar(axes_of[0], 1.0)
    scale = "log1p of counts per 10,000 of the spot, each panel from its 1st to 99th percentile"
    figure.suptitle(f"{first.sample}: {scale}", fontsize=9)
    return figure


def _curves(table: pd.DataFrame) -> np.ndarray:
    """(runs, k) mean of each run's best 1 to k genes; k is the most that all runs have, up to 200."""
    curves = []
    for _, of_run in table[table["value"].notna()].groupby(["sample", "checkpoint", "seed"], dropna=False):
        ranked = np.sort(of_run["value"].to_numpy())[::-1][:MOST_GENES]
        curves.append(np.cumsum(ranked) / np.arange(1, len(ranked) + 1))
    length = min(map(len, curves), default=0)
    return np.array([curve[:length] for curve in curves]).reshape(len(curves), length)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
