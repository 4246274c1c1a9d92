"""EfficientNet-Lite0 with ImageNet weights that come with the install: demonstration and baselines."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import Recipe
from .timm_models import read
from .weights import Snapshot


class StageFour(nn.Module):
    """Mean and SD over the stage-4 map: on H&E better than the final layer (ENCODERS 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # (n, 3, h, w) normalised
        (stage,) = self.network.forward_intermediates(pixels, indices=[3], intermediates_only=True)  # type: ignore[operator]
        flat = stage.float().flatten(2)  # (n, 112, h/16 * w/16)
        return torch.cat([flat.mean(-1), flat.std(-1, correction=0)], -1)  # (n, 224)


def declared(recipe: Recipe, snapshot: Snapshot) -> Recipe:
    """The package has no configs: the registry says it all."""
    return recipe


def network(recipe: Recipe) -> nn.Module:
    """timm's network, with weights that mean nothing yet."""
    import timm

    return StageFour(timm.create_model(recipe.architecture, pretrained=False))


def tensors(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors are in timm's order (ENCODERS 1); raises ValueError when their number is another."""
    with torch.device("meta"):
        names = network(recipe).state_dict()
    return dict(zip(names, read(path).values(), strict=True))
