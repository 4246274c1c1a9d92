"""Correlate per gene, from moments that add up, and bootstrap that over spatial blocks; pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

RESAMPLES = 10_000
BLOCKS = 200  # at most; spots near one another are no independent observations
TOP = (50, 100, 200)  # genes ranked by their own score, the paper's table
VARIABLE = (50, 100)  # genes fixed by their variability over the training spots


class Moments:
    """Sums over cells by block and gene, from which correlations follow without the cells in memory.

    `sums` is (blocks, 6, genes) float64: n, truth, prediction, truth squared, prediction squared, their product.
    Values are taken relative to `origin` (genes,), which changes nothing but rounding.
    """

    def __init__(self, blocks: int, genes: int) -> None:
        self.sums = np.zeros((blocks, 6, genes))
        self._origin: np.ndarray | None = None

    def add(self, block: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add cells: block (n,), truth and prediction (n, genes); rows with NaN in the truth are left out before.

        Raises InputError for a prediction that is not finite: left out, it would raise the mean of the others.
        """
        if not len(block):
            return
        if broken := int((~np.isfinite(prediction)).any(0).sum()):
            raise InputError(f"the prediction of {broken:,} genes holds NaN or infinity", "Train the model again.")
        if self._origin is None:
            self._origin = truth.mean(0, dtype=np.float64)
        order = np.argsort(block, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(block[order]) != 0])
        into = block[order][starts]
        x, y = ((values - self._origin)[order] for values in (truth, prediction))
        self.sums[into, 0] += np.diff(np.r_[starts, len(order)])[:, None]
        for i, term in enumerate((x, y, x * x, y * y, x * y), 1):
            self.sums[into, i] += np.add.reduceat(term, starts, axis=0)

    @property
    def number(self) -> int:
        """Count the cells that were added."""
        return int(self.sums[:, 0, 0].sum()) if self.sums.shape[2] else 0

    def pearson(self) -> np.ndarray:
        """(genes,) correlation of truth and prediction; NaN where the truth is constant, 0 where the prediction is."""
        return _pearson(self.sums.sum(0)[None])[0]

    def resampled(self, gene_sets: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
        """Bootstrap over blocks: give for each set of genes (indices) its mean correlation in 10,000 resamples."""
        blocks = self.sums[self.sums[:, 0].any(1)] if self.sums.shape[2] else self.sums
        generator = np.random.default_rng(seed)
        used = np.unique(np.concatenate(list(gene_sets.values()))) if gene_sets else np.empty(0, int)
        at = {name: np.searchsorted(used, genes) for name, genes in gene_sets.items()}
        flat = _standardised(blocks[:, :, used])
        values: dict[str, list[np.ndarray]] = {name: [] for name in gene_sets}
        size = max(1, min(RESAMPLES, 8_000_000 // flat.shape[1]))
        for start in range(0, RESAMPLES, size):
            draws = min(size, RESAMPLES - start)
            weights = generator.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), draws)
            drawn = weights.astype(np.float32) @ flat
            n, (x, y, xx, yy, xy) = drawn[:, :1], drawn[:, 1:].reshape(draws, 5, len(used)).swapaxes(0, 1)
            r = _correlation(n, x=x, y=y, xx=xx, yy=yy, xy=xy, flat=1e-5)
            for name, genes in at.items():
                known = np.isfinite(r[:, genes])
                with np.errstate(invalid="ignore"):  # NaN in a resample in which every gene is constant
                    values[name].append(np.where(known, r[:, genes], 0).sum(1) / known.sum(1))
        return {name: np.concatenate(parts) for name, parts in values.items()}


def _standardised(blocks: np.ndarray) -> np.ndarray:
    """Give sums (b, 6, g) of values taken relative to their mean, in SDs: n and the others, (b, 1 + 5 g) float32.

    Correlations are the same, and single precision loses none of their digits that an interval shows.
    """
    n, x, y, xx, yy, xy = np.moveaxis(blocks, 1, 0)
    total = np.maximum(n.sum(0), 1)
    (mx, sx), (my, sy) = (_mean_and_sd(total, one.sum(0), square.sum(0)) for one, square in ((x, xx), (y, yy)))
    parts = (
        (x - n * mx) / sx,
        (y - n * my) / sy,
        (xx - 2 * mx * x + n * mx**2) / sx**2,
        (yy - 2 * my * y + n * my**2) / sy**2,
        (xy - mx * y - my * x + n * mx * my) / (sx * sy),
    )
    return np.concatenate([n[:, :1], *parts], 1).astype(np.float32)


def _mean_and_sd(n: np.ndarray, total: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(g,) each; an infinite SD where the values are constant, so that in SDs they are 0."""
    variance = (square - total**2 / n) / n
    return total / n, np.where(variance > 1e-9 * np.maximum(square / n, 1e-12), np.sqrt(np.abs(variance)), np.inf)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Give the correlation (b, genes) of sums (b, 6, genes)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, 1, 0)
    return _correlation(n, x=x, y=y, xx=xx, yy=yy, xy=xy, flat=1e-9)


def _correlation(
    n: np.ndarray, *, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, flat: float
) -> np.ndarray:
    """Correlate, of sums; a variance below `flat` of the mean square is rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sxx, syy, sxy = xx - x * x / n, yy - y * y / n, xy - x * y / n
        flat_truth = sxx <= flat * np.maximum(xx, 1e-12)
        flat_prediction = syy <= flat * np.maximum(yy, 1e-12)
        r = sxy / np.sqrt(sxx * syy)
    return np.where(flat_truth, np.nan, np.where(flat_prediction, 0.0, np.clip(r, -1, 1)))


@dataclass(frozen=True)
class Score:
    """The mean correlation of a set of genes, with its 95 % bootstrap interval and the 10,000 values behind it."""

    genes: str
    value: float
    low: float
    high: float
    n_genes: int
    resamples: np.ndarray


def scores(moments: Moments, seed: int = 0) -> list[Score]:
    """Score the table's gene sets: top by own score, most variable (the first genes of the panel), all.

    Genes constant in truth are left out of every set. The sets are fixed on all cells before resampling, else a
    resample would choose its own best genes and the interval would lie too high. With the same `seed` the resamples of
    two models on the same cells draw the same blocks: their difference is paired.
    """
    if not moments.number:
        return []
    r = moments.pearson()
    known = np.flatnonzero(np.isfinite(r))
    if not len(known):
        return []
    ranked = known[np.argsort(-r[known], kind="stable")]
    sets = {f"top{k}": ranked[:k] for k in TOP}
    sets |= {f"hvg{k}": chosen for k in VARIABLE if len(chosen := known[known < k])}
    sets["all"] = known
    bootstrap = moments.resampled(sets, seed)
    rows = []
    for name, genes in sets.items():
        low, high = np.nanpercentile(bootstrap[name], [2.5, 97.5])
        value = float(r[genes].mean())
        drawn = bootstrap[name]
        rows.append(Score(name, value=value, low=float(low), high=float(high), n_genes=len(genes), resamples=drawn))
    return rows


def centred_by(group: np.ndarray, *matrices: np.ndarray) -> list[np.ndarray]:
    """Give each (n, g) matrix minus its mean over the rows of the same group (n,)."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])[: len(group)]
    count = np.diff(np.r_[starts, len(group)])
    out = []
    for matrix in matrices:
        ordered = matrix[order].astype(np.float64)
        mean = np.add.reduceat(ordered, starts, axis=0) / count[:, None] if len(group) else ordered
        centred = np.empty_like(ordered)
        centred[order] = ordered - np.repeat(mean, count, axis=0)
        out.append(centred)
    return out


def blocks_of(points: np.ndarray, most: int = BLOCKS) -> np.ndarray:
    """Say which square of the slide each point (n, 2) lies in, (n,) int64; squares as small as `most` of them allow."""
    if not len(points):
        return np.empty(0, np.int64)
    low, span = points.min(0), np.ptp(points, axis=0)
    if len(np.unique(points, axis=0)) <= most:
        return np.unique(points, axis=0, return_inverse=True)[1].ravel()
    side = float(np.sqrt(max(span[0], 1) * max(span[1], 1) / most))
    while True:
        squares = np.floor((points - low) / side).astype(np.int64)
        labels, block = np.unique(squares, axis=0, return_inverse=True)
        if len(labels) <= most:
            return block.ravel()
        side *= 1.05
