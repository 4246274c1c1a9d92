"""The colour encoder: 21 statistics of a tile's RGB values, the baseline every study should see."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..errors import UsageError
from . import Recipe
from .weights import Snapshot

PERCENTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class ColourStatistics(nn.Module):
    """Mean, SD and five percentiles of each channel, as shares of 255."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # (n, 3, h, w) grey levels
        flat = pixels.flatten(2)  # (n, 3, h * w)
        ranked = flat.sort(-1).values
        at = [round(q * (flat.shape[-1] - 1)) for q in PERCENTILES]
        spread = flat.std(-1, correction=0)
        return torch.cat([flat.mean(-1), spread, *[ranked[..., i] for i in at]], -1) / 255  # (n, 21)


def declared(recipe: Recipe, snapshot: Snapshot) -> Recipe:
    """Leave the recipe as it is: there is nothing but the registry's entry."""
    return recipe


def network(recipe: Recipe) -> nn.Module:
    """Make the module, which has nothing to load."""
    return ColourStatistics()


def tensors(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    """Read nothing: there are no weights."""
    return {}


def map_shape(recipe: Recipe) -> tuple[int, int, int]:
    """Raise UsageError: there is no map."""
    raise UsageError(f"the encoder {recipe.name} has no map of features", "Superpixels need a network: choose another.")
