"""The registry of encoders: name -> weights, architecture, preprocessing, pooling, dimension, licence, access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import UsageError

# Nothing here imports torch: the table is also read to be listed.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclass(frozen=True)
class Preprocessing:
    """How a square uint8 tile becomes an encoder's input: resized, its centre cropped, /255, normalised."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    tile_px: int = 224  # side of the input; 0: the tile as it is, at level-0 resolution
    resize_px: int = 0  # side before the centre is cropped; 0: tile_px, so nothing is cropped
    interpolation: str = "bicubic"  # empty: as the snapshot says


@dataclass(frozen=True)
class Recipe:
    """How an encoder is obtained, built and fed. What is empty here is read from the snapshot's config.json."""

    name: str
    format: str = "timm"  # which module of this folder builds it: timm, transformers, lite0, colour
    repository: str = ""  # on the hub
    revision: str = "main"  # a commit where one is known from public code; the weights' hash is in the fingerprint
    weights_file: str = ""  # empty: model.safetensors, else pytorch_model.bin
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm.create_model
    pooling: str = "own"  # own: the network's own output; cls; cls + mean of the patch tokens
    preprocessing: Preprocessing | None = None
    dimension: int = 0
    licence: str = "see its page"
    access: str = "open"  # open, gated (on the hub), installed, built in, local
    overrules: tuple[str, ...] = ()  # what config.json is known to declare wrongly
    note: str = ""  # what a person should know before using it


