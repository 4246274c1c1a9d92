"""The public API: what `ds2c_cli` offers is typed, imported when it is used, and leads from a slide to an AnnData."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ds2c_cli
from ds2c_cli import (
    Embedding,
    Geometry,
    Project,
    Sources,
    Training,
    Workspace,
    embed,
    predict,
    prepare,
    read_prediction,
    train,
)
from ds2c_cli.errors import InputError


def test_a_notebook_goes_from_a_slide_to_an_anndata(painted, tmp_path):
    project = Project(tmp_path / "lung")
    workspace = Workspace(project, cache=tmp_path / "cache", device="cpu")
    folder, encoder = painted / "one", Embedding(encoder="colour")
    sources = Sources(folder / "slide.tif", cells=str(folder / "cells.parquet"), counts=folder / "cell_counts.h5ad")
    prepare(workspace, sources, geometry=Geometry(membership="centroid"), sample="one")
    embed(workspace, encoder)
    settings = Training(model="mlp", epochs=2, hidden=8)
    train(workspace, settings, encoder=project.embedding(encoder), path=project.checkpoint("mlp"))
    (predicted,) = predict(workspace, project.checkpoint("mlp"), samples=["one"])
    cells = read_prediction(predicted.path)

    assert cells.n_obs == predicted.cells
    assert set(cells.obs_names) == set(project.sample("one").cells["cell_id"])
    assert np.isfinite(cells.X).all()


def test_reading_what_is_no_prediction_says_so(tmp_path):
    with pytest.raises(InputError, match="there are no predictions"):
        ds2c_cli.read_prediction(tmp_path / "none.h5ad")


def test_every_public_name_is_there_and_typed():
    tree = ast.parse(Path(ds2c_cli.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    known = {name.name for node in typed.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert known == set(ds2c_cli.__all__) <= set(dir(ds2c_cli))
    for name in ds2c_cli.__all__:
        assert getattr(ds2c_cli, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'segment_everything'"):
        ds2c_cli.segment_everything  # noqa: B018
    assert (Path(ds2c_cli.__file__).parent / "py.typed").exists()


def test_importing_the_package_imports_nothing_but_the_version():
    code = "import sys; before = set(sys.modules); import ds2c_cli; print(*set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in ran.stdout.split() if name.startswith("ds2c_cli.")} == {"ds2c_cli.version"}
