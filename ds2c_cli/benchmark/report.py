"""The benchmark's report: the paper's table and ours, paired differences, costs and figures, in one HTML file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import __version__
from ..evaluation.baselines import BASELINES
from ..evaluation.figures import ablation, areas, cells_per_spot, painted, score_by_genes
from ..evaluation.metrics import RESAMPLES
from ..evaluation.report import STYLE, Table, html_figure, html_table
from ..evaluation.scoring import SEES_SPOT, given_spot
from ..files import replacing, write_json
from ..project import Project
from ..schema import METRICS_VERSION
from ..training.train import CELL_SUPERVISED
from .plan import ENSEMBLE, Benchmark
from .run import Results

TOPS = ("top50", "top100", "top200")
OURS = (  # genes, metric, words
    ("hvg50", "pearson", "50 most variable genes"),
    ("hvg100", "pearson", "100 most variable genes"),
    ("all", "pearson", "all genes"),
    ("top100", "within_spot", "within spots, top 100 genes"),
    ("hvg50", "within_spot", "within spots, 50 most variable genes"),
)
SPOT_LEVEL = (
    ("top50", "top 50 genes"),
    ("top100", "top 100 genes"),
    ("top200", "top 200 genes"),
    ("hvg50", "50 most variable genes"),
    ("hvg100", "100 most variable genes"),
    ("all", "all genes"),
)


@dataclass(frozen=True)
class Mean:
    """A model's mean over samples, folds and seeds, its 95 % bootstrap interval, and the SD between its seeds."""

    value: float
    low: float
    high: float
    seed_sd: float


class Board:
    """Looks scores up: by model and encoder, design, the paper's column, metric and set of genes."""

    def __init__(self, results: Results) -> None:
        self.rows = results.rows[results.rows["column"] != ""]
        self._means, self._differences = results.means, results.differences
        keys = ["model", "encoder", "design", "column", "metric", "genes"]
        self._groups: dict[Any, pd.DataFrame] = dict(iter(self.rows.groupby(keys, sort=False)))

    def columns(self, metric: str) -> list[tuple[str, str]]:
        """(design, column) that any model has a score of this metric in, in the paper's order."""
        here = self.rows[self.rows["metric"] == metric]
        found = dict.fromkeys(zip(here["design"], here["column"], strict=True))
        order = ("IS", "IS_in", "IS_out", "OOS", "OOS_in", "OOS_out", "OOD", "OOD_in", "OOD_out")
        designs = list(dict.fromkeys(self.rows["design"]))
        return sorted(found, key=lambda each: (designs.index(each[0]), order.index(each[1])))

    def mean(self, *key: str) -> Mean | None:
        """The score of (model, encoder, design, column, metric, genes); None where there is none."""
        frame = self._groups.get(key)
        if frame is None:
            return None
        low, high = np.nanpercentile(self._means[key], [2.5, 97.5])
        by_seed = frame.groupby("seed")["value"].mean()
        return Mean(
            float(frame["value"].mean()), float(low), float(high), float(by_seed.std()) if len(by_seed) > 1 else np.nan
        )

    def difference(self, model: tuple[str, str], reference: tuple[str, str], *where: str) -> Mean | None:
        """`model` less the reference on the samples and folds that both have, its interval paired; None without any."""
        drawn = self._differences.get((*model, reference[1], *where))
        if drawn is None:
            return None
        mine, theirs = (self._groups[(*each, *where)].groupby("unit")["value"].mean() for each in (model, reference))
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return Mean(float((mine - theirs).mean()), float(low), float(high), np.nan)


