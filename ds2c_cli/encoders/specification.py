"""What an encoder is, before it is built: recipe, weights and precision, all of which its fingerprint covers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import torch

from ..choices import Features, Pooling
from ..device import device_of
from ..errors import UsageError, WeightsError
from ..records import EncoderDescription
from . import Preprocessing, Recipe, colour, lite, recipe_of, timm_models, transformers_vit, weights
from .weights import Snapshot

# A format completes a recipe from the snapshot's configs, makes the network, and names its tensors.
FORMATS: dict[str, ModuleType] = {
    "timm": timm_models,
    "transformers": transformers_vit,
    "lite": lite,
    "colour": colour,
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Specification:
    """An encoder whose files are here; `recipe` has everything that the snapshot's configs say filled in."""

    recipe: Recipe
    snapshot: Snapshot
    precision: str

    @property
    def preprocessing(self) -> Preprocessing:
        """Give the recipe's, which is known by now."""
        assert self.recipe.preprocessing is not None
        return self.recipe.preprocessing

    @property
    def format(self) -> ModuleType:
        """Give the module that builds it."""
        return FORMATS[self.recipe.format]

    @cached_property
    def description(self) -> EncoderDescription:
        """Give what the fingerprint means."""
        recipe, of = self.recipe, self.preprocessing
        return EncoderDescription(
            encoder=recipe.name,
            architecture=recipe.architecture,
            arguments=dict(recipe.arguments),
            pooling=recipe.pooling,
            dimension=recipe.dimension,
            mean=of.mean,
            std=of.std,
            tile_px=of.tile_px,
            resize_px=of.resize_px,
            interpolation=of.interpolation,
            precision=self.precision,
            weights=self.snapshot.fingerprint(),
            map_side=recipe.map_side,
        )

    @property
    def fingerprint(self) -> str:
        """Name the encoder in 32 hex digits."""
        return self.description.fingerprint


def specify(
    name: str, given: str = "", *, device: str = "auto", precision: str = "auto", features: Features = Features.TILES
) -> Specification:
    """Find an encoder's files and complete its recipe; neither builds nor loads the network.

    Args:
        name: Name in the registry, or what `recipe_of` takes besides.
        given: File or folder of weights, which stands before those that can be found.
        device: Decides the precision auto: fp32 on a CPU and bf16 on CUDA.
        precision: Numbers that the network computes in.
        features: One vector per tile, or the encoder's map of features for superpixels.

    Raises:
        UsageError: The name is unknown, or the encoder has no map.
        WeightsError: Files are missing, or their configs say what this does not know.
    """
    recipe = recipe_of(name)
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"there is no precision {precision!r}", f"Say auto, {', '.join(PRECISIONS)}.")
    if precision == "auto":
        precision = "bf16" if device_of(device).type == "cuda" else "fp32"
    snapshot = weights.find(recipe, given)
    if recipe.format == "timm" and "model_type" in snapshot.config:
        recipe = replace(recipe, format="transformers")
    if recipe.format == "colour":
        precision = "fp32"  # statistics of pixels: there is nothing to speed up
    try:
        declared = FORMATS[recipe.format].declared(recipe, snapshot)
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"the configuration of {name} is not one that ds2c knows ({_reason(error)})",
            f"It was read beside {snapshot.weights}: fetch the files again, or choose another encoder.",
        ) from error
    agreed = _agreed(recipe, declared)
    if features == Features.SUPERPIXELS:
        agreed = _with_map(agreed)
    return Specification(agreed, snapshot, precision)


def _with_map(recipe: Recipe) -> Recipe:
    """Leave out the pooling: the map covers the whole tile, so nothing of it is cropped."""
    assert recipe.preprocessing is not None
    tile_px, side, width = FORMATS[recipe.format].map_shape(recipe)
    preprocessing = replace(recipe.preprocessing, tile_px=tile_px, resize_px=0)
    return replace(recipe, pooling=Pooling.MAP, preprocessing=preprocessing, dimension=side**2 * width, map_side=side)


def _agreed(recipe: Recipe, declared: Recipe) -> Recipe:
    """Fill in what the registry leaves open as the snapshot declares; a contradiction is an error."""
    ours, theirs = recipe.preprocessing, declared.preprocessing
    if ours and theirs:
        for entry in fields(Preprocessing):
            told, said = getattr(ours, entry.name), getattr(theirs, entry.name)
            if told == "":
                ours = replace(ours, **{entry.name: said})
                continue
            # timm's configs say what a network was trained at, the registry what it is fed.
            open_to_choice = entry.name in ("tile_px", "resize_px") and recipe.format == "timm"
            if not (open_to_choice or entry.name in recipe.overrules or _same(told, said)):
                raise WeightsError(
                    f"the configuration of {recipe.name} says {entry.name} = {said!r}, the registry {told!r}",
                    f"Take the configuration's word with --encoder hf-hub:{recipe.repository}, and report this.",
                )
    agreed = replace(declared, preprocessing=ours or theirs)
    if agreed.preprocessing is None or not agreed.preprocessing.interpolation:
        raise WeightsError(
            f"nothing says how tiles are prepared for {recipe.name}",
            f"Put {weights.CONFIG} of {recipe.repository or 'the model'} beside the weights.",
        )
    if recipe.dimension and declared.dimension != recipe.dimension:
        raise WeightsError(
            f"{recipe.name} has the dimension {recipe.dimension}, these weights {declared.dimension}",
            "Check that --weights names this encoder's files.",
        )
    return agreed


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Sequence) and not isinstance(ours, str):
        return len(ours) == len(theirs) and all(
            math.isclose(a, b, abs_tol=1e-5) for a, b in zip(ours, theirs, strict=True)
        )
    return bool(ours == theirs)


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