OWKIN, NC_ND, LUNIT_NC = "Owkin non-commercial", "CC-BY-NC-ND-4.0", "Lunit non-commercial"
VIT_H_SWIGLU = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **SWIGLU}
VIT_G_UNI2 = {
    "img_size": 224, "depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2, "init_values": 1e-5,
    "reg_tokens": 8, "no_embed_class": True, **SWIGLU,
}  # fmt: skip
VIT_G_OPTIMUS = {"img_size": 224, "init_values": 1e-5}
VIT_G_GIGAPATH = {
    "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334,
    "init_values": 1e-5,
}  # fmt: skip
KAIKO = "kaiko_ai_towards_large_pathology_fms"
BIN = "pytorch_model.bin"
SAFE = "model.safetensors"

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "phikon-v2", "transformers", "owkin/phikon-v2", weights_file=SAFE, pooling="cls", dimension=1024,
            preprocessing=Preprocessing(*IMAGENET), licence=OWKIN, note="the paper's best encoder",
        ),
        Recipe(
            "phikon", "transformers", "owkin/phikon", weights_file=SAFE, pooling="cls", dimension=768,
            preprocessing=Preprocessing(*IMAGENET, interpolation="bilinear"), licence=OWKIN,
        ),
        Recipe(
            "uni", "timm", "MahmoodLab/UNI", "b55a5ec6cade1a39edfe6534189a9b8ca7a022f0",
            weights_file=BIN, architecture="vit_large_patch16_224",
            arguments={"img_size": 224, "init_values": 1e-5}, pooling="cls", dimension=1024,
            preprocessing=Preprocessing(*IMAGENET, interpolation="bilinear"), licence=NC_ND, access="gated",
        ),
        Recipe(
            "uni2-h", "timm", "MahmoodLab/UNI2-h", "d517a8dd47902dd7c308b3c36f63bce47e7b9a43",
            weights_file=BIN, architecture="vit_giant_patch14_224",
            arguments=VIT_G_UNI2, pooling="cls", dimension=1536,
            preprocessing=Preprocessing(*IMAGENET, interpolation="bilinear"), licence=NC_ND, access="gated",
        ),
        Recipe(
            "h-optimus-0", "timm", "bioptimus/H-optimus-0", weights_file=BIN,
            architecture="vit_giant_patch14_reg4_dinov2", arguments=VIT_G_OPTIMUS, pooling="cls", dimension=1536,
            preprocessing=Preprocessing(*OPTIMUS), licence="Apache-2.0", access="gated", overrules=("interpolation",),
        ),
        Recipe(
            "h-optimus-1", "timm", "bioptimus/H-optimus-1", weights_file=BIN,
            architecture="vit_giant_patch14_reg4_dinov2", arguments=VIT_G_OPTIMUS, pooling="cls", dimension=1536,
            preprocessing=Preprocessing(*OPTIMUS), licence=NC_ND, access="gated", overrules=("interpolation",),
        ),
        Recipe(
            "h0-mini", "timm", "bioptimus/H0-mini", arguments=SWIGLU, pooling="cls", dimension=768,
            preprocessing=Preprocessing(*OPTIMUS, interpolation=""), licence=NC_ND, access="gated",
        ),
        Recipe(
            "virchow2", "timm", "paige-ai/Virchow2", "3158645804b69e3f3bc4439d4116edddf0840a72",
            weights_file=SAFE, architecture="vit_huge_patch14_224",
            arguments={**VIT_H_SWIGLU, "reg_tokens": 4}, pooling="cls + mean", dimension=2560,
            preprocessing=Preprocessing(*IMAGENET), licence=NC_ND, access="gated",
        ),
        Recipe(
            "virchow", "timm", "paige-ai/Virchow", "19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
            weights_file=SAFE, architecture="vit_huge_patch14_224",
            arguments=VIT_H_SWIGLU, pooling="cls + mean", dimension=2560,
            preprocessing=Preprocessing(*IMAGENET), licence="Apache-2.0", access="gated",
        ),
        Recipe(
            "prov-gigapath", "timm", "prov-gigapath/prov-gigapath", "eba85dd46097c3eedfcc2a3a9a930baecb6bcc19",
            weights_file=BIN,
            architecture="vit_giant_patch14_dinov2", arguments=VIT_G_GIGAPATH, pooling="cls", dimension=1536,
            preprocessing=Preprocessing(*IMAGENET, resize_px=256), licence="Apache-2.0, with conditions",
            access="gated",
        ),
        Recipe(
            "midnight", "transformers", "kaiko-ai/midnight", weights_file=SAFE, pooling="cls", dimension=1536,
            preprocessing=Preprocessing(*HALF), licence="MIT",
        ),
        Recipe(
            "kaiko-vits16", "timm", f"1aurent/vit_small_patch16_224.{KAIKO}", pooling="cls", dimension=384,
            preprocessing=Preprocessing(*HALF, interpolation=""),
        ),
        Recipe(
            "kaiko-vitb16", "timm", f"1aurent/vit_base_patch16_224.{KAIKO}", pooling="cls", dimension=768,
            preprocessing=Preprocessing(*HALF, interpolation=""),
        ),
        Recipe(
            "kaiko-vitl14", "timm", f"1aurent/vit_large_patch14_reg4_dinov2.{KAIKO}", pooling="cls", dimension=1024,
            preprocessing=Preprocessing(*HALF, interpolation=""),
        ),
        Recipe(
            "lunit-vits16", "timm", "1aurent/vit_small_patch16_224.lunit_dino", architecture="vit_small_patch16_224",
            pooling="cls", dimension=384, preprocessing=Preprocessing(*LUNIT, interpolation=""), licence=LUNIT_NC,
            overrules=("mean", "std"),
        ),
        Recipe(
            "dinov2-vits14", "timm", "timm/vit_small_patch14_dinov2.lvd142m", weights_file=SAFE,
            architecture="vit_small_patch14_dinov2", pooling="cls", dimension=384,
            preprocessing=Preprocessing(*IMAGENET), licence="Apache-2.0",
            note="natural images: a control, not a pathology model",
        ),
        Recipe(
            "imagenet-lite0", "lite0", architecture="tf_efficientnet_lite0", pooling="stage 4, mean + SD",
            dimension=224, preprocessing=Preprocessing(*HALF, tile_px=112), licence="Apache-2.0", access="installed",
            note="ImageNet features, for demonstration and baselines; use a pathology model for results",
        ),
        Recipe(
            "colour", "colour", architecture="colour statistics", pooling="none", dimension=21,
            preprocessing=Preprocessing(tile_px=0, interpolation="none"), licence="MIT", access="built in",
            note="21 colour statistics: the baseline every study should see",
        ),
    )
}  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """The registry's entry, or one to be read from the snapshot of `timm:NAME`, `hf-hub:OWNER/NAME` or a folder.

    Raises UsageError for a name that is none of these.
    """
    if name in RECIPES:
        return RECIPES[name]
    kind, _, rest = name.partition(":")
    if kind == "timm" and rest:
        return Recipe(name, architecture=rest)
    if kind == "hf-hub" and "/" in rest:
        repository, _, revision = rest.partition("@")
        return Recipe(name, repository=repository, revision=revision or "main")
    if Path(name).is_dir():
        return Recipe(name, access="local")
    meant = get_close_matches(name.lower(), RECIPES, 1)
    raise UsageError(
        f"there is no encoder {name!r}" + (f"; did you mean {meant[0]}?" if meant else ""),
        "`ds2c encoders` lists them; timm:NAME, hf-hub:OWNER/NAME or a folder with config.json and weights do too.",
    )
