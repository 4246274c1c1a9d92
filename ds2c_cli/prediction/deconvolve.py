"""Give cells the measured spots: share counts out inside them, and outside correct the error at the spots around."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree

from ..models.batch import segment_sum
from ..project import Sample
from ..schema import TARGET_SUM
from .inference import PredictedCells

NEAREST = 6  # spots around a cell


class Deconvolution:
    """Two passes over a stream of predictions, after which each cell is given what was measured on the spots.

    The first pass adds up what the members of each spot are predicted; the second shares the spot's counts out over
    them, and corrects the cells outside by what the spots around them say of the model's error.
    """

    def __init__(self, sample: Sample, counts: sparse.csr_matrix) -> None:
        """Take the counts (S, G) of the sample's spots, over the model's panel."""
        self._counts = counts
        self._centres = sample.spots[["x", "y"]].to_numpy()
        self._places = sample.cells[["x", "y"]].to_numpy()
        self._rates = np.zeros(counts.shape, np.float32)

    def first_pass(self, predictions: Iterable[PredictedCells]) -> Iterator[PredictedCells]:
        """Pass a model's predictions on, adding up those of the members of each spot."""
        for batch in predictions:
            add_member_rates(
                self._rates, torch.from_numpy(batch.known_share()), spot_of=batch.spot_of, inside=batch.inside
            )
            yield batch

    def second_pass(self, predictions: Iterable[PredictedCells]) -> Iterator[PredictedCells]:
        """Give the cells of the same predictions the counts of the spots."""
        around = Multipliers(self._centres, self._counts, self._rates)
        for batch in predictions:
            counts = self._counts[batch.spots].toarray().astype(np.float32)
            share = given_spots(
                torch.from_numpy(batch.known_share()),
                spot_of=batch.spot_row,
                inside=batch.inside,
                counts=counts,
                places=self._places[batch.cells],
                around=around,
            )
            yield replace(
                batch,
                share=share.numpy(),
                share_log=torch.log1p(share).numpy(),
                spot_log=None,
                predictive_sd=None,
                spot_total=counts.sum(1)[batch.spot_row],
            )


def share_out(share: torch.Tensor, spot_of: torch.Tensor, spot_counts: torch.Tensor) -> torch.Tensor:
    """Share observed counts (s, G) out over the members (c, G) of their spots in proportion to their rates.

    c_jg = s_g * r_jg / sum_k r_kg; evenly where all rates are zero. The members of a spot add up to the spot.
    """
    total = segment_sum(share, spot_of, len(spot_counts))
    number = torch.bincount(spot_of, minlength=len(spot_counts)).clamp(min=1).unsqueeze(1).to(share.dtype)
    known = total[spot_of] > 0
    part = torch.where(known, share / torch.where(known, total[spot_of], 1), 1 / number[spot_of])
    return part * spot_counts[spot_of]


def add_member_rates(rates: np.ndarray, share: torch.Tensor, *, spot_of: np.ndarray, inside: np.ndarray) -> None:
    """Add the shares (c, G) of members (c,) to the rates (S, G) of their spots (c,), in place."""
    member = torch.from_numpy(inside)
    torch.from_numpy(rates).index_add_(0, torch.from_numpy(spot_of)[member], share[member])


def given_spots(
    share: torch.Tensor,
    *,
    spot_of: np.ndarray,
    inside: np.ndarray,
    counts: np.ndarray,
    places: np.ndarray,
    around: Multipliers,
) -> torch.Tensor:
    """Give the cells what was measured on their spots.

    Args:
        share: (c, G) predicted counts per 10,000 of the cell's spot.
        spot_of: (c,) the cells' spots, rows of `counts`.
        inside: (c,) which cells are members of their spots.
        counts: (s, G) what was measured on the spots.
        places: (c, 2) where the cells are.
        around: What the spots say of the model's error, for cells outside.

    Returns:
        (c, G) counts per 10,000 of the cell's spot.
    """
    member, of_cell = torch.from_numpy(inside), torch.from_numpy(spot_of)
    measured = torch.from_numpy(counts)
    unit = measured.sum(1, keepdim=True)[of_cell[member]].clamp(min=1) / TARGET_SUM
    given = share.clone()
    given[member] = share_out(share[member], of_cell[member], measured) / unit
    given[~member] *= torch.from_numpy(around.at(places[~inside]))
    return given


class Multipliers:
    """By how much each spot's counts exceed what its members' rates add up to, gene by gene, smoothed over the slide.

    A member's counts are shared out exactly (`share_out`). A cell outside every spot has no total to share; its
    rates are multiplied by the geometric mean of the multipliers of the spots around it. One count is added on both
    sides, so a gene that a spot missed by chance is not declared absent around it.
    """

    def __init__(self, centres: np.ndarray, counts: sparse.csr_matrix, rates: np.ndarray) -> None:
        """Spots: centres (S, 2), counts (S, G) and their members' summed rates (S, G) per 10,000.

        Those without counts or members say nothing; with none that says anything all multipliers are 1.
        """
        known = np.flatnonzero((np.asarray(counts.sum(1)).ravel() > 0) & (rates.sum(1) > 0))
        centres, measured, rates = centres[known], counts[known].toarray(), rates[known]
        totals = measured.sum(1, keepdims=True)  # (s, 1)
        unit = totals / TARGET_SUM
        size = np.maximum(rates.sum(1, keepdims=True), 1e-12) / TARGET_SUM  # as if of so many spots
        self._log = np.log((measured + 1) / (rates / size * unit + 1) / size).astype(np.float32)
        self._tree = cKDTree(centres)
        self._reach = float(np.median(self._tree.query(centres, k=[2])[0])) if len(centres) > 1 else 1.0

    def at(self, points: np.ndarray) -> np.ndarray:
        """(n, G) multipliers at points (n, 2): spots count by a Gaussian of their distance, one pitch wide."""
        if not self._tree.n:
            return np.ones((len(points), self._log.shape[1]), np.float32)
        distance: np.ndarray
        distance, spot = self._tree.query(points, k=np.arange(1, min(NEAREST, self._tree.n) + 1))  # type: ignore[assignment]
        nearest = distance[:, :1]  # relative to it, so that a place far from all spots still has weights
        weight = np.exp(-(distance**2 - nearest**2) / (2 * self._reach**2))
        weight /= weight.sum(1, keepdims=True)
        return np.exp(np.einsum("nk,nkg->ng", weight.astype(np.float32), self._log[spot]))