def write_benchmark(project: Project, plan: Benchmark, results: Results) -> Path:
    """Write report.html, table.csv, differences.csv, metrics.json and the figures into the benchmark's folder."""
    board = Board(results)
    parts = [
        f"<!doctype html><meta charset=utf-8><title>ds2c {html.escape(plan.name)}</title><style>{STYLE}</style>",
        f"<h1>ds2c benchmark: {html.escape(plan.name)}</h1>",
        _summary(project, plan, results),
    ]
    for table in tables_of(plan, board):
        parts.append(html_table(table))
    differences = [table for table in difference_tables(plan, board) if table.rows]
    if differences:
        parts.append(f"<h2>Paired differences to {html.escape(plan.reference)}</h2>")
        parts.append(
            "<p class=quiet>A model less the reference on the same blocks of cells; an interval without 0 is a "
            "difference that the data show, and is marked *."
        )
        parts += [html_table(table) for table in differences]
    parts.append("<h2>Figures</h2>")
    for name, figure in _figures(project, plan, board, results).items():
        parts.append(html_figure(results.folder, name, figure))
    parts.append("<h2>What it cost</h2>" + "".join(html_table(table) for table in _costs(results)))
    parts.append(_footer())
    path = results.folder / "report.html"
    with replacing(path) as part:
        part.write_text("\n".join(parts))
    _write_tables(plan, board, results)
    return path


def tables_of(plan: Benchmark, board: Board, brief: bool = False) -> list[Table]:
    """The paper's Table 1, our columns, spots, ablations, and apart from them what was given the measured spot.

    `brief` gives the main ones, without intervals.
    """
    intervals = not brief
    names = _names(plan, board)
    image = [name for name in names if not given_spot(name[0])]
    given = [name for name in names if given_spot(name[0])]
    apart = _ablations(plan)
    ablated = [name for name in image if name[0] in apart or name[0] in ("paper", "additive")] if apart else []
    image = [name for name in image if name[0] not in apart]
    given = [name for name in given if name[0].removesuffix(f" {SEES_SPOT}") not in apart]
    tables = []
    for title, chosen in (("From the image alone", image), ("Ablations, from the image alone", ablated)):
        for genes in TOPS if not brief else ("top100",):
            tables.append(_table(board, f"{title}: mean r, top {genes[3:]} genes", chosen, "pearson", genes, intervals))
        for genes, metric, words in (one for one in OURS if not brief or one[0] == "hvg50"):
            tables.append(_table(board, f"{title}: mean r, {words}", chosen, metric, genes, intervals))
        for genes, words in (one for one in SPOT_LEVEL if not brief or one[0] == "top100"):
            tables.append(_table(board, f"{title}: spots, mean r, {words}", chosen, "spot_pearson", genes, intervals))
    for genes, words in (
        ("top100", "top 100 genes"), ("hvg50", "50 most variable genes"), ("all", "all genes"),
    )[: 1 if brief else None]:  # fmt: skip
        title = f"Given the measured spots (comparable with nothing above): mean r, {words}"
        tables.append(_table(board, title, given, "pearson", genes, intervals))
    return [table for table in tables if table.rows]


def difference_tables(plan: Benchmark, board: Board) -> list[Table]:
    """Every image-only model less the reference, of the same encoder where it has one."""
    tables = []
    names = [name for name in _names(plan, board) if not given_spot(name[0])]
    several = len({encoder for _, encoder in names if encoder}) > 1
    for genes, metric, words in (
        ("top100", "pearson", "top 100 genes"), ("hvg50", "pearson", "50 most variable genes"),
        ("hvg50", "within_spot", "within spots, 50 most variable genes"),
        ("top100", "spot_pearson", "spots, top 100 genes"), ("hvg50", "spot_pearson", "spots, 50 most variable genes"),
    ):  # fmt: skip
        columns = [
            where for where in board.columns(metric) if any(board.mean(*name, *where, metric, genes) for name in names)
        ]
        rows = []
        for encoder in dict.fromkeys(encoder for _, encoder in names if encoder):
            for name in names:
                if name[1] not in ("", encoder) or name == (plan.reference, encoder):
                    continue
                found = [board.difference(name, (plan.reference, encoder), *where, metric, genes) for where in columns]
                if any(found):
                    rows.append([_called((name[0], encoder), several), *map(_signed, found)])
        tables.append(Table(f"Difference in mean r, {words}", ["model", *map(_heading, columns)], rows))
    return tables


def _names(plan: Benchmark, board: Board) -> list[tuple[str, str]]:
    """(model, encoder) in the report's order: trivial baselines, the models as in the file, the ceiling last."""
    order = [*BASELINES]
    for model in sorted(plan.models, key=lambda one: one.settings.model == CELL_SUPERVISED):
        order += [model.name, f"{model.name}, {ENSEMBLE}"]
    encoders = ["", *(encoder.name for encoder in plan.encoders)]

    def rank(name: tuple[str, str]) -> tuple[int, int]:
        return encoders.index(name[1]), order.index(name[0].removesuffix(f" {SEES_SPOT}"))

    return sorted(set(zip(board.rows["model"], board.rows["encoder"], strict=True)), key=rank)


