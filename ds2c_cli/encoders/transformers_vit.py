"""ViT and DINOv2 checkpoints in the transformers format (phikon, midnight), loaded into timm without transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..choices import Pooling
from . import Preprocessing, Recipe
from .timm_models import Pooled, read
from .weights import CONFIG, PROCESSOR, Snapshot

DINOV2 = (  # transformers -> timm, in order (tests compare with transformers itself)
    (r"^dinov2(_with_registers)?\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
VIT = (
    (r"^vit\.", ""),
    *DINOV2,
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
RENAME = {"dinov2": DINOV2, "dinov2_with_registers": DINOV2, "vit": VIT}
UNUSED = re.compile(r"embeddings\.mask_token|pooler\..*")  # of pre-training, and of a head that is not asked for

# What a config may say besides the sizes: with these values, or anything where it cannot change an embedding.
MUST_BE: dict[str, tuple[Any, ...]] = {
    "num_channels": (3,),
    "hidden_act": ("gelu",),
    "chunk_size_feed_forward": (0,),
    "interpolate_antialias": (False,),
    "is_encoder_decoder": (False,),
}
SIZES = {
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size", "mlp_ratio",
    "intermediate_size", "layer_norm_eps", "qkv_bias", "use_swiglu_ffn", "num_register_tokens",
}  # fmt: skip
NO_MATTER = {
    "_name_or_path", "_attn_implementation_autoset", "apply_layernorm", "architectures", "attention_probs_dropout_prob",
    "drop_path_rate", "dtype", "encoder_stride", "hidden_dropout_prob", "id2label", "initializer_range", "label2id",
    "layerscale_value", "out_features", "out_indices", "output_attentions", "output_hidden_states", "pooler_act",
    "pooler_output_size", "problem_type", "reshape_hidden_states", "return_dict", "stage_names", "torch_dtype",
    "transformers_version", "use_mask_token",
}  # fmt: skip
PROCESSOR_MUST_BE: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_pad": (False, None),
    "rescale_factor": (1 / 255,),
}
PROCESSOR_SAYS = {"resample", "size", "crop_size", "do_center_crop", "image_mean", "image_std"}
PROCESSOR_NO_MATTER = {
    "_processor_class", "_valid_processor_keys", "data_format", "device", "disable_grouping", "do_convert_rgb",
    "feature_extractor_type", "image_processor_type", "image_seq_length", "input_data_format", "processor_class",
    "return_tensors",
}  # fmt: skip
# Of a processor that does not say, as owkin/phikon's.
DEFAULT_RESAMPLE = {"ViTImageProcessor": 2, "ViTFeatureExtractor": 2, "BitImageProcessor": 3}
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def declared(recipe: Recipe, snapshot: Snapshot) -> Recipe:
    """Fill in architecture and preprocessing as config.json and preprocessor_config.json say.

    Raises ValueError for what they say that is not known here, KeyError for what they do not say.
    """
    config = snapshot.config
    if not config or not (snapshot.processor or recipe.preprocessing):
        raise ValueError(f"{PROCESSOR if config else CONFIG} is not beside the weights")
    _refuse_unknown(CONFIG, config, must_be=MUST_BE, known=SIZES | NO_MATTER)
    kind, width = config["model_type"], config["hidden_size"]
    if kind not in RENAME:
        raise ValueError(f"{CONFIG} says model_type = {kind!r}, known are {', '.join(RENAME)}")
    hidden = config["intermediate_size"] if kind == "vit" else int(width * config.get("mlp_ratio", 4))
    swiglu = bool(config.get("use_swiglu_ffn", False))
    if swiglu:  # transformers' Dinov2SwiGLUFFN: two thirds, to a multiple of 8; timm counts both halves
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    arguments = {
        "model_type": kind,
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "patch_size": config["patch_size"],
        "image_size": config["image_size"],
        "mlp_hidden": hidden,
        "swiglu": swiglu,
        "qkv_bias": config.get("qkv_bias", True),
        "layer_norm_eps": config["layer_norm_eps"],
        "registers": config.get("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0,
    }
    return replace(
        recipe,
        architecture="VisionTransformer",
        arguments=arguments,
        pooling=Pooling.CLS if recipe.pooling == Pooling.OWN else recipe.pooling,
        dimension=width * (2 if recipe.pooling == Pooling.CLS_AND_MEAN else 1),
        preprocessing=_preprocessing(snapshot.processor) if snapshot.processor else recipe.preprocessing,
    )


def network(recipe: Recipe) -> nn.Module:
    """Make timm's VisionTransformer for tiles of the recipe's side."""
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    of, preprocessing = recipe.arguments, recipe.preprocessing
    assert preprocessing is not None
    swiglu: Mapping[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if of["swiglu"] else {}
    made = VisionTransformer(
        img_size=preprocessing.tile_px,
        patch_size=of["patch_size"],
        embed_dim=of["embed_dim"],
        depth=of["depth"],
        num_heads=of["num_heads"],
        mlp_ratio=of["mlp_hidden"] / of["embed_dim"],
        qkv_bias=of["qkv_bias"],
        init_values=None if of["model_type"] == "vit" else 1.0,
        reg_tokens=of["registers"],
        no_embed_class=of["registers"] > 0,
        norm_layer=partial(nn.LayerNorm, eps=of["layer_norm_eps"]),
        num_classes=0,
        global_pool="token",
        **swiglu,
    )
    return Pooled(made, recipe.pooling)


def map_shape(recipe: Recipe) -> tuple[int, int, int]:
    """Give the side of the tile in pixels, rows of its patch tokens, and the tokens' width."""
    assert recipe.preprocessing is not None
    tile_px = recipe.preprocessing.tile_px
    return tile_px, tile_px // recipe.arguments["patch_size"], recipe.arguments["embed_dim"]


