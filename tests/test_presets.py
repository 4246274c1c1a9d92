"""Presets of geometry, lengths in pixels, and the benchmark files that use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ds2c_cli.benchmark import plan as benchmark_file
from ds2c_cli.benchmark.plan import read_benchmark
from ds2c_cli.errors import UsageError
from ds2c_cli.project import Project
from ds2c_cli.samples.manifest import Request
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import PRESETS, Geometry, preset

EXAMPLES = Path(__file__).parents[1] / "examples" / "benchmark"
SAME_LUNG = {
    "VUILD96": (856, 857), "VUILD91": (858, 859), "VUILD78": (860, 861), "TILD117": (881, 882), "VUHD116": (876, 875),
}  # fmt: skip
LUNG = [*range(856, 862), *range(864, 868), 870, 873, 875, 876, *range(879, 885)]


def test_um_is_visiums_disc_in_the_papers_tile():
    um = Geometry(**PRESETS["um"])
    assert (um.spot_um, um.spot_tile_um, um.layout) == (55, 77, "grid")
    assert um.in_microns(0.3) == um


@pytest.mark.parametrize("mpp", [0.2125, 0.425, 1.0])
def test_ref_px_is_160_of_224_pixels_whatever_they_measure(mpp):
    geometry = Geometry(**PRESETS["ref-px"])
    assert (geometry.membership, geometry.overlap, geometry.cell_tile_um) == ("overlap", 0.6, 0)
    lengths = geometry.in_microns(mpp)
    assert lengths.spot_um / mpp == pytest.approx(160)
    assert lengths.spot_tile_um / mpp == pytest.approx(224)
    assert lengths.spot_px == 0


def test_slides_of_two_resolutions_have_one_geometry_in_pixels():
    geometry = Geometry(**PRESETS["ref-px"])
    assert Geometry(**vars(geometry)) == geometry
    assert geometry.in_microns(0.25) != geometry.in_microns(0.5)


@pytest.mark.parametrize(
    "wrong", [{"spot_tile_px": 224.0}, {"spot_px": -1.0}, {"spot_px": 160.0, "spot_tile_px": 100.0}]
)
def test_a_geometry_in_pixels_that_cannot_be(wrong):
    with pytest.raises(UsageError, match="px"):
        Geometry(**wrong)


def test_an_unknown_preset_is_named():
    with pytest.raises(UsageError, match="no preset 'visium'"):
        preset("visium")
    assert preset("") == {}


def test_prepare_takes_a_preset_and_a_flag_on_top(ds2c, painted, tmp_path):
    source = painted / "one"
    words = ("prepare", source / "slide.tif", "--cells", source / "cells.parquet", "--project", tmp_path)
    assert ds2c(*words, "--preset", "ref-px", "--sample", "px").code == 0
    assert ds2c(*words, "--preset", "um", "--spot-um", 40, "--spot-tile-um", 60, "--sample", "um").code == 0
    px, um = Project(tmp_path).sample("px"), Project(tmp_path).sample("um")
    assert np.allclose(px.spots["tile_side"], 224)
    assert np.allclose(um.spots["tile_side"] * um.mpp, 60)
    assert (px.geometry.spot_px, px.geometry.membership) == (160, "overlap")
    assert um.geometry.spot_um == 40


@pytest.fixture
def without_files(monkeypatch):
    """Benchmark files are read as if all they name were there."""

    def requests(rows, path, geometry):
        return [
            Request(
                Sources(Path("x"), counts=Path("y")), row.get("hest_id") or row["sample"], row.get("donor", ""),
                row["cohort"],
            )
            for _, row in rows
        ]  # fmt: skip

    monkeypatch.setattr(benchmark_file, "requests_of", requests)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_an_example_is_a_benchmark(without_files, path):
    plan = read_benchmark(path)
    assert plan.seeds == [0, 1, 2]
    assert {"mlp", "paper", "additive"} <= {model.name for model in plan.models}
    assert plan.reference == "additive"
    for fold in plan.folds:
        assert not set(fold.train) & {name for name, scenario in fold.scenario.items() if scenario != "IS"}


def test_the_lungs_are_the_papers_and_pieces_of_one_stay_together(without_files):
    plan = read_benchmark(EXAMPLES / "lung.toml")
    assert [request.name for request in plan.requests] == [f"NCBI{number}" for number in LUNG]
    assert {request.cohort for request in plan.requests} == {"lung-fibrosis"}
    assert len(plan.folds) == 5
    for pieces in SAME_LUNG.values():
        for fold in plan.folds:
            assert len({fold.scenario[f"NCBI{number}"] for number in pieces}) == 1
    held_out = [name for fold in plan.folds for name, scenario in fold.scenario.items() if scenario == "OOS"]
    assert sorted(held_out) == sorted(request.name for request in plan.requests)


def test_breast_has_folds_over_both_studies_and_each_study_scored_on_the_other(without_files):
    plan = read_benchmark(EXAMPLES / "breast.toml")
    apart = [fold for fold in plan.folds if "OOD" in fold.scenario.values()]
    assert [len(fold.train) for fold in apart] == [3, 4]
    assert plan.designs == ["breast"]
