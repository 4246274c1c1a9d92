"""The additive model: cells have gene rates, a spot counts the sum of its cells'; and the ceiling, taught by cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

import torch
from torch import nn

from ..schema import TARGET_SUM
from .base import Measured, Reading, SpotModel, set_last_bias
from .batch import Bag, segment_sum
from .deepsets import DeepSets

MEMBERS = 4
TRUSTED = 10 * 0.1**2  # ten spots of totals that differ by a tenth


class Additive(SpotModel):
    """Each cell has non-negative gene rates; the counts of a spot are drawn around the linear sum of its cells' rates.

        k_g ~ negative binomial(mean = depth * sum_j r_jg, dispersion 1 / size_g)        r_j = exp(rho(h_j)) * area_j

    Counts add, so what is learned from a spot is what is read off a cell; and a likelihood of counts gives every gene
    the weight of what its counts say, where the error of a logarithm is mostly whether a rare gene was seen at all.
    `depth` is the total of a typical spot of the sample, so rates say how much more a cell holds than another, and
    samples sequenced unlike may be trained together. The rates are the mean of a few narrow DeepSets networks, each of
    which learns by itself: together they are as fast as a wide one, and steadier.
    """

    options: ClassVar[tuple[str, ...]] = ("context",)
    learning_rate: ClassVar[float] = 1e-3
    batch_spots: ClassVar[int] = 64
    hidden: ClassVar[int] = 256
    patience: ClassVar[int] = 8
    averaged: ClassVar[int] = 50
    depth: torch.Tensor  # counts of a typical spot of the training samples
    typical_total: torch.Tensor  # what the rates of a spot add up to in the mean, for cells whose spot has no member
    reliability: torch.Tensor  # 0..1: how far logs of totals follow the predicted ones on held-out spots

    def __init__(self, dimension: int, genes: int, hidden: int, dropout: float, **options: Any) -> None:
        super().__init__()
        self.members = nn.ModuleList(DeepSets(dimension, genes, hidden, dropout, **options) for _ in range(MEMBERS))
        self.log_size = nn.Parameter(torch.ones(genes))  # of the negative binomial: variance = mean + mean^2 / size
        self.register_buffer("depth", torch.tensor(TARGET_SUM))
        self.register_buffer("typical_total", torch.tensor(1.0))
        self.register_buffer("reliability", torch.tensor(1.0))

    def rates(self, bag: Bag) -> torch.Tensor:
        """(C, G) of each cell, in proportion to its area; those of a typical spot add up to about 1."""
        rates = torch.zeros(())
        for of_member in self.rates_by_member(bag):
            rates = rates + of_member / MEMBERS
        return rates

    def rates_by_member(self, bag: Bag) -> Iterator[torch.Tensor]:
        """(C, G) of each network, one after the other."""
        for member in cast(list[DeepSets], self.members):
            yield torch.exp(member.read_cells(bag).clamp(max=15)) * bag.area.unsqueeze(1)

    def totals(self, rates: torch.Tensor, bag: Bag) -> torch.Tensor:
        """(S, G): the rates (C, G) of the members summed over each spot."""
        spot_of = torch.where(bag.inside, bag.spot_of, bag.n_spots)  # others go to a row of their own: no copy of rates
        return segment_sum(rates, spot_of, bag.n_spots + 1)[:-1]

    def loss(self, bag: Bag, measured: Measured) -> torch.Tensor:
        """Minus the mean log likelihood of the spots' counts; in training that of the networks one by one."""
        return self._surprise(measured, [self.totals(rates, bag) for rates in self._learning(bag)])

    def spot(self, bag: Bag) -> torch.Tensor:
        return self.read(bag).spot_log

    def cell(self, bag: Bag) -> torch.Tensor:
        rates = self.rates(bag)
        return self._share(rates, self.totals(rates, bag), bag)

    def read(self, bag: Bag) -> Reading:
        rates = self.rates(bag)
        total = self.totals(rates, bag)
        size = self._size(total)
        counts = self._counts(size)
        unit = counts / size
        return Reading(
            self._share(rates, total, bag),
            expected_log(rates * unit[bag.spot_of], counts[bag.spot_of]),
            expected_log(total * unit, counts),
        )

    def spread(self, bag: Bag) -> torch.Tensor:
        rates = self.rates(bag)
        size = self._size(self.totals(rates, bag))
        counts = self._counts(size)
        return log_spread(rates * (counts / size)[bag.spot_of], counts[bag.spot_of], self.log_size.exp())

    def start_at(self, measured: Measured, cells_a_spot: float) -> None:
        counts, unit = measured.counts.sum(0), measured.depth.mean()
        for member in cast(list[DeepSets], self.members):
            set_last_bias(member.rho, torch.log((counts + 0.5) / measured.depth.sum() / cells_a_spot))
        self.depth.copy_(unit)
        self.typical_total.copy_(counts.sum() / measured.depth.sum())

    @torch.no_grad()
    def settle(self, held_out: Iterable[tuple[Bag, Measured]]) -> None:
        """The slope of measured on predicted log totals: near 1 where the image tells how much a spot counts.

        As if TRUSTED further spots had followed their predictions exactly: of three spots a slope says next to nothing.
        """
        pairs = []
        for bag, measured in held_out:
            size = self._size(self.totals(self.rates(bag), bag))
            pairs.append(torch.cat([size, measured.total.clamp(min=1) / measured.depth], 1).log())
        predicted, found = (torch.cat(pairs) - torch.cat(pairs).mean(0)).T
        slope = ((predicted * found).sum() + TRUSTED) / ((predicted**2).sum() + TRUSTED)
        self.reliability.copy_(slope.clamp(0, 1))

    def _learning(self, bag: Bag) -> list[torch.Tensor]:
        return list(self.rates_by_member(bag)) if self.training else [self.rates(bag)]

    def _surprise(self, measured: Measured, rates: list[torch.Tensor]) -> torch.Tensor:
        """Minus the mean log likelihood of what was measured, mean over the rates (n, G) given."""
        means = (measured.depth * torch.stack(rates)).clamp(min=1e-7)  # (networks, n, G)
        return -log_negative_binomial(measured.counts, means, self.log_size.exp()).mean()

    def _size(self, total: torch.Tensor) -> torch.Tensor:
        """(S, 1): what all genes' rates of a spot add up to."""
        size = total.sum(1, keepdim=True)
        return torch.where(size > 0, size, self.typical_total).clamp(min=1e-12)

    def _counts(self, size: torch.Tensor) -> torch.Tensor:
        """(S, 1): the counts of a spot that its total (S, 1) lets expect, shrunk to the typical spot's.

        A log of counts depends on how many there are, so totals that are but guessed would be noise in every gene.
        """
        return self.depth * self.typical_total * (size / self.typical_total) ** self.reliability

    def _share(self, rates: torch.Tensor, total: torch.Tensor, bag: Bag) -> torch.Tensor:
        return TARGET_SUM * rates / self._size(total)[bag.spot_of]


