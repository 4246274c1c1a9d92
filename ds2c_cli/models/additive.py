"""The additive model: cells have gene rates, and a spot counts the sum of its cells'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

import torch
from torch import nn

from ..schema import TARGET_SUM
from .base import Reading, SpotLabels, SpotModel, set_last_bias
from .batch import SpotBatch, segment_sum
from .count_likelihood import expected_log, log_negative_binomial, predictive_sd, reliability
from .deepsets import DeepSets

NETWORKS = 4


class Additive(SpotModel):
    """Each cell has non-negative gene rates; the counts of a spot are drawn around the linear sum of its cells' rates.

        k_g ~ negative binomial(mean = depth * sum_j r_jg, inverse dispersion n_g)        r_j = exp(rho(h_j)) * area_j

    Counts add, so what is learned from a spot is read off a cell, and their likelihood gives every gene the weight of
    what its counts say. `depth` is the total of a typical spot of the sample: samples sequenced unlike are trained
    together. The rates are the mean of a few narrow networks that learn one by one, steadier than a wide one.
    """

    options: ClassVar[tuple[str, ...]] = ("context",)
    learning_rate, batch_spots, hidden, patience, averaged = 1e-3, 64, 256, 8, 50
    depth: torch.Tensor  # counts of a typical spot of the training samples
    typical_total: torch.Tensor  # the mean total rate of a spot, for cells of a spot that holds none
    reliability: torch.Tensor  # 0..1: how far logs of totals follow the predicted ones on held-out spots

    def __init__(self, dimension: int, genes: int, *, hidden: int, dropout: float, **options: Any) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            DeepSets(dimension, genes, hidden=hidden, dropout=dropout, **options) for _ in range(NETWORKS)
        )
        self.log_inverse_dispersion = nn.Parameter(torch.ones(genes))  # (G,) n: variance = mean + mean^2 / n
        for name, value in (("depth", TARGET_SUM), ("typical_total", 1.0), ("reliability", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    def rates_by_network(self, batch: SpotBatch) -> Iterator[torch.Tensor]:
        """Compute the rates (C, G) of each network, one after the other."""
        for network in cast(list[DeepSets], self.networks):
            yield torch.exp(network.read_cells(batch).clamp(max=15)) * batch.area.unsqueeze(1)

    def rates(self, batch: SpotBatch) -> torch.Tensor:
        """Compute (C, G) of each cell, in proportion to its area; those of a typical spot add up to about 1."""
        return sum((rates / NETWORKS for rates in self.rates_by_network(batch)), torch.zeros(()))

    def totals(self, rates: torch.Tensor, batch: SpotBatch) -> torch.Tensor:
        """Sum the rates (C, G) of the cells of each spot: (S, G)."""
        spot_of = torch.where(batch.inside, batch.spot_of, batch.n_spots)  # outer cells: a row of their own
        return segment_sum(rates, spot_of, batch.n_spots + 1)[:-1]

    def counted(self, rates: torch.Tensor, batch: SpotBatch) -> torch.Tensor:
        """Turn the rates (C, G) into those of what the labels count, which is spots: (S, G)."""
        return self.totals(rates, batch)

    def loss(self, batch: SpotBatch, labels: SpotLabels) -> torch.Tensor:
        """Minus the mean log likelihood of the counts; in training that of the networks one by one."""
        of_cells = self.rates_by_network(batch) if self.training else [self.rates(batch)]
        rates = torch.stack([self.counted(rates, batch) for rates in of_cells])  # (networks, S, G)
        mean, n = (labels.depth * rates).clamp(min=1e-7), self.log_inverse_dispersion.exp()
        return -log_negative_binomial(labels.counts, mean=mean, inverse_dispersion=n).mean()

    def spot(self, batch: SpotBatch) -> torch.Tensor:
        return self.read(batch).spot_log

    def cell(self, batch: SpotBatch) -> torch.Tensor:
        return self.read(batch).share

    def read(self, batch: SpotBatch) -> Reading:
        rates, of_spot, total, counts = self._expected(batch)
        unit = counts / total  # (S, 1) counts per rate
        return Reading(
            TARGET_SUM * rates / total[batch.spot_of],
            expected_log(rates * unit[batch.spot_of], total=counts[batch.spot_of]),
            expected_log(of_spot * unit, total=counts),
        )

    def predictive_sd(self, batch: SpotBatch) -> torch.Tensor:
        rates, _, total, counts = self._expected(batch)
        mean, n = rates * (counts / total)[batch.spot_of], self.log_inverse_dispersion.exp()  # (C, G) counts, (G,)
        return predictive_sd(mean, total=counts[batch.spot_of], inverse_dispersion=n)

    def start_at(self, labels: SpotLabels, cells_per_spot: float) -> None:
        counts, depth = labels.counts.sum(0), labels.depth.sum()
        for network in cast(list[DeepSets], self.networks):
            set_last_bias(network.rho, torch.log((counts + 0.5) / depth / cells_per_spot))
        self.depth.copy_(labels.depth.mean())
        self.typical_total.copy_(counts.sum() / depth)

    @torch.no_grad()
    def settle(self, held_out: Iterable[tuple[SpotBatch, SpotLabels]]) -> None:
        """Set how far totals are trusted: 1 where the image tells how much a spot counts."""
        pairs = [(self._expected(batch)[2], labels.total.clamp(min=1) / labels.depth) for batch, labels in held_out]
        predicted, found = (torch.cat(part).log() for part in zip(*pairs, strict=True))
        self.reliability.copy_(reliability(predicted, found))

    def _expected(self, batch: SpotBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute rates of cells (C, G) and spots (S, G), and the spots' total rates and counts (S, 1)."""
        rates = self.rates(batch)
        of_spot = self.totals(rates, batch)
        total = of_spot.sum(1, keepdim=True)
        total = torch.where(total > 0, total, self.typical_total).clamp(min=1e-12)
        # A log of counts depends on how many there are: totals that are but guessed would be noise in every gene.
        counts = self.depth * self.typical_total * (total / self.typical_total) ** self.reliability
        return rates, of_spot, total, counts
