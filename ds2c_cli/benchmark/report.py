"""Report a benchmark: the paper's table and ours, paired differences, costs and figures, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation.baselines import BASELINES
from ..evaluation.figures import ablation, areas, cells_per_spot, painted, score_by_genes
from ..evaluation.metrics import RESAMPLES
from ..evaluation.page import Table, Value, legend, save_figures, write_page
from ..evaluation.scoring import SEES_SPOT, given_spot
from ..files import replacing, write_json
from ..project import Project
from ..schema import METRICS_VERSION
from ..training.train import CELL_SUPERVISED
from .board import Board, Mean
from .plan import ENSEMBLE, Benchmark
from .results import Results

TEMPLATE = Path(__file__).parent / "templates" / "benchmark.html.j2"


@dataclass(frozen=True)
class Definition:
    """A table of scores: what it says of which genes, and whether it is among the main ones, for the terminal."""

    words: str
    metric: str
    genes: str
    main: bool = False


IMAGE_TABLES = (
    Definition("mean r, top 50 genes", "pearson", "top50"),
    Definition("mean r, top 100 genes", "pearson", "top100", main=True),
    Definition("mean r, top 200 genes", "pearson", "top200"),
    Definition("mean r, 50 most variable genes", "pearson", "hvg50", main=True),
    Definition("mean r, 100 most variable genes", "pearson", "hvg100"),
    Definition("mean r, all genes", "pearson", "all"),
    Definition("mean r, within spots, top 100 genes", "within_spot", "top100"),
    Definition("mean r, within spots, 50 most variable genes", "within_spot", "hvg50", main=True),
    Definition("spots, mean r, top 50 genes", "spot_pearson", "top50"),
    Definition("spots, mean r, top 100 genes", "spot_pearson", "top100", main=True),
    Definition("spots, mean r, top 200 genes", "spot_pearson", "top200"),
    Definition("spots, mean r, 50 most variable genes", "spot_pearson", "hvg50"),
    Definition("spots, mean r, 100 most variable genes", "spot_pearson", "hvg100"),
    Definition("spots, mean r, all genes", "spot_pearson", "all"),
)
GIVEN_TABLES = (
    Definition("mean r, top 100 genes", "pearson", "top100", main=True),
    Definition("mean r, 50 most variable genes", "pearson", "hvg50"),
    Definition("mean r, all genes", "pearson", "all"),
)
DIFFERENCE_TABLES = (
    Definition("top 100 genes", "pearson", "top100"),
    Definition("50 most variable genes", "pearson", "hvg50"),
    Definition("within spots, 50 most variable genes", "within_spot", "hvg50"),
    Definition("spots, top 100 genes", "spot_pearson", "top100"),
    Definition("spots, 50 most variable genes", "spot_pearson", "hvg50"),
)
Name = tuple[str, str]  # a model, and the encoder it reads; empty for a baseline
Entry = tuple[str, Callable[..., Mean | None]]  # a row: how it is called, and its score in a column


def write_benchmark(project: Project, plan: Benchmark, results: Results) -> Path:
    """Write report.html, table.csv, differences.csv, metrics.json and the figures into the benchmark's folder."""
    board = Board(results)
    page = write_page(
        results.folder / "report.html",
        TEMPLATE,
        name=plan.name,
        summary=_summary(project, plan, results),
        legend=legend(results.rows["scenario"].unique()),
        tables=tables_of(plan, board),
        reference=plan.reference,
        differences=[table for table in difference_tables(plan, board) if table.rows],
        figures=save_figures(results.folder, _figures(project, plan, board=board, results=results)),
        costs=_costs(results),
        resamples=RESAMPLES,
    )
    _write_tables(plan, board, results)
    return page


def tables_of(plan: Benchmark, board: Board, brief: bool = False) -> list[Table]:
    """Give the paper's Table 1, our columns, spots, ablations, and apart from them what was given the measured spot.

    `brief` gives the main ones, without intervals.
    """
    names, apart = _names(plan, board), _ablations(plan)
    image = [name for name in names if not given_spot(name[0])]
    given = [name for name in names if given_spot(name[0])]
    ablated = [name for name in image if name[0] in apart or name[0] in ("paper", "additive")] if apart else []
    groups = (
        ("From the image alone", IMAGE_TABLES, [name for name in image if name[0] not in apart]),
        ("Ablations, from the image alone", IMAGE_TABLES, ablated),
        (
            "Given the measured spots (comparable with nothing above)",
            GIVEN_TABLES,
            [name for name in given if name[0].removesuffix(f" {SEES_SPOT}") not in apart],
        ),
    )
    tables = []
    for title, definitions, chosen in groups:
        several = _several_encoders(chosen)
        entries = [(_called(name, several), partial(board.mean, *name)) for name in chosen]
        for one in definitions:
            if one.main or not brief:
                shown = _value if brief else _shown
                tables.append(
                    _table(board, one, title=f"{title}: {one.words}", names=chosen, entries=entries, shown=shown)
                )
    return [table for table in tables if table.rows]


