"""The paper's baseline: an MLP from a spot's tile to its expression, fed cell tiles at prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Measured, SpotModel, inverse_softplus, mean_log, mlp, set_last_bias
from .batch import Bag


class Mlp(SpotModel):
    """Knows no cells in training; a cell's tile is read as if it were a spot's."""

    def __init__(self, dimension: int, genes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.network = mlp(dimension, hidden, genes, dropout)

    def spot(self, bag: Bag) -> torch.Tensor:
        return F.softplus(self.network(bag.tiles[bag.own]).float())

    def cell(self, bag: Bag) -> torch.Tensor:
        return torch.expm1(F.softplus(self.network(bag.cells)))

    def start_at(self, measured: Measured, cells_a_spot: float) -> None:
        set_last_bias(self.network, inverse_softplus(mean_log(measured)))
