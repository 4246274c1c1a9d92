"""Encoders that are timm's own: architectures from the registry, from a config.json, or from timm's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..choices import Pooling
from ..errors import UsageError
from . import Preprocessing, Recipe
from .weights import Snapshot

CLASSES = {"SiLU": nn.SiLU}  # arguments that are classes, by the names that the registry uses; timm's are added


def declared(recipe: Recipe, snapshot: Snapshot) -> Recipe:
    """Fill in everything that config.json (or timm, for its own names) says where the registry is silent.

    Raises ValueError for what they say that is not known here, KeyError for what they do not say.
    """
    import timm

    config = snapshot.config
    arguments = dict(recipe.arguments)
    if not recipe.architecture:
        arguments = {**config.get("model_args", {}), **arguments}
        recipe = replace(recipe, architecture=config["architecture"])
    known = timm.get_pretrained_cfg(recipe.architecture) if timm.is_model(recipe.architecture) else None
    if known is None:
        raise ValueError(f"timm {timm.__version__} has no architecture {recipe.architecture}")
    said = config.get("pretrained_cfg", {})
    if recipe.preprocessing is None and not said:
        said = known.to_dict()
    if recipe.pooling == Pooling.OWN and "global_pool" in config:
        arguments.setdefault("global_pool", config["global_pool"])
    recipe = replace(recipe, arguments=arguments)
    with torch.device("meta"):
        empty = _create(recipe)
    width = getattr(empty, "head_hidden_size", empty.num_features)
    dimension = int(width) * (2 if recipe.pooling == Pooling.CLS_AND_MEAN else 1)  # type: ignore[arg-type]
    return replace(recipe, dimension=dimension, preprocessing=_preprocessing(said) if said else recipe.preprocessing)


def network(recipe: Recipe) -> nn.Module:
    """Make the architecture with weights that mean nothing yet: (n, 3, h, w) normalised -> (n, dimension)."""
    made = _create(recipe)
    return made if recipe.pooling == Pooling.OWN else Pooled(made, recipe.pooling)


def tensors(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    """Read the checkpoint's tensors by the network's names, without a classifier's, which no encoder has."""
    import timm

    state = read(path)
    if known := timm.get_pretrained_cfg(recipe.architecture):
        heads = (known.classifier,) if isinstance(known.classifier, str) else tuple(known.classifier or ())
        state = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in heads}
    prefix = "" if recipe.pooling == Pooling.OWN else "network."
    return {prefix + name: tensor for name, tensor in state.items()}


def fit_to(made: nn.Module, tile_px: int) -> None:
    """Resample position embeddings, as timm does, where the weights are of another resolution than the tiles."""
    inner = made.network if isinstance(made, Pooled) else made
    patches = getattr(inner, "patch_embed", None)
    if getattr(patches, "img_size", None) not in (None, (tile_px, tile_px)):
        inner.set_input_size((tile_px, tile_px))  # type: ignore[operator]


class Pooled(nn.Module):
    """A vision transformer's tokens after the final norm, as one vector per tile."""

    def __init__(self, network: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.network.forward_features(pixels)  # type: ignore[operator]  # (n, prefix + patches, width)
        if self.pooling == Pooling.CLS:
            return tokens[:, 0]
        patches = tokens[:, self.network.num_prefix_tokens :]  # registers are no patches
        if self.pooling == Pooling.MAP:
            return patches.flatten(1)  # (n, patches * width), row by row
        return torch.cat([tokens[:, 0], patches.mean(1)], -1)


def map_shape(recipe: Recipe) -> tuple[int, int, int]:
    """Give the tile's side in pixels, rows of its patch tokens, and their width; raises UsageError without tokens."""
    with torch.device("meta"):
        made = _create(recipe)
    assert recipe.preprocessing is not None
    if not hasattr(made, "patch_embed") or not hasattr(made, "num_prefix_tokens"):
        raise UsageError(
            f"the encoder {recipe.name} is no vision transformer and has no map of patch tokens",
            "Superpixels need one, or imagenet-lite0.",
        )
    tile_px = recipe.preprocessing.tile_px
    return tile_px, tile_px // int(made.patch_embed.patch_size[0]), int(made.embed_dim)  # type: ignore[index, union-attr, arg-type]


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from safetensors or a PyTorch file, never running code; raises ValueError for others."""
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is damaged: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_can_map(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path.name} is damaged, or a pickle that would have to run code to load") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ValueError(f"{path.name} does not hold tensors by name")
    return dict(state)


def _can_map(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _create(recipe: Recipe) -> nn.Module:
    import timm
    from timm.layers import SwiGLUPacked

    classes = {**CLASSES, "SwiGLUPacked": SwiGLUPacked}
    arguments: Mapping[str, Any] = {
        name: classes[value] if name in ("mlp_layer", "act_layer") and value in classes else value
        for name, value in recipe.arguments.items()
    }
    return timm.create_model(recipe.architecture, pretrained=False, **{**arguments, "num_classes": 0})


def _preprocessing(said: Mapping[str, Any]) -> Preprocessing:
    """Read timm's evaluation transform: resize to input / crop_pct, crop the centre (timm.data.create_transform).

    What a config is silent about has timm's defaults, but a mean and an SD must be there.
    """
    from timm.data import DEFAULT_CROP_PCT

    _, height, width = said.get("input_size") or (3, 224, 224)
    if height != width:
        raise ValueError(f"input_size is {height} x {width}, tiles are square")
    interpolation = said.get("interpolation") or "bicubic"
    if interpolation not in ("bicubic", "bilinear"):
        raise ValueError(f"interpolation = {interpolation!r} is not known here")
    if said.get("crop_mode", "center") not in ("center", "squash"):
        raise ValueError(f"crop_mode = {said['crop_mode']!r} is not known here")
    resized = math.floor(width / (said.get("crop_pct") or DEFAULT_CROP_PCT))
    mean, std = (tuple(float(value) for value in said[name]) for name in ("mean", "std"))
    return Preprocessing(
        mean, std, tile_px=width, resize_px=0 if resized == width else resized, interpolation=interpolation
    )