def difference_tables(plan: Benchmark, board: Board) -> list[Table]:
    """Give every image-only model less the reference, of the same encoder where it has one."""
    names = [name for name in _names(plan, board) if not given_spot(name[0])]
    several = _several_encoders(names)
    entries = []
    for encoder in dict.fromkeys(encoder for _, encoder in names if encoder):
        reference = (plan.reference, encoder)
        for name in names:
            if name[1] in ("", encoder) and name != reference:
                entries.append((_called((name[0], encoder), several), partial(board.difference, name, reference)))
    return [
        _table(board, one, title=f"Difference in mean r, {one.words}", names=names, entries=entries, shown=_signed)
        for one in DIFFERENCE_TABLES
    ]


def _table(
    board: Board,
    one: Definition,
    *,
    title: str,
    names: Sequence[Name],
    entries: Sequence[Entry],
    shown: Callable[[Mean | None], Value],
) -> Table:
    """Fill in a table: a row per entry that has a score, a column wherever one of the names has."""
    what = (one.metric, one.genes)
    columns = [where for where in board.columns(one.metric) if any(board.mean(*name, *where, *what) for name in names)]
    rows = []
    for called, score in entries:
        found = [score(*where, *what) for where in columns]
        if any(found):
            rows.append([called, *map(shown, found)])
    return Table(title, ["model", *map(_heading, columns)], rows)


def _names(plan: Benchmark, board: Board) -> list[Name]:
    """List (model, encoder) in the report's order: trivial baselines, the models as in the file, the ceiling last."""
    order = [*BASELINES]
    for model in sorted(plan.models, key=lambda one: one.settings.model == CELL_SUPERVISED):
        order += [model.name, f"{model.name}, {ENSEMBLE}"]
    encoders = ["", *(encoder.name for encoder in plan.encoders)]

    def rank(name: Name) -> tuple[int, int]:
        return encoders.index(name[1]), order.index(name[0].removesuffix(f" {SEES_SPOT}"))

    return sorted(set(zip(board.rows["model"], board.rows["encoder"], strict=True)), key=rank)


def _ablations(plan: Benchmark) -> set[str]:
    names = {model.name for model in plan.models if model.ablation}
    return names | {f"{name}, {ENSEMBLE}" for name in names}


def _several_encoders(names: Sequence[Name]) -> bool:
    return len({encoder for _, encoder in names if encoder}) > 1


def _heading(where: tuple[str, str]) -> str:
    return f"{where[0]} {where[1]}"


def _called(name: Name, several: bool) -> str:
    return f"{name[0]} ({name[1]})" if several and name[1] else name[0]


def _value(mean: Mean | None) -> float | None:
    return mean.value if mean else None


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


def _figures(project: Project, plan: Benchmark, *, board: Board, results: Results) -> dict[str, Figure]:
    """Draw curves and ablations per design, cells per spot, and a gene on each slide by models it was held out of."""
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
        figures[f"genes_{design}"] = score_by_genes(here, main, scenarios=scenarios)
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
    """Name the panels of the curves: the paper's columns, OOS over members where no cell is outside."""
    there = set(table["scenario"])
    panels = ["IS_in", "IS_out"] if "IS_in" in there else ["IS"]
    panels += [base if base in there else f"{base}_in" for base in ("OOS", "OOD")]
    return [panel for panel in panels if panel in there]


def _costs(results: Results) -> list[Table]:
    """Give time and memory by step; of trainings and scores the mean by model."""
    steps = results.steps
    if steps.empty:
        return []
    rows: list[list[Value]] = []
    for step, of_step in steps.groupby("step", sort=False):
        seconds, memory, device = of_step["seconds"], of_step["memory_mb"], of_step["device_mb"]
        rows.append(
            [str(step), len(of_step), float(seconds.sum()), float(seconds.mean()), float(memory.max()),
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


def _summary(project: Project, plan: Benchmark, results: Results) -> list[str]:
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
    return words


def _write_tables(plan: Benchmark, board: Board, results: Results) -> None:
    keys = ["model", "encoder", "design", "column", "metric", "genes"]
    rows, differences = [], []
    for key in board.rows[keys].drop_duplicates().itertuples(index=False):
        mean = board.mean(*key)
        assert mean is not None
        named = dict(zip(keys, key, strict=True))
        rows.append({**named, **vars(mean)})
        model, encoder, *where = key
        other = (plan.reference, encoder)
        if given_spot(model) or not encoder or (model, encoder) == other:
            continue
        if found := board.difference((model, encoder), other, *where):
            differences.append({**named, "less": plan.reference, **vars(found)})
    for name, table in (("table.csv", rows), ("differences.csv", differences)):
        with replacing(results.folder / name) as part:
            pd.DataFrame(table).to_csv(part, index=False, float_format="%.5f")
    tidy = results.rows.drop(columns=["unit", "column"]).astype(object).where(results.rows.notna(), None)
    write_json(results.folder / "metrics.json", {"version": METRICS_VERSION, "rows": tidy.to_dict("records")})
