"""The paper's baseline: an MLP from a spot's tile to its expression, fed cell tiles at prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .bag import Bag
from .deepsets import inverse_softplus, mlp


class Mlp(nn.Module):
    """Knows no cells in training; a cell's tile is read as if it were a spot's."""

    learning_rate = 1e-4

    def __init__(self, dimension: int, genes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.network = mlp(dimension, hidden, genes, dropout)

    def spot(self, bag: Bag) -> torch.Tensor:
        """(S, G) log1p of counts per 10,000 of the spot."""
        return F.softplus(self.network(bag.tiles[bag.own]))

    def cell(self, bag: Bag) -> torch.Tensor:
        """(C, G) each cell's counts per 10,000 of its spot."""
        return torch.expm1(F.softplus(self.network(bag.cells)))

    def start_at(self, mean: torch.Tensor, cells_a_spot: float) -> None:
        """Let the last bias give every gene its mean (G,) over the training spots, log1p per 10,000."""
        with torch.no_grad():
            self.network[-1].bias.copy_(inverse_softplus(mean))
