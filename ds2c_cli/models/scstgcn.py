"""After scstGCN (Xue et al., Briefings in Bioinformatics 2025): graph convolutions over neighbouring superpixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .batch import SuperpixelBatch
from .superpixel import SuperpixelModel

PLACE = 2  # the last features: x and y


class ScstGcn(SuperpixelModel):
    """The fine map's features and the place of a superpixel, mixed with those around it by two graph convolutions."""

    def __init__(self, dimension: int, genes: int, *, hidden: int, dropout: float) -> None:
        super().__init__(genes)
        self.fine = (dimension - PLACE) // 2
        self.first, self.second = nn.Linear(self.fine + PLACE, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, genes)

    def read_superpixels(self, superpixels: SuperpixelBatch) -> torch.Tensor:
        x = torch.cat([superpixels.features[:, : self.fine], superpixels.features[:, -PLACE:]], 1)  # (Q, C + 2)
        x = F.leaky_relu(self.first(mean_around(x, superpixels.around[: superpixels.near])), 0.1)  # (near, H)
        x = F.leaky_relu(self.second(mean_around(x, superpixels.around[: superpixels.core])), 0.1)  # (core, H)
        return self.last(x)


def mean_around(values: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """(n, H): the mean of the first n superpixels' values (Q, H) with those of the superpixels around (n, 8).

    Kipf and Welling's normalised adjacency with self-loops, where all have as many neighbours; -1 is no neighbour.
    """
    own = torch.arange(len(around), device=around.device).unsqueeze(1)
    there = around >= 0
    index = torch.cat([own, torch.where(there, around, len(values))], 1)  # (n, 9)
    padded = torch.cat([values, values.new_zeros((1, values.shape[1]))])
    total = F.embedding_bag(index, padded, mode="sum", padding_idx=len(values))
    return total / (1 + there.sum(1, keepdim=True))
