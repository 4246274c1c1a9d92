"""Bad input: each one message that says what is wrong and what to do, exit code 3, no traceback, nothing written."""

from __future__ import annotations

import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile

MESSAGE_LINES = 2  # the error and its hint


@pytest.fixture
def cells(painted):
    return pd.read_parquet(painted / "one" / "cells.parquet")


@pytest.fixture
def refused(ds2c, painted, tmp_path):
    """Run `prepare` on a painted slide with some sources replaced; it must end with 3 and say all of the words."""

    def run(*words, slide=painted / "one" / "slide.tif", cells=None, counts=None, more=()):
        if isinstance(cells, pd.DataFrame):
            cells.to_parquet(tmp_path / "cells.parquet")
            cells = tmp_path / "cells.parquet"
        if isinstance(counts, anndata.AnnData):
            counts.write_h5ad(tmp_path / "counts.h5ad")
            counts = tmp_path / "counts.h5ad"
        source = painted / "one"
        ran = ds2c(
            "prepare", slide, "--cells", cells or source / "cells.parquet", "--counts",
            counts or source / "cell_counts.h5ad", "--project", tmp_path / "project", "--membership", "centroid", *more,
        )  # fmt: skip
        assert ran.code == 3, ran.err
        said = [line for line in ran.err.splitlines() if not line.startswith("prepare")]
        assert len(said) == MESSAGE_LINES, ran.err
        assert "Traceback" not in ran.err
        for word in words:
            assert word in ran.err
        assert not (tmp_path / "project" / "samples").exists()

    return run


@pytest.fixture
def counts(painted):
    return anndata.read_h5ad(painted / "one" / "cell_counts.h5ad")


def test_missing_pixel_size(refused, painted, tmp_path):
    tifffile.imwrite(tmp_path / "plain.tif", tifffile.imread(painted / "one" / "slide.tif"), tile=(256, 256))
    refused("--mpp", "plain.tif", slide=tmp_path / "plain.tif")


def test_microns_given_as_pixels(refused, cells):
    cells[["vertex_x", "vertex_y"]] *= 0.5
    refused("as microns", cells=cells)


def test_swapped_x_and_y_on_an_oblong_slide(refused, painted, cells, tmp_path):
    pixels = tifffile.imread(painted / "one" / "slide.tif")[:600]
    tifffile.imwrite(
        tmp_path / "strip.tif", pixels, tile=(256, 256), resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
    )
    inside = cells.groupby("cell_id")["vertex_y"].transform("max") < 600
    swapped = cells[inside].rename(columns={"vertex_x": "vertex_y", "vertex_y": "vertex_x"})
    refused("x and y swapped", "lie outside", slide=tmp_path / "strip.tif", cells=swapped, more=("--keep-matching",))


def test_swapped_x_and_y_on_a_square_slide(refused, painted, cells, tmp_path):
    """The slide's right half is glass, so only the tissue can tell."""
    pixels = tifffile.imread(painted / "one" / "slide.tif")
    pixels[:, 512:] = 244
    tifffile.imwrite(
        tmp_path / "half.tif", pixels, tile=(256, 256), resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
    )
    left = cells.groupby("cell_id")["vertex_x"].transform("max") < 512
    swapped = cells[left].rename(columns={"vertex_x": "vertex_y", "vertex_y": "vertex_x"})
    refused("x and y swapped", slide=tmp_path / "half.tif", cells=swapped, more=("--keep-matching",))


def test_cell_ids_that_do_not_match_the_counts(refused, counts):
    counts.obs_names = [f"other_{name}" for name in counts.obs_names]
    refused("nothing in common", counts=counts)


def test_counts_of_some_cells_only(refused, counts):
    refused("don't match", "--keep-matching", counts=counts[10:].copy())


def test_duplicate_ids(refused, counts):
    names = counts.obs_names.to_list()
    counts.obs_names = [names[1], *names[1:]]
    refused(names[1], counts=counts)


def test_nan_polygon(refused, cells):
    cells.loc[5, "vertex_x"] = np.nan
    refused(str(cells.loc[5, "cell_id"]), cells=cells)


def test_counts_that_are_not_integers(refused, counts):
    counts.X = counts.X.astype(np.float32) * 0.5
    refused(".5", counts=counts)


def test_empty_spot_set(refused, ds2c, painted, tmp_path):
    (tmp_path / "spots.csv").write_text("spot_id,x,y\n")
    (tmp_path / "counts.csv").write_text("spot_id,A\ns1,3\n")
    refused("spots.csv", counts=tmp_path / "counts.csv", more=("--spots", tmp_path / "spots.csv"))


def test_spots_too_large_for_the_slide(refused):
    refused("--spot-um", more=("--spot-um", 5000))


def test_truncated_slide(refused, painted, tmp_path):
    whole = (painted / "one" / "slide.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    refused("cut.tif", slide=tmp_path / "cut.tif")


def test_a_missing_slide(refused, tmp_path):
    refused("no slide", slide=tmp_path / "gone.tif")


def test_a_pickle_given_as_a_checkpoint_is_not_run(ds2c, painted, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap()))
    ran = ds2c("predict", "--checkpoint", tmp_path / "model.pt", "--project", tmp_path)
    assert ran.code == 3
    assert "not a checkpoint" in ran.err
    assert not (tmp_path / "ran").exists()


def test_real_pancreas_cells_swapped_or_in_microns(ds2c, real_data, tmp_path):
    source = real_data / "pancreas" / "P1"
    cells = pd.read_parquet(source / "cells.parquet")
    mistakes = {
        "x and y swapped": cells.rename(columns={"vertex_x": "vertex_y", "vertex_y": "vertex_x"}),
        "as microns": cells.assign(vertex_x=cells["vertex_x"] * 0.425, vertex_y=cells["vertex_y"] * 0.425),
    }
    for words, table in mistakes.items():
        table.to_parquet(tmp_path / "cells.parquet")
        ran = ds2c("prepare", source / "slide.tif", "--cells", tmp_path / "cells.parquet", "--project", tmp_path)
        assert (ran.code, words in ran.err) == (3, True), ran.err
