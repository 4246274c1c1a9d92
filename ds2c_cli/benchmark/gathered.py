"""Add scores up, one sample of a fold at a time: rows, resampled means and differences, curves and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.figures import MOST_GENES
from ..evaluation.scoring import SEES_SPOT, Painted, Scored, given_spot, not_scored
from .jobs import Job
from .plan import IS, Benchmark, Fold


class Drawn:
    """The mean of resampled values (10000,), of which only sums are kept; NaN are left out."""

    def __init__(self) -> None:
        self._total = np.zeros(0, np.float32)
        self._number = np.zeros(0, np.int16)

    def add(self, values: np.ndarray) -> None:
        """Add (10000,)."""
        if not len(self._total):
            self._total, self._number = np.zeros(len(values), np.float32), np.zeros(len(values), np.int16)
        known = np.isfinite(values)
        self._total += np.where(known, values, 0)
        self._number += known

    def mean(self) -> np.ndarray:
        """(10000,); NaN where nothing was added that is known."""
        with np.errstate(invalid="ignore"):
            return self._total / self._number


CURVES = ("model", "encoder", "scenario", "sample", "checkpoint", "seed", "metric", "value")


class Gathered:
    """What a report needs of scores, added up one sample of a fold at a time."""

    def __init__(self, plan: Benchmark) -> None:
        self.reference = plan.reference
        self.first_seed = plan.seeds[0]
        self.rows: list[pd.DataFrame] = []
        self.curves: list[pd.DataFrame] = []
        self.painted: dict[tuple[str, str, str], Painted] = {}
        self.means: dict[tuple[Any, ...], Drawn] = {}
        self.differences: dict[tuple[Any, ...], Drawn] = {}
        self._left_out: dict[str, tuple[int, int]] = {}
        self._nothing: list[str] = []

    def add(self, fold: Fold, sample: str, scores: Sequence[tuple[Job, Scored]]) -> None:
        """Add all that was scored of a sample in a fold."""
        rows, drawn = [], []
        for job, scored in scores:
            self._note(fold, sample, scored)
            if not scored.rows:
                continue
            rows += scored.rows
            drawn.append(scored.resamples)
            self.curves.append(_curves(scored.per_gene).assign(design=fold.design, fold=fold.number))
            if job.seed == self.first_seed:
                self._paint(scored.painted, fold.scenario[sample])
        if not rows:
            return
        table = pd.DataFrame(rows).astype({"seed": float})
        table = table.assign(design=fold.design, fold=fold.number, unit=f"{fold.number}/{sample}")
        table["column"] = paper_columns(table)
        self.rows.append(table)
        self._draw(table[table["column"] != ""], np.concatenate(drawn))

    def warnings(self) -> list[str]:
        """Say what was not scored, of the fold where that was most."""
        said = [not_scored(name, left_out=cells, constant=genes) for name, (cells, genes) in self._left_out.items()]
        return [*self._nothing, *(sentence for its in said for sentence in its)]

    def _note(self, fold: Fold, sample: str, scored: Scored) -> None:
        if not scored.rows:
            sentence = f"{fold.name}: {' '.join(scored.warnings(sample))}"
            self._nothing += [] if sentence in self._nothing else [sentence]
            return
        left_out, constant = self._left_out.get(sample, (0, 0))
        self._left_out[sample] = max(left_out, scored.left_out), max(constant, scored.constant)

    def _paint(self, painted: Sequence[Painted], scenario: str) -> None:
        """Keep one picture of a model on a slide, of a network that the slide was held out of where there is one."""
        for one in painted:
            key = (one.sample, one.model, one.encoder)
            if key not in self.painted or (self.painted[key].scenario == IS and scenario != IS):
                self.painted[key] = replace(one, scenario=scenario)

    def _draw(self, table: pd.DataFrame, drawn: np.ndarray) -> None:
        """Add resampled values, row i of the table being drawn[i] (10000,)."""
        keys = ["model", "encoder", "design", "column", "metric", "genes"]
        of_unit: dict[Any, np.ndarray] = {}
        for key, frame in table.groupby(keys, sort=False):
            of_seeds = Drawn()
            for row in frame.index:
                self.means.setdefault(key, Drawn()).add(drawn[row])
                of_seeds.add(drawn[row])
            of_unit[key] = of_seeds.mean()
        references: dict[tuple[Any, ...], list[tuple[str, np.ndarray]]] = {}
        for (model, encoder, *where), values in of_unit.items():
            if model == self.reference:
                references.setdefault(tuple(where), []).append((encoder, values))
        for (model, encoder, *where), values in of_unit.items():
            for its, reference in references.get(tuple(where), []):
                if model != self.reference and encoder in ("", its):
                    self.differences.setdefault((model, encoder, its, *where), Drawn()).add(values - reference)


def _curves(per_gene: pd.DataFrame) -> pd.DataFrame:
    """Pick the scores per gene that are drawn: a network's best without the spots, of cells where it has such."""
    image = per_gene[(per_gene["checkpoint"] != "") & ~per_gene["model"].str.endswith(SEES_SPOT)]
    metric = "pearson" if (image["metric"] == "pearson").any() else "spot_pearson"
    ranked = image[image["metric"] == metric].dropna(subset="value").sort_values("value", ascending=False)
    return ranked.groupby("scenario").head(MOST_GENES)[list(CURVES)].astype({"seed": float})


def paper_columns(rows: pd.DataFrame) -> list[str]:
    """Name the paper's column of each row of a fold, empty where it has none.

    OOS is over all cells of a sample, and over its members where no cell is outside. What is given the spots has
    members and others apart everywhere.
    """
    whole = set(zip(rows["sample"], rows["scenario"], strict=True))
    found = []
    for model, sample, scenario, metric in rows[["model", "sample", "scenario", "metric"]].itertuples(index=False):
        base = scenario.removesuffix("_in").removesuffix("_out")
        if metric in ("spot_pearson", "within_spot"):
            found.append(base)
        elif given_spot(model):
            found.append(scenario if scenario != base else "")
        elif base == "IS":
            found.append(scenario)
        elif scenario == base or (scenario.endswith("_in") and (sample, base) not in whole):
            found.append(base)
        else:
            found.append("")
    return found