class CellSupervised(Additive):
    """The ceiling: the additive model taught by the counts of true single cells, so that only the labels differ."""

    learning_rate: ClassVar[float] = 3e-4
    batch_spots: ClassVar[int] = 256  # cells
    averaged: ClassVar[int] = 1  # it has many labels, and came out no higher with averaged weights

    def loss(self, bag: Bag, measured: Measured) -> torch.Tensor:
        """Minus the mean log likelihood of the counts of the bag's cells, which is what is `measured` here."""
        return self._surprise(measured, self._learning(bag))


def log_negative_binomial(counts: torch.Tensor, mean: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Log probability of counts by their mean and size, all broadcastable: variance = mean + mean^2 / size."""
    both = torch.log(size + mean)
    return (
        torch.lgamma(counts + size)
        - torch.lgamma(size)
        - torch.lgamma(counts + 1)
        + size * (torch.log(size) - both)
        + counts * (torch.log(mean) - both)
    )


# Of t below. The integrand is negligible outside, and so smooth that steps of 1 in log t leave an error under 0.1 %.
NODES = tuple(math.exp(power) for power in range(-14, 3))


def expected_log(mean: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """E[log1p(1e4 k / total)] for counts k that are Poisson with a mean (n, G), out of totals (n, 1): (n, G).

    That is what is compared with log1p(1e4 k / total) of the counts found: of a gene that is seen in a tenth of its
    cells the log of the mean is not the mean of the log. By Frullani's integral log1p(x) = int (1 - exp(-x t)) exp(-t)
    dt / t, of which the expectation has a closed form, and by the trapezoidal rule in log t.
    """
    scale = TARGET_SUM / total.clamp(min=1e-6)
    value = torch.zeros_like(mean)
    for node in NODES:
        value = value - math.exp(-node) * torch.expm1(mean * torch.expm1(-scale * node))
    return value


TAIL = 1e-4  # of the probability, which is counted as if it were all at the last count reached
EXACT = 64  # counts that are gone through one by one
STEPS = 128  # in log k, over the counts beyond


def log_spread(mean: torch.Tensor, total: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """SD of log1p(1e4 k / total) for negative binomial k of a mean (n, G) and size (G,), totals (n, 1): (n, G).

    Count after count, for the genes that have any probability left; what is left beyond is integrated over log k.
    """
    found, genes = torch.zeros_like(mean), torch.arange(mean.shape[1], device=mean.device)
    chance = torch.exp(size * (torch.log(size) - torch.log(size + mean)))  # of a count of 0
    again, left = mean / (size + mean), 1 - chance
    first, second = torch.zeros_like(mean), torch.zeros_like(mean)
    for count in range(1, EXACT + 1):
        chance = chance * again * (count - 1 + size) / count
        left = left - chance
        log = torch.log1p(TARGET_SUM * count / total)
        first, second = first + chance * log, second + chance * log**2
        done = ~(left > TAIL).any(0)
        if done.any():
            rest = left[:, done].clamp(min=0)
            found[:, genes[done]] = _deviation(1, first[:, done] + rest * log, second[:, done] + rest * log**2)
            genes, size = genes[~done], size[~done]
            chance, again, left, first, second = (part[:, ~done] for part in (chance, again, left, first, second))
        if not len(genes):
            return found
    beyond = _moments_beyond(mean[:, genes].double(), total.double(), size.double())
    parts = (part + more for part, more in zip((1 - left, first, second), beyond, strict=True))
    found[:, genes] = _deviation(*parts).to(found.dtype)
    return found


def _moments_beyond(
    mean: torch.Tensor, total: torch.Tensor, size: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of counts above EXACT: probability, and sums of the log and of its square, each (n, G); by the midpoint rule."""
    relative = (1 / mean + 1 / size).sqrt()
    low = (mean * torch.exp(-10 * relative)).clamp(min=EXACT + 0.5)
    high = torch.maximum(mean * (1 + 12 * relative + 40 / size), 2 * low)
    step = torch.log(high / low) / STEPS
    chance, first, second = torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean)
    for number in range(STEPS):
        count = low * torch.exp((number + 0.5) * step)
        here = log_negative_binomial(count, mean, size).exp() * count * step
        log = torch.log1p(TARGET_SUM * count / total)
        chance, first, second = chance + here, first + here * log, second + here * log**2
    return chance, first, second


def _deviation(chance: torch.Tensor | float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """SD by the probability gone through and the sums of values and of their squares."""
    return (second / chance - (first / chance) ** 2).clamp(min=0).sqrt()
