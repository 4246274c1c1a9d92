"""After iStar (Zhang et al., Nature Biotechnology 2024): hierarchical features, one network a superpixel."""

from __future__ import annotations

import torch
from torch import nn

from .batch import SuperpixelBatch
from .superpixel import SuperpixelModel

LAYERS = 4
PLACE = 2  # the last features, x and y, which iStar does not see


class Istar(SuperpixelModel):
    """A feed-forward network over a superpixel's features at two scales; no superpixel sees another."""

    def __init__(self, dimension: int, genes: int, *, hidden: int, dropout: float) -> None:
        super().__init__(genes)
        layers: list[nn.Module] = []
        for layer in range(LAYERS):
            layers += [nn.Linear(hidden if layer else dimension - PLACE, hidden), nn.LeakyReLU(0.1)]
        self.network = nn.Sequential(*layers, nn.Linear(hidden, genes))

    def read_superpixels(self, superpixels: SuperpixelBatch) -> torch.Tensor:
        return self.network(superpixels.features[: superpixels.core, :-PLACE])
