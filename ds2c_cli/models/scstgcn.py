"""After scstGCN (Xue et al., Briefings in Bioinformatics 2025): graph convolutions over neighbouring superpixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .bag import SuperpixelBag
from .superpixel import SuperpixelModel

PLACE = 2  # the last features: x and y


class ScstGcn(SuperpixelModel):
    """The fine map's features and the place of a superpixel, mixed with those around it by two graph convolutions."""

    def __init__(self, dimension: int, genes: int, hidden: int, dropout: float) -> None:
        super().__init__(genes)
        self.fine = (dimension - PLACE) // 2
        self.first, self.second = nn.Linear(self.fine + PLACE, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, genes)

    def read(self, superpixels: SuperpixelBag) -> torch.Tensor:
        x = torch.cat([superpixels.features[:, : self.fine], superpixels.features[:, -PLACE:]], 1)  # (Q, C + 2)
        for layer in (self.first, self.second):
            x = F.leaky_relu(mean_around(layer(x), superpixels.around), 0.1)  # (Q, H)
        return self.last(x[: superpixels.core])


def mean_around(values: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """(Q, H): the mean of each superpixel's values and those of the superpixels around it (Q, 8) that there are.

    Kipf and Welling's normalised adjacency with self-loops, where all have as many neighbours.
    """
    total, number = values, 1 + (around >= 0).sum(1, keepdim=True)
    for neighbour in around.T:
        there = torch.nonzero(neighbour >= 0)[:, 0]
        total = total.index_add(0, there, values[neighbour[there]])
    return total / number
