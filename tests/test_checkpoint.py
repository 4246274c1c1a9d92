"""Checkpoints: what is saved predicts the same when loaded, and a file that is no checkpoint is refused, never run."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import checkpoint_info

from ds2c_cli import schema
from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.models import MODELS
from ds2c_cli.settings import Geometry, Training
from ds2c_cli.training.checkpoint import Checkpoint, build_model, load_checkpoint, standardisation
from ds2c_cli.training.dataset import SpotDataset

DIMENSION, GENES = 6, ("ACTA2", "CD3E", "EPCAM", "KRT8")


@pytest.fixture
def dataset():
    """Four spots, the third of them empty, with nine cells; one cell is only a point."""
    generator = torch.Generator().manual_seed(1)
    return SpotDataset(
        cells=3 + 2 * torch.randn(9, DIMENSION, generator=generator),
        area=torch.tensor([40.0, 60, 80, torch.nan, 50, 70, 30, 90, 60]),
        inside=torch.tensor([True, True, False, True, True, True, True, False, True]),
        start=torch.tensor([0, 3, 5, 5, 9]),
        tiles=torch.randn(4, DIMENSION, generator=generator),
        around=torch.tensor([[1, -1], [0, 2], [-1, -1], [2, 1]]),
        cell_row=np.arange(9),
        sample=np.zeros(4, np.int64),
    )


def trained(dataset, model="additive", **options):
    """A checkpoint with random weights, the standardisation of these dataset, and state that only training leaves."""
    torch.manual_seed(3)
    settings = Training(model=model, hidden=8, **options)
    network = build_model(settings, dimension=DIMENSION, genes=len(GENES))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    geometry = Geometry(layout="hex", membership="centroid")
    info = checkpoint_info(name="lung", genes=list(GENES), geometry=geometry, training=settings)
    checkpoint = Checkpoint(network, standardisation(dataset, np.array([0, 1, 3])), info)
    network.spot(checkpoint.scale.of(dataset).batch(torch.arange(4))).mean().backward()
    optimiser.step()
    network.eval()
    return checkpoint


def read(checkpoint, dataset):
    """What it predicts: of the cells, and of the spots."""
    batch = checkpoint.scale.of(dataset).batch(torch.arange(dataset.n_spots))
    with torch.no_grad():
        return checkpoint.model.cell(batch), checkpoint.model.spot(batch)


@pytest.fixture
def path(tmp_path, dataset):
    path = tmp_path / "checkpoints" / "lung.pt"
    trained(dataset).save(path)
    return path


@pytest.fixture
def rewrite(path):
    """The same file with some of its entries replaced."""

    def write(**entries):
        torch.save({**torch.load(path, weights_only=True), **entries}, path)
        return path

    return write


def refused(path, *words):
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    assert error.value.exit_code == 3
    for word in (str(path), *words):
        assert word in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("model", [name for name, model in MODELS.items() if model.features == "tiles"])
def test_a_loaded_checkpoint_predicts_exactly_what_the_saved_one_did(tmp_path, dataset, model):
    saved = trained(dataset, model)
    saved.save(tmp_path / "lung.pt")
    loaded = load_checkpoint(tmp_path / "lung.pt")
    for before, after in zip(read(saved, dataset), read(loaded, dataset), strict=True):
        assert torch.equal(before, after)
        assert torch.isfinite(after).all()
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("options", [{"context": "cell"}, {"context": "spot", "pooling": "mean"}, {"pooling": "gru"}])
def test_an_ablation_is_rebuilt_from_the_settings_the_checkpoint_records(tmp_path, dataset, options):
    saved = trained(dataset, "paper", **options)
    saved.save(tmp_path / "lung.pt")
    loaded = load_checkpoint(tmp_path / "lung.pt")
    for before, after in zip(read(saved, dataset), read(loaded, dataset), strict=True):
        assert torch.equal(before, after)


def test_a_checkpoint_from_before_the_ablations_is_what_it_was(tmp_path, dataset):
    saved = trained(dataset, "paper")
    expected = read(saved, dataset)
    saved.save(tmp_path / "lung.pt")
    content = torch.load(tmp_path / "lung.pt", weights_only=True)
    about = json.loads(content["about"])
    for name in ("context", "pooling"):
        del about["training"][name]
    torch.save({**content, "about": json.dumps(about)}, tmp_path / "lung.pt")
    for before, after in zip(expected, read(load_checkpoint(tmp_path / "lung.pt"), dataset), strict=True):
        assert torch.equal(before, after)


def test_a_model_refuses_an_ablation_it_does_not_have():
    with pytest.raises(UsageError, match="mlp has no --context"):
        build_model(Training(model="mlp", context="cell"), dimension=DIMENSION, genes=3)
    with pytest.raises(UsageError, match="additive has no --pooling"):
        build_model(Training(pooling="mean"), dimension=DIMENSION, genes=3)


def test_weights_are_found_by_the_names_they_had_before(tmp_path, dataset):
    saved = trained(dataset)
    saved.save(tmp_path / "now.pt")
    content = torch.load(tmp_path / "now.pt", weights_only=True)
    before = {"networks": "members", "log_inverse_dispersion": "log_size"}
    content["state"] = {
        ".".join([before.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:]]): value
        for key, value in content["state"].items()
    }
    assert {"members.0.rho.0.weight", "log_size"} < set(content["state"])
    torch.save(content | {"version": 3}, tmp_path / "lung.pt")
    for now, then in zip(read(saved, dataset), read(load_checkpoint(tmp_path / "lung.pt"), dataset), strict=True):
        assert torch.equal(now, then)


def test_a_checkpoint_holds_all_that_prediction_needs(path, dataset):
    loaded = load_checkpoint(path)
    assert loaded.info == trained(dataset).info
    assert (loaded.name, loaded.genes) == ("lung", list(GENES))
    assert loaded.geometry == Geometry(layout="hex", membership="centroid")
    assert loaded.encoder.fingerprint == "f" * 32
    assert loaded.model.typical_total > 0  # learned state that is no parameter


def test_its_hash_is_that_of_the_file(path, dataset):
    first = load_checkpoint(path).hash
    assert first == load_checkpoint(path).hash
    other = trained(dataset)
    replace(other, info=other.info.changed(name="breast")).save(path)
    assert load_checkpoint(path).hash != first


def test_only_tensors_and_plain_values_are_stored(path):
    content = torch.load(path, weights_only=True)
    assert set(content) == {"version", "about", "state", "centre", "spread", "mean_area"}
    assert content["version"] == schema.CHECKPOINT_VERSION
    assert json.loads(content["about"])["genes"] == list(GENES)
    assert all(isinstance(tensor, torch.Tensor) for tensor in content["state"].values())


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(path, dataset):
    before = path.read_bytes()
    broken = trained(dataset)
    broken.model.state_dict = lambda: {"weights": None}
    with pytest.raises(AttributeError):
        broken.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Standardisation


def test_standardisation_is_over_training_spots_and_their_members_only(dataset):
    scale = standardisation(dataset, np.array([0, 1]))
    vectors = np.concatenate([dataset.cells[[0, 1, 3, 4]], dataset.tiles[[0, 1]]])
    np.testing.assert_allclose(scale.centre, vectors.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale.feature_sd, vectors.std(0), rtol=1e-5)
    assert scale.mean_area == pytest.approx((40 + 60 + 50) / 3)  # cell 3 is a point and has no area


def test_a_constant_feature_is_centred_and_not_blown_up(dataset):
    dataset.cells[:, 2] = dataset.tiles[:, 2] = 7.0
    scaled = trained(dataset).scale.of(dataset)
    assert torch.equal(scaled.cells[:, 2], torch.zeros(9))
    assert torch.isfinite(scaled.cells).all()


def test_a_cell_without_area_counts_as_an_average_one(dataset):
    checkpoint = trained(dataset)
    area = checkpoint.scale.of(dataset).area
    assert area[3] == 1
    assert area[0] == pytest.approx(40 / checkpoint.scale.mean_area)
    points = replace(dataset, area=torch.full((9,), torch.nan))
    assert torch.equal(trained(points).scale.of(points).area, torch.ones(9))


# Files that are no checkpoint


class Harmful:
    """Unpickled, it writes a file: what a model from a stranger might do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_the_harmful_object_of_these_tests_does_harm(tmp_path):
    """Else the next tests prove nothing."""
    pickle.loads(pickle.dumps(Harmful(tmp_path / "harm")))
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("write", ["pickle", "torch", "legacy torch", "inside a checkpoint"])
def test_code_in_a_file_is_refused_and_not_run(path, tmp_path, write):
    harm, mark = Harmful(tmp_path / "harm"), tmp_path / "harm"
    if write == "pickle":
        path.write_bytes(pickle.dumps(harm))
    elif write == "torch":
        torch.save(harm, path)
    elif write == "legacy torch":
        torch.save(harm, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({**torch.load(path, weights_only=True), "centre": harm}, path)
    refused(path, "run code")
    assert not mark.exists()


def test_code_in_a_file_ends_the_command_with_3(ds2c, path, tmp_path):
    mark = tmp_path / "harm"
    path.write_bytes(pickle.dumps(Harmful(mark)))
    ran = ds2c("predict", "--checkpoint", path, "--project", tmp_path)
    assert ran.code == 3
    assert str(path) in ran.err.replace("\n", "")
    assert "Traceback" not in ran.err
    assert not mark.exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "damaged")


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"state_dict": {}}, torch.nn.Linear(2, 2).state_dict()],
    ids=["tensor", "list", "another tool's", "state"],
)  # fmt: skip
def test_another_torch_file_is_refused(path, content):
    torch.save(content, path)
    refused(path, "no ds2c checkpoint")


def test_a_text_file_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "notes.pt").write_text("not weights")
    refused(tmp_path / "notes.pt")
    refused(tmp_path / "absent.pt", "no checkpoint")
    refused(tmp_path, "no checkpoint")


def test_a_future_version_shows_both(rewrite):
    refused(rewrite(version=99), "99", str(schema.CHECKPOINT_VERSION))
