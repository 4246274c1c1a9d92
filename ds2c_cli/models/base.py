"""What every model can do: predict a spot to learn from, read off a cell, start at the mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ..choices import Features
from ..schema import TARGET_SUM
from .batch import SpotBatch


@dataclass(frozen=True)
class SpotLabels:
    """What was measured at S spots."""

    counts: torch.Tensor  # (S, G) of each gene
    total: torch.Tensor  # (S, 1) counts of all the genes
    depth: torch.Tensor  # (S, 1) counts of a typical spot of the sample

    @property
    def log(self) -> torch.Tensor:
        """Compute (S, G) log1p of counts per 10,000 of the spot; NaN where a spot has no counts."""
        return torch.log1p(TARGET_SUM * self.counts / self.total)

    def at(self, spots: torch.Tensor) -> SpotLabels:
        """Choose some spots (s,), wherever their numbers are."""
        rows = spots.to(self.counts.device)
        return SpotLabels(self.counts[rows], self.total[rows], self.depth[rows])

    def to(self, device: torch.device) -> SpotLabels:
        """Move to a device."""
        return SpotLabels(self.counts.to(device), self.total.to(device), self.depth.to(device))


@dataclass(frozen=True)
class Reading:
    """What a model says of the cells and spots of a batch."""

    share: torch.Tensor  # (C, G) counts per 10,000 of the cell's spot
    share_log: torch.Tensor  # (C, G) what the log1p of the share that is counted should come to
    spot_log: torch.Tensor  # (S, G) the same of the spot


class SpotModel(nn.Module, ABC):
    """A model over d-dimensional embeddings and G genes; a new one is a subclass and an entry in `MODELS`."""

    # The paper's, of Adam, batches, layers, and epochs without a better loss; used unless the settings say others.
    learning_rate: ClassVar[float] = 1e-4
    batch_spots: ClassVar[int] = 256
    hidden: ClassVar[int] = 512
    patience: ClassVar[int] = 20
    averaged: ClassVar[int] = 1  # steps over which the weights are averaged that are judged and kept; 1: the last
    features: ClassVar[Features] = Features.TILES  # what of the encoder it reads
    options: ClassVar[tuple[str, ...]] = ()  # the settings of training that shape this model beside width and dropout

    @abstractmethod
    def spot(self, batch: SpotBatch) -> torch.Tensor:
        """(S, G) log1p of counts per 10,000 of the spot: what is compared with the label."""

    @abstractmethod
    def cell(self, batch: SpotBatch) -> torch.Tensor:
        """(C, G) each cell's counts per 10,000 of its spot."""

    @abstractmethod
    def start_at(self, labels: SpotLabels, cells_per_spot: float) -> None:
        """Set the last bias so that every gene starts at its mean over the training spots."""

    def settle(self, held_out: Iterable[tuple[SpotBatch, SpotLabels]]) -> None:
        """Set what the spots that stopped the training tell once the weights are found; most models have no such."""

    def loss(self, batch: SpotBatch, labels: SpotLabels) -> torch.Tensor:
        """What training makes small: the mean squared error of the spots' log expression."""
        return F.mse_loss(self.spot(batch), labels.log)

    def read(self, batch: SpotBatch) -> Reading:
        """All that prediction needs."""
        share = self.cell(batch)
        return Reading(share, torch.log1p(share), self.spot(batch))

    def predictive_sd(self, batch: SpotBatch) -> torch.Tensor | None:
        """(C, G) SD of the log1p of the share that is counted; None for a model that does not say."""
        return None


def mlp(width_in: int, hidden: int, width_out: int, dropout: float) -> nn.Sequential:
    """The paper's two-layer MLP."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width_out))


@torch.no_grad()
def set_last_bias(network: nn.Sequential, value: torch.Tensor) -> None:
    """Write the bias (G,) of an MLP's last layer."""
    network.get_parameter(f"{len(network) - 1}.bias").copy_(value)


def mean_log(labels: SpotLabels) -> torch.Tensor:
    """(G,) mean label, kept off zero."""
    return labels.log.mean(0).clamp(min=1e-3)


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """x such that softplus(x) is the value, which is above zero."""
    return value + torch.log(-torch.expm1(-value))
