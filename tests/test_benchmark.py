"""The benchmark on painted slides: folds, resuming, the report, and that geometries are never mixed."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pages import unbalanced
from PIL import Image

from ds2c_cli.benchmark import run as benchmark
from ds2c_cli.benchmark.gathered import Drawn
from ds2c_cli.benchmark.jobs import jobs
from ds2c_cli.benchmark.plan import read_benchmark
from ds2c_cli.benchmark.results import collect
from ds2c_cli.benchmark.scores import read_score, write_score
from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.evaluation import metrics
from ds2c_cli.evaluation.scoring import Scored
from ds2c_cli.prediction.inference import MeanOfNetworks, PredictedCells
from ds2c_cli.project import Project, Sample
from ds2c_cli.settings import Geometry

HEAD = """
name = "painted"
preset = "um"
encoders = ["colour"]
seeds = [0, 1]
models = ["mlp", "additive"]
ensemble = true

[geometry]
membership = "centroid"

[training]
epochs = 3
hidden = 16

[[model]]
name = "additive, cell"
context = "cell"
ablation = true
"""


def sample(painted, name, donor=None, cohort="painted", **more):
    source = painted / name.split("-")[0]
    lines = {
        "sample": name, "slide": source / "slide.tif", "cells": source / "cells.parquet",
        "counts": source / "cell_counts.h5ad", "donor": donor or name, "cohort": cohort, **more,
    }  # fmt: skip
    return "\n[[sample]]\n" + "\n".join(f'{key} = "{value}"' for key, value in lines.items()) + "\n"


@pytest.fixture
def write(tmp_path):
    def to(text):
        path = tmp_path / "benchmark.toml"
        path.write_text(text)
        return path

    return to


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


RAN = {}


@pytest.fixture
def ran(ds2c, painted, home, monkeypatch):
    """The benchmark has run, with fewer resamples: its words and its answer."""
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    if not RAN:
        path = home / "benchmark.toml"
        path.write_text(HEAD + sample(painted, "one") + sample(painted, "two"))
        words = ("benchmark", path, "--project", home / "project", "--cache", home / "cache", "--json")
        first = ds2c(*words, "--seed", 1)
        assert first.code == 0, first.err
        then = ds2c(*words)
        assert then.code == 0, then.err
        RAN.update(words=words, out=json.loads(then.out), first=json.loads(first.out))
    return RAN["words"], RAN["out"]


def test_it_scores_every_model_on_every_fold_and_seed(ran):
    _, out = ran
    rows = pd.DataFrame(out["rows"])
    assert not out["missing"]
    image = rows[(rows["metric"] == "pearson") & (rows["genes"] == "top100")]
    for model in ("mlp", "additive", "additive, cell"):
        for scenario in ("IS_in", "IS_out", "OOS"):
            found = image[(image["model"] == model) & (image["scenario"] == scenario)]
            assert set(zip(found["sample"], found["seed"], strict=True)) == {
                (s, k) for s in ("one", "two") for k in (0, 1)
            }
    assert set(image.loc[image["model"] == "additive, ensemble", "sample"]) == {"one", "two"}
    for baseline in ("mean", "even split", "area split"):  # once a fold and sample
        assert len(image[(image["model"] == baseline) & (image["scenario"] == "IS_out")]) == 2
    for given in ("additive + spot", "even split", "area split"):  # two questions, inside and outside, never one mean
        assert set(image.loc[image["model"] == given, "scenario"]) == {"IS_in", "IS_out", "OOS_in", "OOS_out"}


def test_one_seed_may_be_run_alone_and_the_rest_later(ran, ds2c):
    words, out = ran
    first = RAN["first"]
    assert {row["seed"] for row in first["rows"] if row["encoder"]} == {1}
    assert first["missing"]  # the other seed, and the ensembles
    assert not out["missing"]
    alone, together = (
        [tuple(row.values()) for row in answer["rows"] if row["encoder"] and row["seed"] == 1]
        for answer in (first, out)
    )
    assert alone == together
    refused = ds2c(*words, "--seed", 7)
    assert refused.code == 2
    assert "has no seed 7" in refused.err


def test_a_second_run_does_nothing_again(ran, ds2c, monkeypatch, home):
    words, out = ran
    before = {path: path.stat().st_mtime_ns for path in (home / "project").rglob("*.npz")}
    folder = home / "project" / "benchmark" / "painted" / "steps"
    steps = {path: path.read_text() for path in folder.iterdir()}

    def never(*words, **more):
        raise AssertionError("done again")

    monkeypatch.setattr(benchmark, "score", never)
    again = ds2c(*words)
    assert again.code == 0
    assert json.loads(again.out)["rows"] == out["rows"]
    assert before == {path: path.stat().st_mtime_ns for path in (home / "project").rglob("*.npz")}
    assert {path: path.read_text() for path in folder.iterdir()} == steps
    costs = pd.DataFrame(json.loads(text) for text in steps.values())
    assert {"prepare", "embed", "train", "score"} <= set(costs["step"])
    assert (costs["memory_mb"] > 50).all()


def test_scores_that_are_gone_or_damaged_are_made_again_and_said_to_be_missing_before(ran, ds2c, home):
    words, out = ran
    scores = home / "project" / "benchmark" / "painted" / "scores"
    gone, empty, cut = (
        next(scores.glob(f"*additive-s{seed}/{name}.npz")) for seed, name in ((1, "one"), (1, "two"), (0, "one"))
    )
    gone.unlink()
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:5000])
    report = ds2c(*words, "--report-only")
    assert len(json.loads(report.out)["missing"]) == 3
    assert "not there yet" in report.err
    assert json.loads(ds2c(*words).out)["rows"] == out["rows"]


def test_the_report_has_the_papers_table_ours_and_the_figures(ran, home):
    folder = home / "project" / "benchmark" / "painted"
    page = (folder / "report.html").read_text()
    for words in (
        "From the image alone: mean r, top 50 genes", "top 200 genes", "50 most variable genes", "all genes",
        "within spots", "Given the measured spots", "Ablations", "Paired differences to additive", "What it cost",
        "painted IS_in", "painted IS_out", "painted OOS", "additive, ensemble",
    ):  # fmt: skip
        assert words in page
    assert unbalanced(page) == []
    assert page.index("From the image alone") < page.index("<td>mean") < page.index("<td>mlp")
    differences = page[page.index("Paired differences") : page.index("<h2>Figures")]
    assert "painted OOS<" in differences
    assert "painted OOS_in" not in differences  # a column of those that were given the spots, which are not compared
    for figure in ("genes_painted", "ablation_painted", "cells_per_spot", "painted_one", "painted_two"):
        assert (folder / f"{figure}.png").stat().st_size > 5_000
        assert (folder / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(folder / "table.csv")
    assert ((table["low"] <= table["high"]) | table["low"].isna()).all()


def test_differences_are_paired(ran, home):
    """The interval of a difference is that of the difference of the same resamples, narrower than of two apart."""
    folder = home / "project" / "benchmark" / "painted"
    found = pd.read_csv(folder / "differences.csv")
    assert set(found["model"]) == {
        "mlp",
        "additive, cell",
        "additive, ensemble",
        "additive, cell, ensemble",
        "mlp, ensemble",
    }  # none that was given the spots, and not the reference itself
    table = pd.read_csv(folder / "table.csv").set_index(["model", "column", "metric", "genes"])
    one = found.set_index(["model", "column", "metric", "genes"]).loc[("mlp", "IS_in", "pearson", "top100")]
    mlp, additive = (table.loc[(model, "IS_in", "pearson", "top100")] for model in ("mlp", "additive"))
    assert one["value"] == pytest.approx(mlp["value"] - additive["value"], abs=2e-5)
    assert one["low"] <= one["value"] <= one["high"]


@pytest.fixture
def again(ran, home, tmp_path):
    """A copy of what has run, of which a test may change all; its words, with the file's text as another has it."""
    shutil.copytree(home, tmp_path / "copy")
    file = tmp_path / "copy" / "benchmark.toml"

    def words(change=lambda text: text):
        file.write_text(change((home / "benchmark.toml").read_text()))
        return ("benchmark", file, "--project", tmp_path / "copy" / "project", "--cache", tmp_path / "copy" / "cache")

    return words


