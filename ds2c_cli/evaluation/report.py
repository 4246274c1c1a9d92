"""The report of an evaluation: tables for terminal and page, figures, one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import __version__
from ..files import replacing
from ..project import Project
from ..training.train import CELL_SUPERVISED
from .baselines import BASELINES, SEE_SPOT
from .evaluate import Evaluated, relative_to_ceiling
from .figures import cells_per_spot, painted, score_by_genes
from .scoring import SEES_SPOT, Painted

ORDER = (*BASELINES, "mlp", "paper", "additive", CELL_SUPERVISED)
SCENARIOS = ("IS_in", "IS_out", "VAL_in", "VAL_out", "OOS", "OOS_in", "OOS_out", "OOD", "OOD_in", "OOD_out")
METRICS = {"pearson": "", "within_spot": "within-spot ", "spot_pearson": "spots "}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-variant-numeric:tabular-nums}
th,td{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}
th{border-bottom:2px solid #222}caption{text-align:left;font-weight:600;padding:.4em 0}img{max-width:100%}
.quiet{color:#666}
"""


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of a name and numbers (None where there is none)."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def tables_of(found: Evaluated, genes: str = "top100") -> list[Table]:
    """One gene set: from the image alone and, apart, given the spot; each table also as a share of the ceiling."""
    rows = found.rows[found.rows["genes"] == genes]
    share = relative_to_ceiling(rows)
    given = rows["model"].str.endswith(SEES_SPOT) | rows["model"].isin(SEE_SPOT)
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
    samples = dict.fromkeys(found.rows["sample"])
    figures: dict[str, Figure | None] = {
        "genes": _score_by_genes(found),
        "cells_per_spot": cells_per_spot({name: project.sample(name).spots["n_cells"].to_numpy() for name in samples}),
    }
    for sample in dict.fromkeys(p.sample for p in found.painted):
        figures[f"painted_{sample}"] = _painted([p for p in found.painted if p.sample == sample])
    parts = [
        f"<!doctype html><meta charset=utf-8><title>ds2c {html.escape(found.folder.name)}</title><style>{STYLE}</style>"
    ]
    parts.append(f"<h1>ds2c: {html.escape(found.folder.name)}</h1>{_summary(found)}")
    for genes in dict.fromkeys(["top100", *found.rows["genes"]]):
        shown = "" if genes == "top100" else f"<details><summary>{genes}</summary>"
        parts.append(
            shown + "".join(html_table(table) for table in tables_of(found, genes)) + ("</details>" if shown else "")
        )
    for name, figure in figures.items():
        if figure is None:
            continue
        parts.append(html_figure(found.folder, name, figure))
    parts.append(
        f"<h2>All scores</h2><details><summary>every model, sample and seed</summary>{_all_rows(found.rows)}</details>"
    )
    parts.append(
        f"<p class=quiet>ds2c {__version__}. Intervals: 95 %, bootstrap over spatial blocks of cells, 10,000 resamples."
    )
    path = found.folder / "report.html"
    with replacing(path) as part:
        part.write_text("\n".join(parts))
    return path


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
        cells: list[Any] = []
        for metric, scenario in picks:
            chosen = of_model[(of_model["metric"] == metric) & (of_model["scenario"] == scenario)]["shown"].dropna()
            cells.append(float(chosen.mean()) if len(chosen) else None)
        seeds = of_model["seed"].nunique()
        body.append([model + (f" ({seeds} seeds)" if seeds > 1 else ""), *cells])
    return Table(title, columns, [row for row in body if any(v is not None for v in row[1:])])


def _rank(model: str) -> tuple[int, str]:
    base = model.removesuffix(f" {SEES_SPOT}").split(",")[0]
    return (ORDER.index(base) if base in ORDER else len(ORDER), model)


def _summary(found: Evaluated) -> str:
    cells = found.rows[["sample", "n_cells", "scenario"]].drop_duplicates()
    largest = cells.groupby("sample")["n_cells"].max()
    words = ", ".join(f"{html.escape(str(s))} ({n:,} scored)" for s, n in largest.items())
    warned = "".join(f"<p>{html.escape(sentence)}." for sentence in found.warnings)
    return (
        f"<p>Samples: {words}. r is Pearson's correlation per gene; genes constant in truth are left out.</p>{warned}"
    )


def html_figure(folder: Path, name: str, figure: Figure) -> str:
    """Write a figure as PNG and PDF into the folder; the HTML that holds it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with replacing(folder / f"{name}.png") as part:
        part.write_bytes(buffer.getvalue())
    with replacing(folder / f"{name}.pdf") as part:
        figure.savefig(part, format="pdf", dpi=200)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{encoded}">'


def html_table(table: Table) -> str:
    """A table as HTML."""
    head = "".join(f"<th>{html.escape(c)}" for c in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{_shown(value)}" for value in row) for row in table.rows)
    return f"<table><caption>{html.escape(table.title)}</caption><tr>{head}{body}</table>"


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))


def _all_rows(rows: pd.DataFrame) -> str:
    columns = ["model", "sample", "scenario", "metric", "genes", "value", "low", "high", "n_cells", "n_genes", "seed"]
    head = "".join(f"<th>{c}" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_shown(v)}" for v in row) for row in rows[columns].itertuples(index=False))
    return f"<table><tr>{head}{body}</table>"


def _score_by_genes(found: Evaluated) -> Figure | None:
    """For held-out cells where there are any."""
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
    return score_by_genes(table, models, [scenario], SEE_SPOT)


def _painted(shown: Sequence[Painted]) -> Figure:
    """Every model that saw no spot (its first seed)."""
    first = {one.model: one for one in reversed(shown)}
    return painted(sorted(first.values(), key=lambda one: _rank(one.model)))
