"""What every model can do: predict a spot to learn from, read off a cell, start at the mean."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import nn

from ..settings import Features
from .bag import Bag


class SpotModel(nn.Module):
    """A model over d-dimensional embeddings and G genes; a new one is a subclass and an entry in `MODELS`."""

    learning_rate: ClassVar[float] = 1e-4  # of Adam, the paper's; used unless the settings say another
    features: ClassVar[Features] = "tiles"  # what of the encoder it reads
    options: ClassVar[tuple[str, ...]] = ()  # the settings of training that shape this model beside width and dropout

    @abstractmethod
    def spot(self, bag: Bag) -> torch.Tensor:
        """(S, G) log1p of counts per 10,000 of the spot: what is compared with the label."""

    @abstractmethod
    def cell(self, bag: Bag) -> torch.Tensor:
        """(C, G) each cell's counts per 10,000 of its spot."""

    @abstractmethod
    def start_at(self, mean: torch.Tensor, cells_a_spot: float) -> None:
        """Set the last bias so that every gene starts at its mean (G,) over the training spots, log1p per 10,000."""


def mlp(width_in: int, hidden: int, width_out: int, dropout: float) -> nn.Sequential:
    """The paper's two-layer MLP."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width_out))


@torch.no_grad()
def set_last_bias(network: nn.Sequential, value: torch.Tensor) -> None:
    """Write the bias (G,) of an MLP's last layer."""
    network.get_parameter(f"{len(network) - 1}.bias").copy_(value)


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """x such that softplus(x) is the value, which is above zero."""
    return value + torch.log(-torch.expm1(-value))