def tensors(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    """Read the checkpoint's tensors by timm's names, position embeddings resized to the recipe's tiles."""
    assert recipe.preprocessing is not None
    of = recipe.arguments
    state = convert(read(path), of["model_type"], depth=of["depth"], bias=of["qkv_bias"])
    grid = recipe.preprocessing.tile_px // of["patch_size"]
    positions = resize_positions(state["pos_embed"], grid, antialias=of["model_type"] == "dinov2_with_registers")
    if of["registers"]:  # timm adds no position to the class token there, so its part moves into the token
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    return {f"network.{name}": tensor for name, tensor in {**state, "pos_embed": positions}.items()}


def convert(state: Mapping[str, torch.Tensor], kind: str, *, depth: int, bias: bool = True) -> dict[str, torch.Tensor]:
    """Rename the tensors of a transformers checkpoint as timm's; query, key and value become one qkv."""
    named: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAME[kind]:
            name = re.sub(pattern, replacement, name)
        if not UNUSED.fullmatch(name):
            named[name] = tensor
    for block in range(depth):
        for entry in ("weight", "bias") if bias else ("weight",):
            parts = [
                named.pop(f"blocks.{block}.attention.attention.{part}.{entry}") for part in ("query", "key", "value")
            ]
            named[f"blocks.{block}.attn.qkv.{entry}"] = torch.cat(parts)
    return named


def resize_positions(positions: torch.Tensor, grid: int, *, antialias: bool) -> torch.Tensor:
    """Resize position embeddings (1, 1 + n, d) to another grid: bicubic, the class token's kept.

    That is what transformers does; it antialiases those of Dinov2WithRegisters alone.
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == grid:
        return positions
    patches = positions[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(patches, (grid, grid), mode="bicubic", antialias=antialias)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2).to(positions.dtype)], 1)


def _preprocessing(processor: Mapping[str, Any]) -> Preprocessing:
    """Read what the image processors of ViT and DINOv2 do to a square tile."""
    _refuse_unknown(PROCESSOR, processor, must_be=PROCESSOR_MUST_BE, known=PROCESSOR_SAYS | PROCESSOR_NO_MATTER)
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    resample = processor.get("resample", DEFAULT_RESAMPLE.get(kind))
    if resample not in INTERPOLATIONS:
        raise ValueError(f"{PROCESSOR} says resample = {resample!r}, known are {INTERPOLATIONS}")
    resized = _side("size", processor["size"])
    crops = processor.get("do_center_crop", "crop_size" in processor and processor["crop_size"] is not None)
    tile_px = _side("crop_size", processor["crop_size"]) if crops else resized
    if tile_px > resized:
        raise ValueError(f"{PROCESSOR} says crop_size = {tile_px}, more than the size {resized}")
    mean, std = (tuple(float(value) for value in processor[name]) for name in ("image_mean", "image_std"))
    return Preprocessing(
        mean,
        std,
        tile_px=tile_px,
        resize_px=0 if tile_px == resized else resized,
        interpolation=INTERPOLATIONS[resample],
    )


def _side(name: str, size: Any) -> int:
    """Read the side of a square tile, whether given by its edge, by height and width, or as a number."""
    sides = {size} if isinstance(size, int) else set(size.values())
    if len(sides) != 1:
        raise ValueError(f"{PROCESSOR} says {name} = {size!r}, tiles are square")
    return int(sides.pop())


def _refuse_unknown(
    file: str, said: Mapping[str, Any], *, must_be: Mapping[str, tuple[Any, ...]], known: set[str]
) -> None:
    """Raise ValueError for what a config says that might change an embedding in a way that is not known here."""
    for key, value in said.items():
        if key in must_be and value not in must_be[key]:
            raise ValueError(f"{file} says {key} = {value!r}, which is not known here")
        if key not in must_be and key not in known:
            raise ValueError(f"{file} says {key} = {value!r}, which is not known here")
