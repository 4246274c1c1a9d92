"""The registry of encoders: name -> weights, preprocessing, dimension, licence; and the encoder on a device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..device import device_of
from ..errors import UsageError, WeightsError
from . import colour, lite0, transformers_vit

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """How an encoder is obtained and fed. `tile_px` 0 means tiles as they are, at level-0 resolution."""

    name: str
    dimension: int
    tile_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    architecture: str
    pooling: str
    licence: str
    access: str
    note: str
    files: Callable[[str], list[Path]]  # a weights setting -> the files that make the encoder
    build: Callable[[list[Path]], nn.Module]  # these files -> (n, 3, h, w) float -> (n, dimension)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "phikon-v2", 1024, transformers_vit.TILE_PX, *IMAGENET, "bicubic", "vit_large_patch16_224", "cls",
            "Owkin non-commercial", "open", "the paper's best encoder",
            transformers_vit.hub_files("owkin/phikon-v2"), transformers_vit.build,
        ),
        Recipe(
            "imagenet-lite0", lite0.DIMENSION, 112, (0.5,) * 3, (0.5,) * 3, "bicubic", "tf_efficientnet_lite0",
            "stage 4, mean + SD", "Apache-2.0", "installed",
            "ImageNet features, for demonstration and baselines; use a pathology model for results",
            lite0.installed_files, lite0.build,
        ),
        Recipe(
            "colour", colour.DIMENSION, 0, (0.0,) * 3, (1.0,) * 3, "none", "colour statistics", "none",
            "MIT", "built in", "21 colour statistics: the baseline every study should see",
            colour.no_files, colour.build,
        ),
    )
}  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """The registry's entry; raises UsageError for a name it does not have."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(f"there is no encoder {name!r}", f"Known: {', '.join(RECIPES)}.") from None


class Encoder:
    """A frozen encoder on a device, at one precision.

    `fingerprint` covers the weights' bytes, architecture, preprocessing, pooling and precision (DESIGN 10).
    """

    def __init__(self, recipe: Recipe, files: list[Path], device: torch.device, precision: str) -> None:
        self.recipe, self.device, self.precision = recipe, device, precision
        self.dimension = recipe.dimension
        self.description = {
            "encoder": recipe.name,
            "architecture": recipe.architecture,
            "pooling": recipe.pooling,
            "dimension": recipe.dimension,
            "tile_px": recipe.tile_px,
            "mean": recipe.mean,
            "std": recipe.std,
            "interpolation": f"{recipe.interpolation}, as PIL",
            "precision": precision,
            "files": {path.name: _sha256(path) for path in files},
        }
        self.fingerprint = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:32]
        self._module = recipe.build(files).eval().requires_grad_(False)
        self._module.to(device).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(recipe.std, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """Embed (side, side, 3) uint8 tiles, of sides that may differ: (n, dimension) float32."""
        if self.recipe.tile_px == 0:
            out = np.empty((len(tiles), self.dimension), np.float32)
            for rows, pixels in _by_side(tiles, self.device):
                out[rows] = self._module(pixels.float()).float().cpu().numpy()
            return out
        return self._encode(preprocess(tiles, self.recipe, self.device)).float().cpu().numpy()

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        normalised = ((pixels / 255 - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        if self.precision == "fp32":
            return self._module(normalised)
        with torch.autocast(self.device.type, PRECISIONS[self.precision]):
            return self._module(normalised)


def preprocess(tiles: Sequence[np.ndarray], recipe: Recipe, device: torch.device) -> torch.Tensor:
    """Tiles of any side, resized on the device to (n, 3, tile_px, tile_px) float grey levels 0..255.

    As PIL does it, antialiased in two passes, each rounded to whole grey levels, so that it equals PIL's resize of the
    uint8 tile but for a level or two in a few pixels of a thousand (tested).
    """
    out = torch.empty((len(tiles), 3, recipe.tile_px, recipe.tile_px), device=device)
    for rows, pixels in _by_side(tiles, device):
        resized = pixels.float()
        side = pixels.shape[-1]
        if side != recipe.tile_px:
            for size in ((side, recipe.tile_px), (recipe.tile_px, recipe.tile_px)):  # across, then down
                resized = F.interpolate(resized, size, mode=recipe.interpolation, antialias=True)
                resized = resized.round_().clamp_(0, 255)
        out[torch.as_tensor(rows, device=device)] = resized
    return out


def load(name: str, weights: str = "", device: str = "auto", precision: str = "auto") -> Encoder:
    """An encoder ready to embed.

    `weights` is a file or folder to take instead of the hub's. `device` auto takes CUDA where there is one;
    `precision` auto is fp32 on a CPU and bf16 on CUDA, and is part of the fingerprint.
    Raises WeightsError (exit 4) when the weights are neither here nor reachable, or are not this encoder's.
    """
    recipe = recipe_of(name)
    where = device_of(device)
    if precision == "auto":
        precision = "bf16" if where.type == "cuda" else "fp32"
    if recipe.tile_px == 0:
        precision = "fp32"  # statistics of pixels: there is nothing to speed up
    files = recipe.files(weights)
    try:
        encoder = Encoder(recipe, files, where, precision)
        blank = np.zeros((recipe.tile_px or 8, recipe.tile_px or 8, 3), np.uint8)
        if (width := encoder([blank]).shape[1]) != recipe.dimension:
            raise ValueError(f"a tile becomes {width} numbers, not {recipe.dimension}")
        return encoder
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"the weights of {name} do not fit it ({str(error).splitlines()[0]})",
            f"Read from {', '.join(map(str, files))}: fetch them again, or pass others with --weights.",
        ) from error


def _by_side(tiles: Sequence[np.ndarray], device: torch.device) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Tiles stacked by side: (rows, (m, 3, side, side) uint8 on the device)."""
    sides = np.array([tile.shape[0] for tile in tiles])
    groups = []
    for side in np.unique(sides):
        rows = np.flatnonzero(sides == side)
        stacked = torch.from_numpy(np.stack([tiles[int(row)] for row in rows]))
        groups.append((rows, stacked.to(device, non_blocking=True).permute(0, 3, 1, 2)))
    return groups


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