def _ablations(plan: Benchmark) -> set[str]:
    names = {model.name for model in plan.models if model.ablation}
    return names | {f"{name}, {ENSEMBLE}" for name in names}


def _table(
    board: Board, title: str, names: Sequence[tuple[str, str]], metric: str, genes: str, intervals: bool
) -> Table:
    columns = [
        where for where in board.columns(metric) if any(board.mean(*name, *where, metric, genes) for name in names)
    ]
    several = len({encoder for _, encoder in names if encoder}) > 1
    rows = []
    for name in names:
        found = [board.mean(*name, *where, metric, genes) for where in columns]
        if any(found):
            shown = [_shown(mean) if intervals else (mean.value if mean else None) for mean in found]
            rows.append([_called(name, several), *shown])
    return Table(title, ["model", *map(_heading, columns)], rows)


def _heading(where: tuple[str, str]) -> str:
    return f"{where[0]} {where[1]}"


def _called(name: tuple[str, str], several: bool) -> str:
    return f"{name[0]} ({name[1]})" if several and name[1] else name[0]


def _shown(mean: Mean | None) -> str | None:
    if mean is None:
        return None
    spread = f" ±{mean.seed_sd:.3f}" if np.isfinite(mean.seed_sd) else ""
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]{spread}"


def _signed(mean: Mean | None) -> str | None:
    if mean is None:
        return None
    sure = " *" if mean.low > 0 or mean.high < 0 else ""
    return f"{mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]{sure}"


def _figures(project: Project, plan: Benchmark, board: Board, results: Results) -> dict[str, Figure]:
    """Curves and ablations a design, cells a spot, and a gene on each slide by the models that it was held out of."""
    names = [name for name in _names(plan, board) if name[0] not in BASELINES and not given_spot(name[0])]
    several, apart = len(plan.encoders) > 1, _ablations(plan)
    single = [name for name in names if ENSEMBLE not in name[0]]
    main = [_called(name, several) for name in single if name[0] not in apart]
    ablated = [_called(name, several) for name in single if name[0] in apart or name[0] in ("paper", "additive")]
    table = results.curves
    pairs = zip(table["model"], table["encoder"], strict=True)
    table = table.assign(model=[_called(pair, several) for pair in pairs])
    figures = {}
    for design in plan.designs:
        here = table[table["design"] == design]
        metric = "pearson" if (here["metric"] == "pearson").any() else "spot_pearson"
        here = here[here["metric"] == metric]
        scenarios = _scenarios(here)
        if not scenarios:
            continue
        figures[f"genes_{design}"] = score_by_genes(here, main, scenarios)
        if apart:
            figures[f"ablation_{design}"] = ablation(areas(here, ablated, scenarios), ablated, scenarios)
    samples = dict.fromkeys(results.rows["sample"])
    figures["cells_per_spot"] = cells_per_spot(
        {name: project.sample(name).spots["n_cells"].to_numpy() for name in samples}
    )
    for sample in samples:
        slides = {(one.model, one.encoder): one for one in results.painted if one.sample == sample}
        shown = [
            replace(slides[name], model=f"{_called(name, several)}, {slides[name].scenario}")
            for name in single
            if name in slides and name[0] not in apart
        ]
        if shown:
            figures[f"painted_{sample}"] = painted(shown)
    return figures


def _scenarios(table: pd.DataFrame) -> list[str]:
    """Panels of the curves: the paper's columns, OOS over members where no cell is outside."""
    there = set(table["scenario"])
    panels = ["IS_in", "IS_out"] if "IS_in" in there else ["IS"]
    panels += [base if base in there else f"{base}_in" for base in ("OOS", "OOD")]
    return [panel for panel in panels if panel in there]


