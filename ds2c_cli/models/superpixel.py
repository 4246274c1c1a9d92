"""What the superpixel models share: rates a superpixel, a spot and a cell as means of those under them."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..choices import Features
from ..schema import TARGET_SUM
from .base import SpotLabels, SpotModel, mean_log
from .batch import SpotBatch, SuperpixelBatch, segment_sum


class SuperpixelModel(SpotModel):
    """Weakly supervised: the mean over a spot's superpixels is compared with the spot (docs/models.md)."""

    features: ClassVar[Features] = Features.SUPERPIXELS
    learning_rate: ClassVar[float] = 1e-3
    scale: torch.Tensor

    def __init__(self, genes: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(genes))  # counts per 10,000 of the mean training spot

    @abstractmethod
    def read_superpixels(self, superpixels: SuperpixelBatch) -> torch.Tensor:
        """(core, G) of the superpixels under spots and cells, any real number."""

    def rates(self, superpixels: SuperpixelBatch) -> torch.Tensor:
        """(core, G) non-negative, per 10,000: ELU + 1, which is never negative, relative to the gene's mean."""
        return self.scale * (F.elu(self.read_superpixels(superpixels).float()) + 1)

    def spot(self, batch: SpotBatch) -> torch.Tensor:
        of = _superpixels(batch)
        return torch.log1p(_means(self.rates(of)[of.spot_row], of.spot_of, batch.n_spots))

    def cell(self, batch: SpotBatch) -> torch.Tensor:
        of = _superpixels(batch)
        mean = _means(self.rates(of)[of.cell_row], of.cell_of, len(batch.spot_of))
        return TARGET_SUM * mean / mean.sum(1, keepdim=True).clamp(min=1e-12)

    def start_at(self, labels: SpotLabels, cells_per_spot: float) -> None:
        self.scale.copy_(torch.expm1(mean_log(labels)))  # and the network begins near 0, where ELU + 1 is 1


def _superpixels(batch: SpotBatch) -> SuperpixelBatch:
    assert batch.superpixels is not None
    return batch.superpixels


def _means(values: torch.Tensor, owner: torch.Tensor, n: int) -> torch.Tensor:
    """(n, G) means of values (m, G) by owner (m,)."""
    number = torch.bincount(owner, minlength=n).clamp(min=1).unsqueeze(1)
    return segment_sum(values, owner, n) / number
