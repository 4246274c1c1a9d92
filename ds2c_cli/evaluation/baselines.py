"""The trivial baselines that every evaluation prints: they use no image, two of them are given the spot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from ..expression import log_share

# (spots x genes counts, spot totals, spot of each cell (c,), whether it is a member (c,), cell area um2 (c,))
# -> (c, genes) spot_share
Baseline = Callable[[sparse.csr_matrix, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def mean(
    spots: sparse.csr_matrix, totals: np.ndarray, spot_of: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Every cell the same, the profile of all spots together: its correlation is 0, which is where scores start."""
    profile = np.asarray(spots.sum(0)).ravel()
    return np.broadcast_to(log_share(profile[None], profile.sum(keepdims=True)), (len(spot_of), spots.shape[1]))


def even_split(
    spots: sparse.csr_matrix, totals: np.ndarray, spot_of: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """The spot's counts shared out equally over its members; a cell outside gets what a member gets."""
    return _split(spots, totals, spot_of, inside, np.ones(len(spot_of)))


def area_split(
    spots: sparse.csr_matrix, totals: np.ndarray, spot_of: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """The spot's counts shared out in proportion to the cells' areas; a cell of unknown area has the mean's.

    A cell outside gets what a member of its area would.
    """
    known = np.isfinite(area)
    mean_area = area[known].mean() if known.any() else 1.0
    return _split(spots, totals, spot_of, inside, np.where(known, area, mean_area))


def _split(
    spots: sparse.csr_matrix, totals: np.ndarray, spot_of: np.ndarray, inside: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    whole = np.bincount(spot_of[inside], weight[inside], minlength=len(totals))[spot_of]
    part: np.ndarray = weight / np.where(whole > 0, whole, weight)  # a spot without members is all the cell's
    return log_share(spots[spot_of].multiply(part[:, None]).toarray(), totals[spot_of])


BASELINES: dict[str, Baseline] = {"mean": mean, "even split": even_split, "area split": area_split}
SEE_SPOT = ("even split", "area split")
