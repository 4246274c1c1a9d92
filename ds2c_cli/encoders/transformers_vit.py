"""DINOv2 checkpoints in the transformers format (phikon-v2), loaded into timm without transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError

TILE_PX = 224
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
# transformers -> timm, in order (ENCODERS 3; checked against transformers in the tests)
RENAME = (
    (r"^dinov2\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
KNOWN = {"model_type": "dinov2", "hidden_act": "gelu", "use_swiglu_ffn": False, "qkv_bias": True, "num_channels": 3}


def hub_files(repository: str) -> Callable[[str], list[Path]]:
    """How to find a hub model's files: the folder given as weights, else the hub's cache, else the hub."""

    def files(weights: str) -> list[Path]:
        if weights:
            found = [Path(weights) / name for name in FILES]
            absent = [path.name for path in found if not path.is_file()]
            if absent:
                raise WeightsError(f"{weights} lacks {', '.join(absent)}", f"Copy the files of {repository} there.")
            return found
        return [_from_hub(repository, name) for name in FILES]

    return files


def _from_hub(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name))
    except GatedRepoError as error:
        raise WeightsError(
            f"{repository} is gated and this account has no access",
            f"Accept its licence on the hub's page of {repository}, then log in with `hf auth login`.",
        ) from error
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise WeightsError(
            f"the weights of {repository} are not on this machine and the hub cannot be reached",
            f"On a machine with network run `hf download {repository}`, copy {', '.join(FILES)} here and pass their "
            "folder with --weights DIR; or choose another with --encoder (imagenet-lite0 comes with the install).",
        ) from error


def build(files: list[Path]) -> nn.Module:
    """A timm ViT that returns the class token after the final norm.

    Raises ValueError for what the configs say and this does not know, KeyError for what they do not say.
    """
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, processor = (json.loads(path.read_text()) for path in files[:2])
    for key, value in KNOWN.items():
        if config.get(key, value) != value:
            raise ValueError(f"{files[0].name} says {key} = {config[key]!r}, which is not known here")
    _check_processor(processor, files[1].name)
    hidden, patch = config["hidden_size"], config["patch_size"]
    try:
        tensors = load_file(files[2])
    except SafetensorError as error:
        raise ValueError(f"{files[2].name} is damaged: {error}") from error
    state = convert(tensors, config["num_hidden_layers"])
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    network = timm.create_model(
        "vit_base_patch16_224",
        pretrained=False,
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=hidden,
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_ratio=config.get("mlp_ratio", 4),
        init_values=1.0,
        norm_layer=partial(nn.LayerNorm, eps=config["layer_norm_eps"]),
        num_classes=0,
        global_pool="token",
    )
    state["pos_embed"] = _resize_positions(state["pos_embed"], TILE_PX // patch)
    network.set_input_size((TILE_PX, TILE_PX))  # type: ignore[operator]
    network.load_state_dict(state, strict=True)
    return network


def convert(state: Mapping[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """Tensors of a transformers DINOv2 checkpoint under timm's names; query, key and value become one qkv."""
    named: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAME:
            name = re.sub(pattern, replacement, name)
        if name != "embeddings.mask_token":  # used in pre-training only
            named[name] = tensor
    for block in range(depth):
        for kind in ("weight", "bias"):
            parts = [
                named.pop(f"blocks.{block}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")
            ]
            named[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return named


def _resize_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Position embeddings (1, 1 + n, d) for another grid: bicubic, not antialiased, class part kept (ENCODERS 3)."""
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == grid:
        return positions
    patches = positions[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(patches, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2).to(positions.dtype)], 1)


def _check_processor(processor: Mapping[str, Any], name: str) -> None:
    """The registry's preprocessing (224 px, bicubic, ImageNet mean and SD) is what the snapshot declares."""
    expected = {
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    for key, value in expected.items():
        if processor.get(key, value) != value:
            raise ValueError(f"{name} says {key} = {processor[key]!r}, the registry {value!r}")
    for key in ("size", "crop_size"):  # of a square tile, whether by its edge or by height and width
        if set(processor.get(key, {}).values()) - {TILE_PX}:
            raise ValueError(f"{name} says {key} = {processor[key]!r}, the registry {TILE_PX} px")
