"""The whole chain through the command line, on painted slides: what each step leaves, and that it is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from pages import unbalanced

from ds2c_cli import schema
from ds2c_cli.embeddings import embed
from ds2c_cli.project import Project

matplotlib.use("Agg")
COMMON = ("--membership", "centroid", "--cohort", "painted")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def at(home, monkeypatch):
    monkeypatch.setenv("DS2C_PROJECT", str(home / "lung"))
    monkeypatch.setenv("DS2C_CACHE", str(home / "cache"))
    return home / "lung"


def prepare(ds2c, painted, name, *more):
    source = painted / name
    return ds2c(
        "prepare", source / "slide.tif", "--cells", source / "cells.parquet", "--counts", source / "cell_counts.h5ad",
        "--sample", name, "--donor", name, *COMMON, *more,
    )  # fmt: skip


@pytest.fixture
def prepared(ds2c, painted, at):
    for name in ("one", "two"):
        assert prepare(ds2c, painted, name).code == 0
    return at


@pytest.fixture
def trained(ds2c, prepared):
    assert ds2c("embed", "--encoder", "colour").code == 0
    assert ds2c("train", "--train", "one", "--epochs", 5, "--hidden", 32).code == 0
    return prepared


def test_prepare_writes_the_tables_of_the_design(prepared, painted):
    folder = prepared / "samples" / "one"
    cells, spots = pd.read_parquet(folder / schema.CELLS_FILE), pd.read_parquet(folder / schema.SPOTS_FILE)
    assert list(cells.columns) == list(schema.CELL_COLUMNS)
    assert list(spots.columns) == list(schema.SPOT_COLUMNS)
    truth = anndata.read_h5ad(painted / "one" / "cell_counts.h5ad")
    assert set(cells["cell_id"]) == set(truth.obs_names)
    members = cells[cells["inside"]]
    assert np.array_equal(np.bincount(members["spot"], minlength=len(spots)), spots["n_cells"])
    distance = np.hypot(
        members["x"] - spots["x"].to_numpy()[members["spot"]], members["y"] - spots["y"].to_numpy()[members["spot"]]
    )
    assert distance.max() <= 55 / 0.5 / 2 + 1e-6  # 55 um at 0.5 um per pixel
    counts = anndata.read_h5ad(folder / schema.SPOT_COUNTS_FILE)
    first = int(members["spot"].iloc[0])
    of_spot = members.loc[members["spot"] == first, "cell_id"]
    assert np.array_equal(counts.X[first].toarray().ravel(), truth[of_spot, counts.var_names].X.sum(0).A1)
    assert (folder / schema.OVERLAY_FILE).stat().st_size > 10_000


def test_an_unchanged_step_is_left_alone_and_a_changed_one_needs_force(ds2c, painted, prepared):
    record = prepared / "samples" / "one" / schema.SAMPLE_FILE
    before = record.stat().st_mtime_ns
    again = prepare(ds2c, painted, "one")
    assert (again.code, "up to date" in again.err) == (0, True)
    other = prepare(ds2c, painted, "one", "--cell-tile-um", 40)
    assert other.code == 2
    assert "--force" in other.err
    assert record.stat().st_mtime_ns == before


def test_a_dry_run_checks_everything_and_writes_nothing(ds2c, painted, at, tmp_path):
    ran = prepare(ds2c, painted, "one", "--dry-run", "--project", tmp_path / "new", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["cells"] > 100
    assert not (tmp_path / "new").exists()


def test_embeddings_are_computed_once_for_all_projects(ds2c, painted, trained, monkeypatch, tmp_path):
    def never(*words):
        raise AssertionError("tiles were encoded again")

    monkeypatch.setattr(embed, "encode_blocks", never)
    ran = ds2c("embed", "--encoder", "colour", "--json")
    assert json.loads(ran.out)["encoded"] == 0
    other = tmp_path / "other"
    assert prepare(ds2c, painted, "two", "--project", other).code == 0
    ran = ds2c("embed", "--encoder", "colour", "--project", other, "--json")
    assert (json.loads(ran.out)["encoded"], json.loads(ran.out)["cached"]) == (0, json.loads(ran.out)["tiles"])
    for seed in (1, 2):
        assert ds2c("train", "--train", "one", "--epochs", 2, "--hidden", 16, "--seed", seed).code == 0


def test_train_leaves_a_checkpoint_that_is_safe_to_load_and_a_loss_curve(ds2c, trained):
    path = trained / "checkpoints" / "additive.pt"
    content = torch.load(path, weights_only=True)
    about = json.loads(content["about"])
    assert about["train"] == ["one"]
    assert about["encoder"]["description"]["encoder"] == "colour"
    assert len(about["genes"]) == content["state"]["networks.0.rho.3.bias"].shape[0]
    assert path.with_suffix(".png").exists()
    again = ds2c("train", "--train", "one", "--epochs", 5, "--hidden", 32)
    assert "up to date" in again.err


@pytest.mark.parametrize("model", ["paper", "mlp", "cell-supervised"])
def test_every_model_trains_and_predicts(ds2c, trained, model):
    assert ds2c("train", "--train", "one", "--model", model, "--epochs", 2, "--hidden", 16).code == 0
    ran = ds2c("predict", "two", "--checkpoint", model)
    assert ran.code == 0
    prediction = anndata.read_h5ad(ran.out.strip())
    assert np.isfinite(prediction.X).all()
    assert (prediction.X >= 0).all()


def test_training_is_repeatable(ds2c, trained, tmp_path):
    losses = []
    for name in ("a", "b"):
        ran = ds2c("train", "--train", "one", "--epochs", 3, "--hidden", 16, "-o", tmp_path / f"{name}.pt", "--json")
        losses.append(json.loads(ran.out)["runs"][0]["best_loss"])
    assert losses[0] == losses[1]


def test_predictions_open_in_scanpy(ds2c, trained):
    import scanpy

    ran = ds2c("predict", "two", "--checkpoint", "additive")
    assert ran.code == 0
    prediction = scanpy.read_h5ad(ran.out.strip())
    cells = Project(trained).sample("two").cells
    assert list(prediction.obs_names) == list(cells["cell_id"])
    assert np.allclose(prediction.obsm["spatial_px"], cells[["x", "y"]])
    assert np.allclose(prediction.obsm["spatial"], cells[["x", "y"]] * 0.5)
    assert np.allclose(np.expm1(prediction.X).sum(1), 1e4, rtol=1e-3)  # X is per 10,000 of the cell
    # the members of a spot share its counts, and what is expected of a log is less than the log of what is expected
    inside = prediction.obs["inside"].to_numpy()
    of_spot = prediction.obs[schema.OF_SPOT].to_numpy()
    assert np.allclose(
        pd.Series(of_spot[inside]).groupby(prediction.obs["spot"].to_numpy()[inside]).sum(), 1, rtol=1e-3
    )
    share = np.expm1(prediction.X) * of_spot[:, None]
    assert (prediction.layers["spot_share"] <= np.log1p(share) + 1e-2).all()
    gene = prediction.var_names[0]
    scanpy.pl.embedding(prediction, "spatial", color=gene, show=False)
    scanpy.pl.spatial(prediction, color=gene, spot_size=10, show=False)
    assert json.loads(prediction.uns["ds2c"])["checkpoint"]["train"] == ["one"]


def test_uncertainty_is_a_layer_of_models_that_have_a_likelihood(ds2c, trained, tmp_path):
    out = tmp_path / "sd.h5ad"
    assert ds2c("predict", "two", "--checkpoint", "additive", "--uncertainty", "-o", out).code == 0
    deviation = anndata.read_h5ad(out).layers[schema.LAYER_SD]
    assert np.isfinite(deviation).all()
    assert (deviation > 0).all()
    ran = ds2c("predict", "two", "--checkpoint", "additive", "--uncertainty", "--mode", "deconvolve")
    assert (ran.code, "says nothing of its uncertainty" in ran.err) == (2, True)


def test_deconvolved_cells_add_up_to_their_spot(ds2c, trained):
    ran = ds2c("predict", "two", "--checkpoint", "additive", "--mode", "deconvolve")
    assert ran.code == 0
    prediction = anndata.read_h5ad(ran.out.strip())
    spots = anndata.read_h5ad(trained / "samples" / "two" / schema.SPOT_COUNTS_FILE)[:, prediction.var_names]
    inside = prediction.obs["inside"].to_numpy()
    counts = prediction.layers["counts"]
    assert np.isnan(counts[~inside]).all()
    assert ds2c("predict", "two", "--checkpoint", "additive").code == 0
    plain = anndata.read_h5ad(trained / "predictions" / "additive" / "two.h5ad")
    assert np.isfinite(prediction.X).all()
    assert not np.allclose(prediction.X[~inside], plain.X[~inside], atol=1e-3)  # corrected by the spots around
    total = np.zeros(spots.shape)
    np.add.at(total, prediction.obs["spot"].to_numpy()[inside], counts[inside])
    assert np.allclose(total, spots.X.toarray(), atol=1e-2, rtol=1e-4)


def test_evaluate_scores_models_beside_the_baselines(ds2c, trained):
    assert ds2c("train", "--train", "one", "--model", "cell-supervised", "--epochs", 2, "--hidden", 16).code == 0
    ran = ds2c("evaluate", "--checkpoint", "additive,cell-supervised", "--name", "first", "--json")
    assert ran.code == 0
    folder = trained / "evaluation" / "first"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = pd.DataFrame(metrics["rows"])
    assert metrics["version"] == schema.METRICS_VERSION
    assert {"mean", "even split", "area split", "additive", "additive + spot"} <= set(rows["model"])
    assert {"IS_in", "IS_out", "OOS", "OOS_in", "OOS_out"} <= set(rows["scenario"])
    assert {"pearson", "within_spot", "spot_pearson"} == set(rows["metric"])
    assert (rows["low"] <= rows["high"]).all()
    even = rows[(rows["model"] == "even split") & (rows["metric"] == "within_spot")]
    assert (even["value"].abs() < 1e-9).all()  # an even split knows nothing within a spot
    per_gene = pd.read_parquet(folder / "per_gene.parquet")
    assert set(per_gene["gene"]) == set(json.loads(torch.load(trained / "checkpoints/additive.pt")["about"])["genes"])
    page = (folder / "report.html").read_text()
    assert "src=" in page
    assert "http" not in page  # self-contained
    assert unbalanced(page) == []
    assert "share of cell-supervised" in ran.err


def test_scores_of_written_predictions_equal_those_of_the_checkpoint(ds2c, trained):
    assert ds2c("predict", "two", "--checkpoint", "additive").code == 0
    rows = []
    for source in (("--checkpoint", "additive"), ("--predictions", trained / "predictions" / "additive")):
        ran = ds2c("evaluate", "two", *source, "--name", "x", "--json", "--no-baselines")
        table = pd.DataFrame(json.loads(ran.out)["rows"])
        rows.append(
            table[table["metric"] != "spot_pearson"].set_index(["model", "scenario", "metric", "genes"])["value"]
        )
    pd.testing.assert_series_equal(rows[0].sort_index(), rows[1].sort_index(), atol=1e-4)


def test_written_deconvolved_predictions_are_scored_as_given_the_spots(ds2c, trained):
    """Not as predictions from the image, and not shared out a second time."""
    assert ds2c("predict", "two", "--checkpoint", "additive", "--mode", "deconvolve").code == 0
    scored = []
    for source in (("--checkpoint", "additive"), ("--predictions", trained / "predictions" / "additive-deconvolve")):
        ran = ds2c("evaluate", "two", *source, "--name", "x", "--json", "--no-baselines")
        scored.append(pd.DataFrame(json.loads(ran.out)["rows"]))
    model, written = scored
    assert set(written["model"]) == {"additive + spot"}
    keys = ["scenario", "metric", "genes"]
    given = model[model["model"] == "additive + spot"].set_index(keys)["value"].sort_index()
    pd.testing.assert_series_equal(written.set_index(keys)["value"].sort_index(), given, atol=1e-4)


def test_two_kinds_of_sources_are_not_scored_at_once(ds2c, trained):
    folder = trained / "predictions" / "additive"
    ran = ds2c("evaluate", "--checkpoint", "additive", "--predictions", folder)
    assert (ran.code, "two sources" in ran.err) == (2, True)


def test_a_slide_with_cells_only_can_be_predicted(ds2c, painted, trained):
    source = painted / "two"
    ran = ds2c("prepare", source / "slide.tif", "--cells", source / "cells.parquet", "--sample", "new", *COMMON)
    assert ran.code == 0
    ran = ds2c("predict", "new", "--checkpoint", "additive")
    assert ran.code == 0
    assert len(anndata.read_h5ad(ran.out.strip())) > 100
    ran = ds2c("predict", "new", "--checkpoint", "additive", "--mode", "deconvolve")
    assert (ran.code, "no spot counts" in ran.err) == (3, True)


def test_another_geometry_is_refused_and_both_are_shown(ds2c, painted, trained):
    assert prepare(ds2c, painted, "two", "--sample", "hex", "--layout", "hex").code == 0
    ran = ds2c("predict", "hex", "--checkpoint", "additive")
    assert ran.code == 3
    assert "layout='hex'" in ran.err
    assert "layout='grid'" in ran.err


@pytest.mark.parametrize("rule", ["margin", "overlap", "centroid"])
@pytest.mark.parametrize("layout", ["grid", "hex"])
def test_both_layouts_and_all_membership_rules(ds2c, painted, at, tmp_path, rule, layout):
    source = painted / "one"
    ran = ds2c(
        "prepare", source / "slide.tif", "--cells", source / "cells.parquet", "--counts", source / "cell_counts.h5ad",
        "--layout", layout, "--membership", rule, "--project", tmp_path, "--json",
    )  # fmt: skip
    assert ran.code == 0
    assert json.loads(ran.out)["cells_inside"] > 10
    neighbours = Project(tmp_path).sample("slide").neighbours
    assert neighbours.shape[1] == (8 if layout == "grid" else 6)


def test_folds_leave_a_donor_out(ds2c, trained):
    ran = ds2c("train", "--train", "one,two", "--folds", 5, "--epochs", 2, "--hidden", 16, "-o", "lung", "--json")
    assert [Path(run["path"]).stem for run in json.loads(ran.out)["runs"]] == ["lung-fold1", "lung-fold2"]
    about = json.loads(torch.load(trained / "checkpoints" / "lung-fold1.pt")["about"])
    assert about["train"] == ["two"]


def test_settings_flag_then_variable_then_file_then_default(ds2c, trained, monkeypatch):
    (trained / schema.SETTINGS_FILE).write_text("[training]\nhidden = 24\nepochs = 2\n")
    try:
        monkeypatch.setenv("DS2C_SEED", "7")
        assert ds2c("train", "--train", "one", "--epochs", 1, "-o", "mixed").code == 0
        used = json.loads(torch.load(trained / "checkpoints" / "mixed.pt")["about"])["training"]
        assert (used["epochs"], used["seed"], used["hidden"], used["dropout"]) == (1, 7, 24, 0.3)
        (trained / schema.SETTINGS_FILE).write_text("[training]\nhiden = 24\n")
        ran = ds2c("train", "--train", "one")
        assert (ran.code, "hiden" in ran.err) == (2, True)
    finally:
        (trained / schema.SETTINGS_FILE).unlink()


def test_measured_spots_with_pseudo_cells(ds2c, painted, at, tmp_path):
    """Spots from a legacy table, no segmentation: trained without any cell truth and scored spot by spot."""
    home = Project(at)
    source = home.sample("one")
    spots = source.spots[source.spots["n_cells"] > 0]
    table = pd.DataFrame({"x": np.arange(len(spots)), "y": 1, "pixel_x": spots["x"], "pixel_y": spots["y"]})
    table.to_csv(tmp_path / "spots.tsv", sep="\t", index=False)
    counts = source.spot_counts()
    rows = counts.matrix[spots.index.to_numpy()].toarray()
    pd.DataFrame(rows, [f"{i}x1" for i in range(len(spots))], counts.genes).to_csv(tmp_path / "counts.tsv.gz", sep="\t")
    ran = ds2c(
        "prepare", painted / "one" / "slide.tif", "--cells", "grid:12", "--spots", tmp_path / "spots.tsv",
        "--counts", tmp_path / "counts.tsv.gz", "--membership", "centroid", "--project", tmp_path, "--sample", "st",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "38 um apart" in ran.err or "um apart" in ran.err  # a pitch of 77 um is no known array's
    assert ds2c("embed", "--encoder", "colour", "--project", tmp_path).code == 0
    assert ds2c("train", "--epochs", 3, "--hidden", 16, "--genes", 20, "--project", tmp_path).code == 0
    ran = ds2c("evaluate", "--project", tmp_path, "--json")
    rows = pd.DataFrame(json.loads(ran.out)["rows"])
    assert set(rows["metric"]) == {"spot_pearson"}
    assert ds2c("predict", "--checkpoint", "additive", "--project", tmp_path).code == 0
    written = tmp_path / "predictions" / "additive"
    ran = ds2c("evaluate", "--predictions", written, "--project", tmp_path)
    assert (ran.code, "predictions of cells only" in ran.err, "--checkpoint" in ran.err) == (3, True, True)


def test_a_project_without_embeddings_names_the_command(ds2c, painted, tmp_path):
    assert prepare(ds2c, painted, "one", "--project", tmp_path).code == 0
    ran = ds2c("train", "--project", tmp_path, "--encoder", "colour")
    assert ran.code == 3
    assert "ds2c embed" in ran.err