def _costs(results: Results) -> list[Table]:
    """Time and memory by step; of trainings and scores the mean by model."""
    steps = results.steps
    if steps.empty:
        return []
    rows = []
    for step, of_step in steps.groupby("step", sort=False):
        seconds, memory, device = of_step["seconds"], of_step["memory_mb"], of_step["device_mb"]
        rows.append(
            [step, len(of_step), float(seconds.sum()), float(seconds.mean()), float(memory.max()),
             float(device.max()) if device.max() else None]
        )  # fmt: skip
    table = Table(
        "Steps, as they ran here",
        ["step", "times", "seconds", "seconds each", "most memory MB", "most device MB"],
        rows,
    )
    trained = steps[steps["step"] == "train"]
    by_model = results.rows.drop_duplicates("checkpoint").set_index("checkpoint")
    known = trained[trained["what"].isin(by_model.index)]
    called = by_model["model"] + ", " + by_model["encoder"]
    rows = [
        [str(model), len(part), float(part["seconds"].mean()), float(part["memory_mb"].max())]
        for model, part in known.assign(called=known["what"].map(called)).groupby("called", sort=False)
    ]
    return [table, Table("Trainings", ["model", "times", "seconds each", "most memory MB"], rows)]


def _summary(project: Project, plan: Benchmark, results: Results) -> str:
    geometry = project.sample(plan.requests[0].name).geometry
    size = f"{geometry.spot_px:g} px" if geometry.spot_px else f"{geometry.spot_um:g} um"
    cells = results.rows.groupby("sample")["n_cells"].max()
    words = [
        f"Spots of {size}, layout {geometry.layout}, membership {geometry.membership}. Encoders: "
        + ", ".join(encoder.name for encoder in plan.encoders)
        + f". Seeds: {', '.join(map(str, plan.seeds))}.",
        "Samples: " + ", ".join(f"{sample} ({number:,} scored)" for sample, number in cells.items()) + ".",
    ]
    for fold in plan.folds:
        apart = ", ".join(f"{sample} {scenario}" for sample, scenario in fold.scenario.items() if scenario != "IS")
        words.append(f"{fold.name}: trained on {', '.join(fold.train)}; scored on these and on {apart or 'no other'}.")
    words += [f"Left out: {reason}." for reason in results.left_out]
    words += [f"Failed: {what}: {reason}" for what, reason in results.failed.items()]
    if results.missing:
        words.append(f"Not there yet: {len(results.missing)} scores, among them {'; '.join(results.missing[:5])}.")
    words += [f"Warning: {sentence}." for sentence in results.warnings]
    return "".join(f"<p>{html.escape(sentence)}" for sentence in words)


def _footer() -> str:
    return (
        f"<p class=quiet>ds2c {__version__}. r is Pearson's correlation per gene over cells, or over spots, of "
        "log1p(1e4 c / total of the spot); genes constant in truth are left out. Top: a model's own best genes. Most "
        "variable: fixed on the training spots. Brackets: 95 % intervals, bootstrap over spatial blocks, "
        f"{RESAMPLES:,} resamples; ±: SD between seeds. Seconds are of a shared machine."
    )


def _write_tables(plan: Benchmark, board: Board, results: Results) -> None:
    rows: list[dict[str, Any]] = []
    keys = ["model", "encoder", "design", "column", "metric", "genes"]
    for key in board.rows[keys].drop_duplicates().itertuples(index=False):
        mean = board.mean(*key)
        assert mean is not None
        rows.append({**dict(zip(keys, key, strict=True)), **vars(mean)})
    differences = []
    for row in rows:
        other = (plan.reference, row["encoder"])
        where = [row[key] for key in keys[2:]]
        mine = (row["model"], row["encoder"])
        if given_spot(mine[0]) or not mine[1] or mine == other:
            continue
        if found := board.difference(mine, other, *where):
            differences.append({**{key: row[key] for key in keys}, "less": plan.reference, **vars(found)})
    for name, table in (("table.csv", rows), ("differences.csv", differences)):
        with replacing(results.folder / name) as part:
            pd.DataFrame(table).to_csv(part, index=False, float_format="%.5f")
    tidy = results.rows.drop(columns=["unit", "column"]).astype(object).where(results.rows.notna(), None)
    write_json(results.folder / "metrics.json", {"version": METRICS_VERSION, "rows": tidy.to_dict("records")})
