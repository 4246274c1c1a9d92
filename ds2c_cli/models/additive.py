"""The additive model: cells have gene rates, and a spot counts the sum of its cells'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

import torch
from torch import nn

from ..schema import TARGET_SUM
from .base import Measured, Reading, SpotModel, set_last_bias
from .batch import Bag, segment_sum
from .count_likelihood import expected_log, log_negative_binomial, predictive_sd, reliability
from .deepsets import DeepSets

MEMBERS = 4


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

    def __init__(self, dimension: int, genes: int, hidden: int, dropout: float, **options: Any) -> None:
        super().__init__()
        self.members = nn.ModuleList(DeepSets(dimension, genes, hidden, dropout, **options) for _ in range(MEMBERS))
        self.log_size = nn.Parameter(torch.ones(genes))  # (G,) n: variance = mean + mean^2 / n
        for name, value in (("depth", TARGET_SUM), ("typical_total", 1.0), ("reliability", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    def rates_by_network(self, bag: Bag) -> Iterator[torch.Tensor]:
        """Compute the rates (C, G) of each network, one after the other."""
        for network in cast(list[DeepSets], self.members):
            yield torch.exp(network.read_cells(bag).clamp(max=15)) * bag.area.unsqueeze(1)

    def rates(self, bag: Bag) -> torch.Tensor:
        """Compute (C, G) of each cell, in proportion to its area; those of a typical spot add up to about 1."""
        return sum((rates / MEMBERS for rates in self.rates_by_network(bag)), torch.zeros(()))

    def totals(self, rates: torch.Tensor, bag: Bag) -> torch.Tensor:
        """Sum the rates (C, G) of the cells of each spot: (S, G)."""
        spot_of = torch.where(bag.inside, bag.spot_of, bag.n_spots)  # others go to a row of their own: no copy of rates
        return segment_sum(rates, spot_of, bag.n_spots + 1)[:-1]

    def counted(self, rates: torch.Tensor, bag: Bag) -> torch.Tensor:
        """Turn the rates (C, G) into those of what the labels count, which is spots: (S, G)."""
        return self.totals(rates, bag)

    def loss(self, bag: Bag, measured: Measured) -> torch.Tensor:
        """Minus the mean log likelihood of the counts; in training that of the networks one by one."""
        of_cells = self.rates_by_network(bag) if self.training else [self.rates(bag)]
        rates = torch.stack([self.counted(rates, bag) for rates in of_cells])  # (networks, S, G)
        mean = (measured.depth * rates).clamp(min=1e-7)
        return -log_negative_binomial(measured.counts, mean=mean, inverse_dispersion=self.log_size.exp()).mean()

    def spot(self, bag: Bag) -> torch.Tensor:
        return self.read(bag).spot_log

    def cell(self, bag: Bag) -> torch.Tensor:
        return self.read(bag).share

    def read(self, bag: Bag) -> Reading:
        rates, of_spot, total, counts = self._expected(bag)
        unit = counts / total  # (S, 1) counts per rate
        return Reading(
            TARGET_SUM * rates / total[bag.spot_of],
            expected_log(rates * unit[bag.spot_of], total=counts[bag.spot_of]),
            expected_log(of_spot * unit, total=counts),
        )

    def spread(self, bag: Bag) -> torch.Tensor:
        rates, _, total, counts = self._expected(bag)
        mean = rates * (counts / total)[bag.spot_of]  # (C, G) counts
        return predictive_sd(mean, total=counts[bag.spot_of], inverse_dispersion=self.log_size.exp())

    def start_at(self, measured: Measured, cells_a_spot: float) -> None:
        counts, depth = measured.counts.sum(0), measured.depth.sum()
        for network in cast(list[DeepSets], self.members):
            set_last_bias(network.rho, torch.log((counts + 0.5) / depth / cells_a_spot))
        self.depth.copy_(measured.depth.mean())
        self.typical_total.copy_(counts.sum() / depth)

    @torch.no_grad()
    def settle(self, held_out: Iterable[tuple[Bag, Measured]]) -> None:
        """Set how far totals are trusted: 1 where the image tells how much a spot counts."""
        pairs = [(self._expected(bag)[2], labels.total.clamp(min=1) / labels.depth) for bag, labels in held_out]
        predicted, found = (torch.cat(part).log() for part in zip(*pairs, strict=True))
        self.reliability.copy_(reliability(predicted, found))

    def _expected(self, bag: Bag) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute rates of cells (C, G) and spots (S, G), and the spots' total rates and counts (S, 1)."""
        rates = self.rates(bag)
        of_spot = self.totals(rates, bag)
        total = of_spot.sum(1, keepdim=True)
        total = torch.where(total > 0, total, self.typical_total).clamp(min=1e-12)
        # A log of counts depends on how many there are: totals that are but guessed would be noise in every gene.
        counts = self.depth * self.typical_total * (total / self.typical_total) ** self.reliability
        return rates, of_spot, total, counts
