"""Prediction files: written a few cells at a time in any order, opened by anndata and scanpy, read back by rows."""

from __future__ import annotations

import json

import anndata
import h5py
import matplotlib
import numpy as np
import pandas as pd
import pytest

from ds2c_cli import schema
from ds2c_cli.errors import InputError
from ds2c_cli.io.predictions import PredictionFile, create_predictions, recorded_recipe, write_column

matplotlib.use("Agg")
CELLS, GENES = 60, ["ACTA2", "CD3E", "EPCAM", "KRT8", "MKI67"]
ABOUT = {"version": schema.PREDICTION_VERSION, "recipe": "abc", "mode": "predict", "sample": {"name": "µ-lung"}}


@pytest.fixture
def obs():
    """A cell table as predict writes it: an unknown area, a cell without spot, cell ids as the index."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "x": random.uniform(0, 900, CELLS),
            "y": random.uniform(0, 700, CELLS),
            "area_um2": np.where(np.arange(CELLS) == 3, np.nan, 50.0),
            "spot": np.r_[-1, random.integers(0, 9, CELLS - 1)].astype(np.int32),
            "inside": random.random(CELLS) < 0.5,
        },
        index=[f"cell_{i:03d}" for i in range(CELLS)],
    )
    table.index.name = "cell_id"
    return table


@pytest.fixture
def matrices():
    random = np.random.default_rng(1)
    return {key: random.random((CELLS, len(GENES)), np.float32) for key in ("X", "spot_share", "counts")}


@pytest.fixture
def create(tmp_path, obs):
    """An empty file and its arrays."""

    def make(name="one.h5ad", counts=True, about=ABOUT):
        centre = obs[["x", "y"]].to_numpy()
        obsm = {schema.OBSM_UM: centre * 0.5, schema.OBSM_PX: centre}
        return tmp_path / name, create_predictions(tmp_path / name, obs, GENES, obsm, about, counts)

    return make


@pytest.fixture
def written(create, matrices):
    """A whole file, its rows written in no order, some cells at a time."""
    path, out = create()
    for rows in np.array_split(np.random.default_rng(2).permutation(CELLS), 7):
        for key, matrix in matrices.items():
            out[key][rows] = matrix[rows]
    for matrix in out.values():
        matrix.flush()
    return path


def test_rows_written_in_any_order_are_read_back_exactly(written, matrices):
    table = anndata.read_h5ad(written)
    assert np.array_equal(table.X, matrices["X"])
    for layer in (schema.LAYER_SPOT_SHARE, schema.LAYER_COUNTS):
        assert np.array_equal(table.layers[layer], matrices[layer])
    assert {matrix.dtype for matrix in (table.X, *table.layers.values())} == {np.dtype(np.float32)}


def test_cells_genes_and_coordinates_are_those_given(written, obs):
    table = anndata.read_h5ad(written)
    pd.testing.assert_frame_equal(table.obs, obs)
    assert list(table.var_names) == GENES
    assert set(table.obsm) == {schema.OBSM_UM, schema.OBSM_PX}
    assert np.array_equal(table.obsm[schema.OBSM_PX], obs[["x", "y"]])
    assert np.array_equal(table.obsm[schema.OBSM_UM], obs[["x", "y"]] * 0.5)
    assert json.loads(table.uns[schema.UNS]) == ABOUT


def test_expected_counts_are_there_in_mode_deconvolve_only(create):
    path, out = create(counts=False)
    assert set(out) == {"X", schema.LAYER_SPOT_SHARE}
    assert set(anndata.read_h5ad(path).layers) == {schema.LAYER_SPOT_SHARE}


def test_rows_never_written_are_zero(create, matrices):
    path, out = create()
    out["X"][5] = matrices["X"][5]
    out["X"].flush()
    table = anndata.read_h5ad(path)
    assert np.array_equal(table.X[5], matrices["X"][5])
    assert not np.delete(table.X, 5, 0).any()
    assert not table.layers[schema.LAYER_SPOT_SHARE].any()


def test_the_matrices_share_no_bytes(create):
    path, out = create()
    for number, matrix in enumerate(out.values(), 1):
        matrix[:] = number
        matrix.flush()
    table = anndata.read_h5ad(path)
    assert np.unique(table.X).tolist() == [1]
    assert np.unique(table.layers[schema.LAYER_SPOT_SHARE]).tolist() == [2]
    assert np.unique(table.layers[schema.LAYER_COUNTS]).tolist() == [3]


@pytest.mark.parametrize(("counts", "matrices"), [(False, 2), (True, 3)])
def test_the_file_is_its_matrices_and_a_little_more(tmp_path, counts, matrices):
    cells, genes = 4000, 300
    obs = pd.DataFrame(index=[f"cell_{i}" for i in range(cells)])
    centre = np.zeros((cells, 2))
    path = tmp_path / "large.h5ad"
    obsm = {schema.OBSM_UM: centre, schema.OBSM_PX: centre}
    create_predictions(path, obs, [f"gene_{i}" for i in range(genes)], obsm, ABOUT, counts)
    dense = matrices * cells * genes * 4
    assert dense < path.stat().st_size < 1.1 * dense


def test_matrices_can_be_read_without_loading_them(written, matrices):
    table = anndata.read_h5ad(written, backed="r")
    assert np.array_equal(table.X[10:12], matrices["X"][10:12])
    table.file.close()
    with h5py.File(written) as file:
        assert file["X"].chunks is None  # contiguous: a row is one piece of the file


def test_scanpy_draws_a_gene_on_the_slide(written):
    import scanpy
    from matplotlib import pyplot

    table = scanpy.read_h5ad(written)
    axes = scanpy.pl.embedding(table, schema.OBSM_UM, color="EPCAM", show=False)
    drawn = np.asarray(axes.collections[0].get_offsets())
    key = [tuple(row) for row in drawn.round(6)]
    assert sorted(key) == sorted(tuple(row) for row in table.obsm[schema.OBSM_UM].round(6))
    scanpy.pl.embedding(table, schema.OBSM_PX, color="CD3E", layer=schema.LAYER_SPOT_SHARE, show=False)
    pyplot.close("all")


def test_anndata_writes_it_again_and_takes_parts_of_it(written, tmp_path, matrices):
    table = anndata.read_h5ad(written)
    table[table.obs["inside"], ["KRT8", "CD3E"]].write_h5ad(tmp_path / "part.h5ad")
    part = anndata.read_h5ad(tmp_path / "part.h5ad")
    assert np.array_equal(part.X, matrices["X"][table.obs["inside"]][:, [3, 1]])


# Reading


def test_shares_add_up_from_x_and_the_cells_part_of_its_spot(create, matrices, obs):
    obs[schema.OF_SPOT] = np.float32(np.nan)
    path, out = create(counts=False)
    share = 100 * matrices["counts"]
    own = share.sum(1)
    out["X"][:] = np.log1p(1e4 * share / own[:, None])
    out["X"].flush()
    write_column(path, schema.OF_SPOT, own / 1e4)
    rows = np.array([4, 0, 4])
    np.testing.assert_allclose(PredictionFile(path).share(rows), share[rows], rtol=1e-4)
    np.testing.assert_allclose(anndata.read_h5ad(path).obs[schema.OF_SPOT], own / 1e4, rtol=1e-6)


def test_spot_share_of_cells_in_any_order_and_more_than_once(written, matrices):
    file = PredictionFile(written)
    assert file.genes == GENES
    assert list(file.cell_id[:2]) == ["cell_000", "cell_001"]
    assert file.about == ABOUT
    for rows in ([7], [59, 0, 30], [4, 4, 2, 4], np.arange(CELLS)[::-1]):
        assert np.array_equal(file.spot_share(np.array(rows)), matrices["spot_share"][rows])
    assert file.spot_share(np.array([], int)).shape == (0, len(GENES))
    assert file.spot_share(np.array([1])).dtype == np.float32


def test_two_readers_at_once(written, matrices):
    first, second = PredictionFile(written), PredictionFile(written)
    assert np.array_equal(first.spot_share(np.array([1])), second.spot_share(np.array([1])))


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(InputError, match="there are no predictions") as error:
        PredictionFile(tmp_path / "absent.h5ad")
    assert "ds2c predict" in error.value.hint


def foreign(path, whole):
    anndata.AnnData(np.zeros((2, 3), np.float32)).write_h5ad(path)


def without_share(path, whole):
    with h5py.File(path, "r+") as file:
        del file[f"layers/{schema.LAYER_SPOT_SHARE}"]


def garbled_about(path, whole):
    with h5py.File(path, "r+") as file:
        del file[f"uns/{schema.UNS}"]
        file[f"uns/{schema.UNS}"] = "{"


def plain_hdf5(path, whole):
    with h5py.File(path, "w") as file:
        file["a"] = 1


def truncated(path, whole):
    path.write_bytes(whole[: len(whole) // 2])


def text(path, whole):
    path.write_text("cell,gene\n")


def empty(path, whole):
    path.write_bytes(b"")


NO_PREDICTION = [foreign, garbled_about, plain_hdf5, truncated, text, empty]


@pytest.mark.parametrize("damage", [*NO_PREDICTION, without_share], ids=lambda damage: damage.__name__)
def test_a_file_that_is_no_prediction_is_refused(written, damage):
    damage(written, written.read_bytes())
    with pytest.raises(InputError, match="no prediction of ds2c") as error:
        PredictionFile(written)
    assert str(written) in error.value.message
    assert "ds2c predict" in error.value.hint


def test_a_future_version_shows_both(create):
    path, _ = create(about={**ABOUT, "version": 99})
    with pytest.raises(InputError, match=rf"version 99.* {schema.PREDICTION_VERSION}"):
        PredictionFile(path)


def test_the_recipe_of_a_prediction_is_what_it_was_made_from(written, tmp_path):
    assert recorded_recipe(written) == "abc"
    assert recorded_recipe(tmp_path / "absent.h5ad") is None


@pytest.mark.parametrize("damage", NO_PREDICTION, ids=lambda damage: damage.__name__)
def test_a_file_that_is_no_prediction_has_another_recipe(written, damage):
    """So that a run does not replace somebody's file unasked: `must_run` wants --force over another recipe."""
    damage(written, written.read_bytes())
    assert recorded_recipe(written) == ""
