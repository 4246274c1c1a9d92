"""Measured spots and the cells outside them: what the spots around a cell say of the model's error at its place."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .schema import TARGET_SUM

NEAREST = 6  # spots around a cell


class Multipliers:
    """By how much each spot's counts exceed what its members' rates add up to, gene by gene, smoothed over the slide.

    A member's counts are shared out exactly (`predict.share_out`). A cell outside every spot has no total to share; its
    rates are multiplied by the geometric mean of the multipliers of the spots around it. One count is added on both
    sides, so a gene that a spot missed by chance is not declared absent around it.
    """

    def __init__(self, centres: np.ndarray, counts: np.ndarray, rates: np.ndarray) -> None:
        """Spots with members and counts: centres (s, 2), counts (s, G) and their members' summed rates (s, G).

        Rates are per 10,000, as `Chunk.share`.
        """
        totals = counts.sum(1, keepdims=True)  # (s, 1)
        unit = totals / TARGET_SUM
        size = np.maximum(rates.sum(1, keepdims=True), 1e-12) / TARGET_SUM  # as if of so many spots
        self._log = np.log((counts + 1) / (rates / size * unit + 1) / size).astype(np.float32)
        self._tree = cKDTree(centres)
        self._reach = float(np.median(self._tree.query(centres, k=[2])[0])) if len(centres) > 1 else 1.0

    def at(self, points: np.ndarray) -> np.ndarray:
        """(n, G) multipliers at points (n, 2): spots count by a Gaussian of their distance, one pitch wide."""
        distance: np.ndarray
        distance, spot = self._tree.query(points, k=np.arange(1, min(NEAREST, self._tree.n) + 1))  # type: ignore[assignment]
        nearest = distance[:, :1]  # relative to it, so that a place far from all spots still has weights
        weight = np.exp(-(distance**2 - nearest**2) / (2 * self._reach**2))
        weight /= weight.sum(1, keepdims=True)
        return np.exp(np.einsum("nk,nkg->ng", weight.astype(np.float32), self._log[spot]))