def test_what_was_made_from_other_settings_is_no_score_and_is_replaced_only_by_force(ds2c, again, tmp_path):
    """The other models go on."""
    words = again(
        lambda text: text.replace('["mlp", "additive"]', '["additive"]') + '\n[[model]]\nmodel = "mlp"\nhidden = 8\n'
    )
    checkpoints = tmp_path / "copy" / "project" / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in checkpoints.glob("*.pt")}
    told = json.loads(ds2c(*words, "--report-only", "--json").out)
    assert "mlp" not in {row["model"] for row in told["rows"]}
    assert any("mlp-s0 on one (made from other inputs" in each for each in told["missing"])

    refused = ds2c(*words, "--json")
    out = json.loads(refused.out)
    assert refused.code == 1
    assert set(out["failed"]) == {f"painted-fold{fold}-colour-mlp-s{seed}" for fold in (1, 2) for seed in (0, 1)}
    assert "--force" in refused.err
    models = {row["model"] for row in out["rows"]}
    assert {"additive", "additive, cell", "mean"} <= models
    assert not {"mlp", "mlp, ensemble"} & models
    page = (tmp_path / "copy" / "project" / "benchmark" / "painted" / "report.html").read_text()
    assert "Failed: painted-fold1-colour-mlp-s0: checkpoint" in page

    forced = ds2c(*words, "--force", "--json")
    assert forced.code == 0, forced.err
    out = json.loads(forced.out)
    assert {"mlp", "mlp, ensemble"} <= {row["model"] for row in out["rows"]}
    assert not out["missing"]
    changed = {path.stem for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {f"painted-fold{fold}-colour-mlp-s{seed}" for fold in (1, 2) for seed in (0, 1)}


def test_another_split_does_not_show_the_scores_of_the_files(ran, ds2c):
    words, _ = ran
    told = ds2c(*words, "--split-by", "sample", "--report-only")
    assert (told.code, "nothing has been scored yet" in told.err) == (3, True)


def test_warnings_of_preparing_and_training_are_told(again, ds2c, tmp_path):
    project = tmp_path / "copy" / "project"
    for path, at in (("samples/one/sample.json", "odd size"), ("benchmark/painted/steps/train-{}.json", "few genes")):
        for file in [project / path.format(f"painted-fold1-colour-mlp-s{seed}") for seed in (0, 1)]:
            file.write_text(json.dumps({**json.loads(file.read_text()), "warnings": [at]}))
    told = ds2c(*again(), "--report-only", "--json")
    warnings = json.loads(told.out)["warnings"]
    assert [each for each in warnings if each.endswith(("odd size", "few genes"))] == [
        "one: odd size", "painted-fold1: few genes",
    ]  # fmt: skip
    assert any("two:" in each and "spot without counts" in each for each in warnings)
    page = (project / "benchmark" / "painted" / "report.html").read_text()
    for each in warnings:
        assert each in told.err
        assert each in page


def test_a_report_is_written_though_a_design_has_no_score_yet(again, ds2c):
    designs = '\n[[design]]\ncohorts = ["painted"]\n\n[[design]]\nname = "later"\ncohorts = ["painted"]\nfolds = 1\n'
    told = ds2c(*again(lambda text: text + designs), "--report-only", "--json")
    assert told.code == 0, told.err
    out = json.loads(told.out)
    assert {row["design"] for row in out["rows"]} == {"painted"}
    assert any(each.startswith("later-fold1") for each in out["missing"])


def test_a_sample_of_which_nothing_can_be_scored_is_named(again, ds2c, tmp_path):
    words = again()
    for path in (tmp_path / "copy" / "project" / "benchmark" / "painted" / "scores").glob("painted-fold1-*/one.npz"):
        made_from, _ = read_score(path)
        write_score(
            path,
            Scored(
                rows=[],
                resamples=np.empty((0, 200), np.float32),
                per_gene=pd.DataFrame(),
                painted=[],
                left_out=0,
                constant=9,
            ),
            made_from,
        )
    told = ds2c(*words, "--report-only", "--json")
    assert told.code == 0, told.err
    out = json.loads(told.out)
    assert not out["missing"]
    assert [each for each in out["warnings"] if "nothing is scored" in each] == [
        "painted-fold1: one: nothing is scored, as no gene of the panel varies in it or it has none of them"
    ]


# The file


def test_folds_keep_a_donor_whole_and_a_patient_only_when_asked(painted, write):
    text = HEAD
    for name, donor, patient in (("one", "lung", "a"), ("two", "lung", "b"), ("one-c", "other", "c")):
        text += sample(painted, name, donor, patient=patient)
    path = write(text)
    folds = read_benchmark(path).folds
    assert [set(fold.train) for fold in folds] == [{"one-c"}, {"one", "two"}]
    assert folds[0].scenario == {"one-c": "IS", "one": "OOS", "two": "OOS"}
    assert len(read_benchmark(path, "patient").folds) == 3
    assert len(read_benchmark(path, "sample").folds) == 3
    with pytest.raises(UsageError, match="split_by"):
        read_benchmark(path, "slide")


def test_a_design_may_train_on_one_cohort_and_be_scored_on_another(painted, write):
    text = HEAD + '\n[[design]]\nname = "breast"\ncohorts = ["a", "b"]\n'
    text += '\n[[design]]\nname = "breast"\ncohorts = ["a"]\nood = ["b"]\n'
    path = write(text + sample(painted, "one", cohort="a") + sample(painted, "two", cohort="b"))
    folds = read_benchmark(path).folds
    assert [(fold.train, fold.scenario) for fold in folds] == [
        (("two",), {"two": "IS", "one": "OOS"}),
        (("one",), {"one": "IS", "two": "OOS"}),
        (("one",), {"two": "OOD"}),
    ]
    assert len({fold.name for fold in folds}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('surprise = 1\n', "no setting surprise"),
        ('reference = "gone"\n', "reference 'gone'"),
        ('[[design]]\ncohorts = ["moon"]\n', "cohort 'moon'"),
        ('[[model]]\nmodel = "mlp"\n', "mlp twice"),
        ('[[model]]\nname = "x"\nmodel = "guess"\n', "no model 'guess'"),
        # what a table would take for a model that was given the measured spots
        ('[[model]]\nname = "mlp, cell + spot"\nmodel = "mlp"\n', "called 'mlp, cell + spot'"),
        ('[[model]]\nname = "a"\nhiden = 3\n', "model a: there is no setting 'hiden'"),
        ('[[model]]\nname = "a"\nepochs = 0\n', "model a: epochs must be at least 1"),
        ('[[model]]\nname = "a"\nmodel = "mlp"\ncontext = "cell"\n', "model a: mlp has no context"),
        ('[[model]]\nname = 3\n', "name must be a word"),
        ('[[model]]\nname = "additive: cell"\ncontext = "cell"\n', "would have one name"),
        ('[[encoder]]\nencoder = "colour"\nprecison = "fp32"\n', "encoder colour: there is no setting 'precison'"),
        ('[[encoder]]\nencoder = "colour"\nname = "colour-x"\n[[encoder]]\nname = "colour x"\n', "one name"),
        ('[[design]]\ncohorts = "painted"\n', "cohorts must be a list of words"),
        ('[[design]]\ncohorts = ["painted"]\nfolds = 0\n', "0 folds"),
        ('[[design]]\ncohorts = ["painted"]\nood = ["painted"]\n', "not out of distribution"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_named(painted, write, words, said):
    text = words + HEAD if "[[" not in words else HEAD + words
    path = write(text + sample(painted, "one"))
    with pytest.raises((InputError, UsageError)) as error:
        read_benchmark(path)
    assert said in error.value.message
    assert str(path) in error.value.message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [0, 1]", "seeds = 3", "seeds must be a list of whole numbers, not 3"),
        ("seeds = [0, 1]", 'seeds = ["a"]', "seeds must be a list of whole numbers"),
        ("seeds = [0, 1]", "seeds = []", "seeds must be different numbers from 0"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds must be different numbers from 0"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds must be different numbers from 0"),
        ("ensemble = true", 'ensemble = "no"', "ensemble must be a true or false value"),
        ('models = ["mlp", "additive"]', 'models = "mlp"', "models must be a list of words"),
        ('[geometry]\nmembership = "centroid"\n', "geometry = 3\n", "geometry must be a table, not 3"),
        ("[geometry]\n", "[geometry]\nspot = 3\n", "[geometry]: there is no setting 'spot'"),
        ("[training]\n", "[training]\nepoch = 3\n", "[training]: there is no setting 'epoch'"),
        ("[training]\n", '[training]\ncontext = "cell"\n', "model mlp: mlp has no context"),
        ('preset = "um"', 'preset = "inch"', "no preset 'inch'"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_named_with_its_key(painted, write, old, new, said):
    assert old in HEAD
    path = write(HEAD.replace(old, new) + sample(painted, "one"))
    with pytest.raises((InputError, UsageError)) as error:
        read_benchmark(path)
    assert said in error.value.message
    assert str(path) in error.value.message


def test_designs_of_one_name_share_no_fold(painted, write):
    text = HEAD + '\n[[design]]\nname = "x"\ncohorts = ["a"]\n\n[[design]]\nname = "x"\ncohorts = ["b"]\n'
    text += '\n[[design]]\ncohorts = ["a"]\nood = ["b"]\n\n[[design]]\nname = "a"\ncohorts = ["a"]\nood = ["b"]\n'
    for name, cohort in (("one", "a"), ("two", "a"), ("one-b", "b"), ("two-b", "b")):
        text += sample(painted, name, cohort=cohort)
    folds = read_benchmark(write(text)).folds
    assert [fold.name for fold in folds] == [
        "x-fold1", "x-fold2", "x-fold3", "x-fold4", "a-ood-fold1", "a-ood-fold2",
    ]  # fmt: skip


def test_another_split_than_the_files_has_names_of_its_own(painted, write):
    path = write(HEAD + sample(painted, "one") + sample(painted, "two"))
    own, same, other = (read_benchmark(path, split) for split in ("", "donor", "sample"))
    assert own == same
    assert (own.name, other.name) == ("painted", "painted-by-sample")
    assert not {fold.name for fold in own.folds} & {fold.name for fold in other.folds}


def test_a_sample_without_counts_is_left_out_by_name(painted, write):
    bare = "\n".join(line for line in sample(painted, "two").splitlines() if not line.startswith("counts"))
    plan = read_benchmark(write(HEAD + sample(painted, "one") + bare))
    assert [request.name for request in plan.requests] == ["one"]
    assert plan.left_out == ["two: no counts to learn from or to score against"]
    with pytest.raises(InputError, match="no sample has counts"):
        read_benchmark(write(HEAD + bare))


def test_samples_are_checked_as_a_manifest_is(painted, write):
    with pytest.raises(InputError, match="nothing was prepared") as error:
        read_benchmark(write(HEAD + sample(painted, "one") + sample(painted, "gone")))
    assert "sample gone" in error.value.message


def test_the_ceiling_is_left_out_where_there_are_no_cells_to_learn_from(ran, painted, home, write, monkeypatch):
    path = write(HEAD.replace('"mlp"', '"cell-supervised"') + sample(painted, "one") + sample(painted, "two"))
    plan, project = read_benchmark(path), Project(home / "project")
    assert any(job.model.name == "cell-supervised" for job in jobs(project, plan, [0]))
    monkeypatch.setattr(Sample, "has_cell_truth", False)
    assert not any(job.model.name == "cell-supervised" for job in jobs(project, plan, [0]))
    assert len(collect(project, plan).left_out) == 2  # once a fold, and said in the report


def test_superpixels_of_an_encoder_without_a_map_are_left_out_by_name(ran, painted, home, write):
    path = write(HEAD.replace('"mlp", ', '"mlp", "istar", ') + sample(painted, "one") + sample(painted, "two"))
    plan, project = read_benchmark(path), Project(home / "project")
    assert not any(job.model.name == "istar" for job in jobs(project, plan, [0]))
    (reason,) = collect(project, plan).left_out
    assert reason.startswith("istar by colour: ")


def test_a_report_refuses_to_mix_geometries(ran, ds2c, painted, home, write):
    source = painted / "one"
    assert ds2c(
        "prepare", source / "slide.tif", "--cells", source / "cells.parquet", "--counts", source / "cell_counts.h5ad",
        "--sample", "three", "--project", home / "project", "--preset", "ref-px", "--spot-px", 100,
        "--spot-tile-px", 140,
    ).code == 0  # fmt: skip
    with pytest.raises(InputError, match="different geometries"):
        benchmark.check_one_geometry(Project(home / "project").samples(["one", "three"]))
    laid = [SimpleNamespace(name=layout, measured=True, geometry=Geometry(layout=layout)) for layout in ("grid", "hex")]
    with pytest.raises(InputError, match="different geometries"):  # also of measured spots: no network learns from both
        benchmark.check_one_geometry(laid)


def test_a_dry_run_says_what_would_be_trained_and_does_nothing(ds2c, painted, write, tmp_path):
    path = write(HEAD + sample(painted, "one") + sample(painted, "two"))
    ran = ds2c("benchmark", path, "--project", tmp_path / "none", "--dry-run", "--json")
    out = json.loads(ran.out)
    assert out["networks"] == 2 * 3 * 2
    assert [fold["train"] for fold in out["folds"]] == [["two"], ["one"]]
    assert not (tmp_path / "none").exists()


def test_a_mean_of_networks_is_the_mean_of_what_they_say(ran, home):
    scores = home / "project" / "benchmark" / "painted" / "scores"
    held = {}
    for seed in ("s0", "s1", "ensemble"):
        (path,) = scores.glob(f"painted-fold1-colour-additive-{seed}/one.npz")
        _, held[seed] = read_score(path)
    mine = {seed: one.painted[0].prediction for seed, one in held.items()}
    np.testing.assert_allclose(mine["ensemble"], (mine["s0"] + mine["s1"]) / 2, atol=1e-5)


def test_a_mean_of_networks_is_of_all_they_say():
    """Of the rates too, which are what measured spots are shared out by."""
    at = np.arange(2)

    def network(value, spot_log):
        same = np.full((2, 3), value, np.float32)
        of_spots = same + 1 if spot_log else None
        return [PredictedCells(at, at, at, at > 0, share_log=same, share=same + 2, spot_log=of_spots)]

    (mean,) = MeanOfNetworks([network(1, True), network(3, True)])
    for found, value in ((mean.share_log, 2), (mean.spot_log, 3), (mean.share, 4)):
        assert (found == value).all()
    (mean,) = MeanOfNetworks([network(1, False), network(3, False)])
    assert mean.spot_log is None


def test_resampled_values_added_up_have_the_mean_they_had_together():
    values = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    values[1:3, 7] = values[:, 9] = np.nan
    drawn = Drawn()
    for each in values:
        drawn.add(each)
    known = np.arange(40) != 9
    np.testing.assert_allclose(drawn.mean()[known], np.nanmean(values[:, known], 0), atol=1e-6)
    assert np.isnan(drawn.mean()[9])


EXAMPLES = Path(__file__).parents[1] / "examples" / "benchmark"


def example(name: str, folder: Path) -> Path:
    """One of the example files in a tree where all that it names is there; each sample of HEST's is a patient."""
    path = folder / "repository" / "examples" / "benchmark" / name
    path.parent.mkdir(parents=True)
    path.write_text((EXAMPLES / name).read_text())
    for table in tomllib.loads(path.read_text())["sample"]:
        named = [table[key] for key in ("slide", "cells", "counts", "spots") if key in table]
        if "hest" in table:
            each = table["hest_id"]
            named = [f"hest/wsis/{each}.tif", f"hest/st/{each}.h5ad", f"hest/metadata/{each}.json"]
            named += [f"hest/xenium_seg/{each}_xenium_cell_seg.parquet", f"hest/transcripts/{each}_transcripts.parquet"]
        for file in (path.parent / one for one in named if not one.startswith("grid:")):
            file.resolve().parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".tif":
                Image.new("RGB", (8, 8)).save(file, dpi=(50_800, 50_800))  # 0.5 um per pixel
            elif file.suffix == ".jpg":
                Image.new("RGB", (8, 8)).save(file)
            else:
                file.write_text(json.dumps({"patient": f"Patient {file.stem}", "dataset_title": "A study"}))
    return path


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_the_examples_can_be_read_and_score_what_was_left_out(name, tmp_path):
    plan = read_benchmark(example(name, tmp_path))
    assert plan.reference == "additive"
    assert {"mlp", "paper"} < {model.name for model in plan.models}
    for fold in plan.folds:
        apart = [sample for sample, scenario in fold.scenario.items() if scenario != "IS"]
        assert apart
        assert not set(apart) & set(fold.train)


def test_pieces_of_one_lung_stay_together_unless_patients_are_asked_for(tmp_path):
    path = example("lung.toml", tmp_path)
    pieces = [{"NCBI856", "NCBI857"}, {"NCBI858", "NCBI859"}, {"NCBI860", "NCBI861"}, {"NCBI881", "NCBI882"}]
    pieces.append({"NCBI875", "NCBI876"})
    for split_by, parted in (("", False), ("patient", True)):
        learned = [set(fold.train) for fold in read_benchmark(path, split_by).folds]
        assert any(0 < len(both & train) < 2 for both in pieces for train in learned) is parted
