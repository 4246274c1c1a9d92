"""What a training takes in: samples, the encoder, spots and their depth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from made import encoder_description
from scipy import sparse

from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.project import Project, Workspace, must_run
from ds2c_cli.records import EncoderUsed
from ds2c_cli.settings import Embedding, Training
from ds2c_cli.training.labels import spot_labels, usable_spots
from ds2c_cli.training.train import _recipe_of, train_folds


@pytest.fixture
def embedded(tmp_path):
    """A project that was embedded by two encoders, with the default one first."""
    project = Project(tmp_path)
    for name in ("phikon-v2", "colour"):
        about = encoder_description(encoder=name, dimension=4)
        used = EncoderUsed(settings=Embedding(encoder=name), fingerprint=f"print-of-{name}", description=about)
        project.record_embedding(used, rate=None, samples=[], shards=1)
    return project


@pytest.mark.parametrize(
    ("asked", "taken"),
    [("phikon-v2", "phikon-v2"), ("colour", "colour"), ("", "colour")],
    ids=["default", "", "latest"],
)
def test_the_encoder_that_was_asked_for_is_taken_be_it_the_default(embedded, asked, taken):
    assert embedded.embedding(Embedding(encoder=asked)).description.encoder == taken


def test_an_encoder_that_was_not_used_is_named_with_its_precision(embedded):
    with pytest.raises(InputError, match="not embedded with phikon-v2 at bf16"):
        embedded.embedding(Embedding(encoder="phikon-v2", precision="bf16"))


def test_one_fold_leaves_nothing_out(tmp_path):
    with pytest.raises(UsageError, match="of 1 folds"):
        train_folds(
            Workspace(Project(tmp_path), cache=tmp_path), Training(), encoder={}, path=tmp_path / "x.pt", folds=1
        )


def test_folds_and_named_samples_exclude_each_other(ds2c, tmp_path):
    ran = ds2c("train", "--folds", 3, "--val", "one", "--project", tmp_path)
    assert (ran.code, "Give one of the two" in ran.err) == (2, True)


def test_a_checkpoint_of_an_older_version_is_in_the_way_until_force(tmp_path):
    torch.save({"version": 1}, tmp_path / "old.pt")
    assert _recipe_of(tmp_path / "old.pt") == ""
    with pytest.raises(UsageError, match="is there already"):
        must_run("checkpoint", _recipe_of(tmp_path / "old.pt"), wanted="new", force=False)


@pytest.mark.parametrize("name", ["seed", "genes"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} must not be negative"):
        Training(**{name: -1})


@pytest.mark.parametrize("on_tissue", [4, 6])
def test_the_depth_of_a_sample_is_that_of_the_spots_that_teach(on_tissue):
    """However many spots lie beside the tissue, or have no cell: their few counts are no measure of the sample's."""
    spots = pd.DataFrame({"in_tissue": np.arange(10) < on_tissue, "n_cells": 5})
    spots.loc[0, "n_cells"] = 0
    counts = np.where(spots["in_tissue"].to_numpy()[:, None], [[3000, 2000]], [[20, 10]])
    counts[1] = 0
    sample, matrix = SimpleNamespace(spots=spots), sparse.csr_matrix(counts)
    usable = usable_spots([sample], [matrix])
    assert list(np.flatnonzero(usable)) == list(range(2, on_tissue))
    assert set(spot_labels([matrix], usable=usable).depth[usable, 0].tolist()) == {5000.0}
