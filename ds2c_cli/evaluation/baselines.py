"""Predict without an image, for every evaluation to print beside models; two of these are given the spot."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy import sparse

from ..expression import log_share


class Baseline(Protocol):
    """A trivial model."""

    def __call__(
        self,
        spots: sparse.csr_matrix,
        totals: np.ndarray,
        *,
        spot_of: np.ndarray,
        inside: np.ndarray,
        area: np.ndarray,
    ) -> np.ndarray:
        """Predict some cells.

        Args:
            spots: (S, G) what was measured on the spots.
            totals: (S,) all of it.
            spot_of: (c,) the spot of each cell.
            inside: (c,) whether it is a member.
            area: (c,) um2, NaN where that is not known.

        Returns:
            (c, G) log1p of counts per 10,000 of the spot.
        """


def mean(
    spots: sparse.csr_matrix, totals: np.ndarray, *, spot_of: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Predict every cell the same, the profile of all spots together: its correlation is 0, where scores start."""
    profile = np.asarray(spots.sum(0)).ravel()
    return np.broadcast_to(log_share(profile[None], profile.sum(keepdims=True)), (len(spot_of), spots.shape[1]))


def even_split(
    spots: sparse.csr_matrix, totals: np.ndarray, *, spot_of: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Share the spot's counts out equally over its members; a cell outside gets what a member gets."""
    return _split(spots, totals, spot_of=spot_of, inside=inside, weight=np.ones(len(spot_of)))


def area_split(
    spots: sparse.csr_matrix, totals: np.ndarray, *, spot_of: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Share the spot's counts out in proportion to the cells' areas; a cell of unknown area has the mean's.

    A cell outside gets what a member of its area would.
    """
    known = np.isfinite(area)
    mean_area = area[known].mean() if known.any() else 1.0
    weight = np.where(known, area, mean_area)
    return _split(spots, totals, spot_of=spot_of, inside=inside, weight=weight)


def _split(
    spots: sparse.csr_matrix, totals: np.ndarray, *, spot_of: np.ndarray, inside: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    whole = np.bincount(spot_of[inside], weight[inside], minlength=len(totals))[spot_of]
    part: np.ndarray = weight / np.where(whole > 0, whole, weight)  # a spot without members is all the cell's
    return log_share(spots[spot_of].multiply(part[:, None]).toarray(), totals[spot_of])


BASELINES: dict[str, Baseline] = {"mean": mean, "even split": even_split, "area split": area_split}
SEE_SPOT = ("even split", "area split")
