"""Report an evaluation: tables for terminal and page, figures, one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..models import MODELS
from ..project import Project
from ..training.train import CELL_SUPERVISED
from .baselines import BASELINES, SEE_SPOT
from .evaluate import Evaluated, relative_to_ceiling
from .figures import cells_per_spot, painted, score_by_genes
from .page import TEMPLATES, Table, Value, legend, save_figures, write_page
from .scoring import SEES_SPOT, Painted, given_spot

# Baselines, the models from the last of their table on, and what they cannot exceed.
ORDER = (*BASELINES, *(name for name in reversed(MODELS) if name != CELL_SUPERVISED), CELL_SUPERVISED)
SCENARIOS = ("IS_in", "IS_out", "VAL_in", "VAL_out", "OOS", "OOS_in", "OOS_out", "OOD", "OOD_in", "OOD_out")
METRICS = {"pearson": "", "within_spot": "within-spot ", "spot_pearson": "spots "}
ALL_SCORES = (
    "model", "sample", "scenario", "metric", "genes", "value", "low", "high", "n_cells", "n_genes", "seed",
)  # fmt: skip


def tables_of(found: Evaluated, genes: str = "top100") -> list[Table]:
    """Give tables of one gene set: from the image alone, apart given the spot, each also as shares of the ceiling."""
    rows = found.rows[found.rows["genes"] == genes]
    share = relative_to_ceiling(rows)
    given = rows["model"].map(given_spot).astype(bool)
    what = f"mean r over the {genes.replace('top', 'top ').replace('hvg', 'most variable ')} genes"
    tables = []
    for chosen, title in (
        (~given, f"From the image alone: {what}"),
        (given, f"Given the measured spot (not comparable with the above): {what}"),
    ):
        tables.append(_table(title, rows[chosen], rows.loc[chosen, "value"]))
        tables.append(_table(f"The same as a share of {CELL_SUPERVISED}", rows[chosen], share[chosen]))
    return [table for table in tables if table.rows]


def write_report(project: Project, found: Evaluated) -> Path:
    """Write report.html and its figures beside metrics.json; the page holds the figures and needs no other file."""
    others = [genes for genes in dict.fromkeys(found.rows["genes"]) if genes != "top100"]
    largest = found.rows.groupby("sample", sort=True)["n_cells"].max()
    return write_page(
        found.folder / "report.html",
        TEMPLATES / "evaluation.html.j2",
        name=found.folder.name,
        samples=", ".join(f"{sample} ({number:,} scored)" for sample, number in largest.items()),
        warnings=found.warnings,
        legend=legend(found.rows["scenario"].unique()),
        tables=tables_of(found),
        more_tables=[(genes, tables_of(found, genes)) for genes in others],
        figures=save_figures(found.folder, _figures(project, found)),
        all_scores=Table("", ALL_SCORES, found.rows[[*ALL_SCORES]].to_numpy(object).tolist()),
    )


def _figures(project: Project, found: Evaluated) -> dict[str, Figure]:
    samples = dict.fromkeys(found.rows["sample"])
    by_genes = _score_by_genes(found)
    figures = {} if by_genes is None else {"genes": by_genes}
    numbers = {name: project.sample(name).spots["n_cells"].to_numpy() for name in samples}
    figures["cells_per_spot"] = cells_per_spot(numbers)
    for sample in dict.fromkeys(one.sample for one in found.painted):
        figures[f"painted_{sample}"] = _painted([one for one in found.painted if one.sample == sample])
    return figures


def _table(title: str, rows: pd.DataFrame, values: pd.Series) -> Table:
    labelled = rows.assign(shown=values)
    columns, picks = ["model"], []
    for metric, words in METRICS.items():
        for scenario in (*SCENARIOS, "IS", "VAL"):
            if ((labelled["metric"] == metric) & (labelled["scenario"] == scenario)).any():
                columns.append(f"{words}{scenario}")
                picks.append((metric, scenario))
    body = []
    for model in sorted(labelled["model"].unique(), key=_rank):
        of_model = labelled[labelled["model"] == model]
        cells: list[Value] = []
        for metric, scenario in picks:
            chosen = of_model[(of_model["metric"] == metric) & (of_model["scenario"] == scenario)]["shown"].dropna()
            cells.append(float(chosen.mean()) if len(chosen) else None)
        seeds = of_model["seed"].nunique()
        body.append([model + (f" ({seeds} seeds)" if seeds > 1 else ""), *cells])
    return Table(title, columns, [row for row in body if any(v is not None for v in row[1:])])


def _rank(model: str) -> tuple[int, str]:
    base = model.removesuffix(f" {SEES_SPOT}").split(",")[0]
    return (ORDER.index(base) if base in ORDER else len(ORDER), model)


def _score_by_genes(found: Evaluated) -> Figure | None:
    """Draw curves, for held-out cells where there are any."""
    table = found.per_gene[(found.per_gene["metric"] == "pearson") & found.per_gene["value"].notna()]
    table = table[~table["model"].str.endswith(SEES_SPOT)]
    if table.empty:
        table = found.per_gene[(found.per_gene["metric"] == "spot_pearson") & found.per_gene["value"].notna()]
    if table.empty:
        return None
    scenario = next(
        (s for s in ("OOS_in", "OOD_in", "OOS", "OOD") if s in set(table["scenario"])), table["scenario"].iloc[0]
    )
    here = table.loc[table["scenario"] == scenario, "model"].unique()
    models = sorted((m for m in here if m not in BASELINES or m in SEE_SPOT), key=_rank)
    return score_by_genes(table, models, scenarios=[scenario], given_spot=SEE_SPOT)


def _painted(shown: Sequence[Painted]) -> Figure:
    """Paint every model that saw no spot (its first seed)."""
    first = {one.model: one for one in reversed(shown)}
    return painted(sorted(first.values(), key=lambda one: _rank(one.model)))
