"""Files that earlier versions wrote are still read: samples, caches, checkpoints, predictions, metrics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from ds2c_cli import schema
from ds2c_cli.cache.store import Cache
from ds2c_cli.choices import Features
from ds2c_cli.embeddings.tiles import embeddings_of, tiles_of
from ds2c_cli.models import MODELS
from ds2c_cli.prediction.file import PredictionFile
from ds2c_cli.project import Project
from ds2c_cli.settings import Embedding
from ds2c_cli.training.checkpoint import load_checkpoint

ARCHIVE = Path(__file__).parent / "archive"
MODELS_THEN = ("additive", "paper", "mlp", "cell-supervised", "istar", "scstgcn")
CELLS, GENES = 252, 12


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy, for steps may write."""
    root = tmp_path_factory.mktemp("archive") / "project"
    shutil.copytree(ARCHIVE, root)
    return Project(root)


def predict(ds2c, project, checkpoint, *flags):
    """What this version says of the archived sample by an archived checkpoint and cache."""
    ran = ds2c(
        "predict", "two", "--checkpoint", checkpoint, *flags, "--device", "cpu", "--project", project.root,
        "--cache", project.root / "cache", "-o", project.root / "now.h5ad", "--force",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "encoded" not in ran.err  # every tile was in the cache
    return anndata.read_h5ad(project.root / "now.h5ad")


def same_prediction(now, name):
    then = anndata.read_h5ad(ARCHIVE / "predictions" / f"{name}.h5ad")
    assert list(now.obs_names) == list(then.obs_names)
    assert list(now.var_names) == list(then.var_names)
    assert sorted(now.layers) == sorted(then.layers)
    np.testing.assert_allclose(now.X, then.X, rtol=1e-5, atol=1e-5)
    for layer in then.layers:
        np.testing.assert_allclose(now.layers[layer], then.layers[layer], rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(now.obs, then.obs, rtol=1e-5)


def test_an_archived_sample_is_read(project):
    sample = project.sample("two")
    assert (sample.donor, sample.cohort, sample.mpp) == ("two", "painted", 0.5)
    assert list(sample.cells.columns) == list(schema.CELL_COLUMNS)
    assert list(sample.spots.columns) == list(schema.SPOT_COLUMNS)
    assert len(sample.outlines()) == len(sample.cells) == len(sample.cell_boxes())
    assert sample.cell_counts().matrix.shape == (CELLS, GENES)
    assert sample.spot_counts().matrix.shape == (len(sample.spots), GENES)
    assert len(sample.neighbours) == len(sample.spots)


@pytest.mark.parametrize(
    ("encoder", "features"), [("colour", Features.TILES), ("imagenet-lite0", Features.SUPERPIXELS)]
)
def test_an_archived_cache_is_read_for_an_archived_embedding(project, encoder, features):
    record = project.embedding(Embedding(encoder=encoder, features=features))
    assert record.description.fingerprint == record.fingerprint
    assert (project.root / "cache" / "v1" / record.fingerprint / "encoder.json").exists()
    cache = Cache(project.root / "cache", record.fingerprint, record.description.dimension)
    sample = project.sample("two")
    boxes, keys = tiles_of(sample, record.description)
    assert not cache.missing(keys).any()
    vectors = embeddings_of(sample, boxes, cache=cache, encoder=record.description)
    assert vectors.shape == (len(boxes), record.description.dimension)
    assert np.isfinite(vectors).all()
    assert vectors.std(0).max() > 0
    assert not cache.damaged


@pytest.mark.parametrize("model", MODELS_THEN)
def test_an_archived_checkpoint_predicts_what_it_did(ds2c, project, model):
    checkpoint = load_checkpoint(project.checkpoint(model))
    assert checkpoint.info.training.model == model
    assert isinstance(checkpoint.model, MODELS[model])
    assert len(checkpoint.genes) == GENES
    same_prediction(predict(ds2c, project, model, *["--uncertainty"] * (model == "additive")), model)


def test_an_archived_checkpoint_deconvolves_as_it_did(ds2c, project):
    same_prediction(predict(ds2c, project, "additive", "--mode", "deconvolve"), "additive-deconvolve")


@pytest.mark.parametrize("name", [*MODELS_THEN, "additive-deconvolve"])
def test_an_archived_prediction_is_read(name):
    file = PredictionFile(ARCHIVE / "predictions" / f"{name}.h5ad")
    assert file.info.version == schema.PREDICTION_VERSION
    assert (file.info.sample.name, file.info.checkpoint.name) == ("two", name.removesuffix("-deconvolve"))
    assert (len(file.cell_id), len(file.genes)) == (CELLS, GENES)
    whole = anndata.read_h5ad(file.path)
    for matrix in file.matrices:
        stored = whole.X if matrix == "X" else whole.layers[matrix]
        assert np.array_equal(file.block(matrix, 0, CELLS), stored, equal_nan=True)


def test_archived_metrics_are_what_this_version_writes(ds2c, project):
    then = json.loads((ARCHIVE / "evaluation" / "metrics.json").read_text())
    assert then["version"] == schema.METRICS_VERSION
    ran = ds2c(
        "evaluate", "two", "--checkpoint", "additive,mlp", "--name", "now", "--device", "cpu",
        "--project", project.root, "--cache", project.root / "cache",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    now = json.loads((project.evaluation("now") / "metrics.json").read_text())
    pd.testing.assert_frame_equal(pd.DataFrame(now["rows"]), pd.DataFrame(then["rows"]), rtol=1e-5, atol=1e-5)
