"""The paper's baseline: an MLP from a spot's tile to its expression, fed cell tiles at prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import SpotLabels, SpotModel, inverse_softplus, mean_log, mlp, set_last_bias
from .batch import SpotBatch


class Mlp(SpotModel):
    """Knows no cells in training; a cell's tile is read as if it were a spot's."""

    def __init__(self, dimension: int, genes: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.network = mlp(dimension, hidden, genes, dropout)

    def spot(self, batch: SpotBatch) -> torch.Tensor:
        return F.softplus(self.network(batch.tiles[batch.own]).float())

    def cell(self, batch: SpotBatch) -> torch.Tensor:
        return torch.expm1(F.softplus(self.network(batch.cells)))

    def start_at(self, labels: SpotLabels, cells_per_spot: float) -> None:
        set_last_bias(self.network, inverse_softplus(mean_log(labels)))
