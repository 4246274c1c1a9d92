"""Look scores of a benchmark up: means over samples, folds and seeds, and paired differences, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .results import Results


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
        """Look up the score of (model, encoder, design, column, metric, genes); None where there is none."""
        frame = self._groups.get(key)
        if frame is None:
            return None
        low, high = np.nanpercentile(self._means[key], [2.5, 97.5])
        by_seed = frame.groupby("seed")["value"].mean()
        return Mean(
            float(frame["value"].mean()), float(low), float(high), float(by_seed.std()) if len(by_seed) > 1 else np.nan
        )

    def difference(self, model: tuple[str, str], reference: tuple[str, str], *where: str) -> Mean | None:
        """Look up `model` less the reference on samples and folds of both, its interval paired; None without any."""
        drawn = self._differences.get((*model, reference[1], *where))
        if drawn is None:
            return None
        mine, theirs = (self._groups[(*each, *where)].groupby("unit")["value"].mean() for each in (model, reference))
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return Mean(float((mine - theirs).mean()), float(low), float(high), np.nan)
