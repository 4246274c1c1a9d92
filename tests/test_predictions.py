"""Prediction files: written a few cells at a time in any order, opened by anndata and scanpy, read back by rows."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import anndata
import h5py
import matplotlib
import numpy as np
import pandas as pd
import pytest
from made import prediction_info

from ds2c_cli import schema
from ds2c_cli.errors import InputError
from ds2c_cli.prediction.file import PredictionFile, create_predictions, recorded_recipe, write_column
from ds2c_cli.records import SampleUsed

matplotlib.use("Agg")
CELLS, GENES = 60, ["ACTA2", "CD3E", "EPCAM", "KRT8", "MKI67"]
INFO = prediction_info(recipe="abc", sample=SampleUsed(name="µ-lung", slide_fingerprint="s", mpp=0.5))


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
    """Opens an empty file for its matrices: tmp_path / "one.h5ad"."""

    def make(counts=True, info=INFO):
        centre = obs[["x", "y"]].to_numpy()
        obsm = {schema.OBSM_UM: centre * 0.5, schema.OBSM_PX: centre}
        return create_predictions(tmp_path / "one.h5ad", obs, genes=GENES, obsm=obsm, info=info, counts=counts)

    return make


@pytest.fixture
def written(create, matrices, tmp_path):
    """A whole file, its rows written in no order, some cells at a time."""
    with create() as out:
        for rows in np.array_split(np.random.default_rng(2).permutation(CELLS), 7):
            for key, matrix in matrices.items():
                out[key].write(rows, matrix[rows])
    return tmp_path / "one.h5ad"


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
    assert json.loads(table.uns[schema.UNS]) == INFO.document()


def test_expected_counts_are_there_in_mode_deconvolve_only(create, tmp_path):
    with create(counts=False) as out:
        assert set(out) == {"X", schema.LAYER_SPOT_SHARE}
    assert set(anndata.read_h5ad(tmp_path / "one.h5ad").layers) == {schema.LAYER_SPOT_SHARE}


def test_rows_never_written_are_zero(create, matrices, tmp_path):
    with create() as out:
        out["X"].write(np.array([5]), matrices["X"][[5]])
        out["X"].write(np.array([], int), matrices["X"][:0])
    table = anndata.read_h5ad(tmp_path / "one.h5ad")
    assert np.array_equal(table.X[5], matrices["X"][5])
    assert not np.delete(table.X, 5, 0).any()
    assert not table.layers[schema.LAYER_SPOT_SHARE].any()


def test_the_matrices_share_no_bytes(create, tmp_path):
    with create() as out:
        for number, matrix in enumerate(out.values(), 1):
            matrix.write(np.arange(CELLS), np.full((CELLS, len(GENES)), number, np.float64))
    table = anndata.read_h5ad(tmp_path / "one.h5ad")
    assert np.unique(table.X).tolist() == [1]
    assert np.unique(table.layers[schema.LAYER_SPOT_SHARE]).tolist() == [2]
    assert np.unique(table.layers[schema.LAYER_COUNTS]).tolist() == [3]


def test_a_full_disk_is_an_error_and_no_signal(create, matrices):
    """A write that takes only a part goes on; one that takes nothing raises."""
    with create() as out, open("/dev/full", "wb", buffering=0) as full:
        broken = replace(out["X"], file=full.fileno())
        with pytest.raises(OSError, match="No space left"):
            broken.write(np.arange(CELLS), matrices["X"])


def test_a_write_cut_short_goes_on(create, matrices, tmp_path, monkeypatch):
    whole = os.pwrite
    with create() as out:
        monkeypatch.setattr(os, "pwrite", lambda file, content, at: whole(file, content[:7], at))
        out["X"].write(np.arange(CELLS), matrices["X"])
    assert np.array_equal(anndata.read_h5ad(tmp_path / "one.h5ad").X, matrices["X"])


@pytest.mark.parametrize(("counts", "matrices"), [(False, 2), (True, 3)])
def test_the_file_is_its_matrices_and_a_little_more(tmp_path, counts, matrices):
    cells, genes = 4000, 300
    obs = pd.DataFrame(index=[f"cell_{i}" for i in range(cells)])
    centre = np.zeros((cells, 2))
    path = tmp_path / "large.h5ad"
    obsm = {schema.OBSM_UM: centre, schema.OBSM_PX: centre}
    with create_predictions(path, obs, genes=[f"gene_{i}" for i in range(genes)], obsm=obsm, info=INFO, counts=counts):
        pass
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


@pytest.fixture
def patterned(written, obs):
    """A prediction whose genes are a gradient across the slide, a checkerboard of 300 px, the same in every cell
    (squidpy has no autocorrelation for it) and two of noise."""
    x, y = obs["x"].to_numpy(), obs["y"].to_numpy()
    noise = np.random.default_rng(3).random((2, CELLS))
    values = np.column_stack([x / 900, (x // 300 + y // 300) % 2, np.ones(CELLS), *noise])
    with h5py.File(written, "r+") as file:
        file["X"][:], file[f"layers/{schema.LAYER_SPOT_SHARE}"][:] = values, 2 * values
    return anndata.read_h5ad(written)


@pytest.mark.parametrize("layer", [None, schema.LAYER_SPOT_SHARE])
def test_squidpy_finds_the_genes_that_vary_in_space(patterned, layer):
    import squidpy

    squidpy.gr.spatial_neighbors(patterned, coord_type="generic", n_neighs=6)
    graph = patterned.obsp["spatial_connectivities"]
    assert graph.shape == (CELLS, CELLS)
    assert np.asarray(graph.sum(1)).min() >= 6
    genes = [gene for gene in GENES if gene != GENES[2]]
    squidpy.gr.spatial_autocorr(patterned, mode="moran", genes=genes, layer=layer, n_perms=100, seed=0, n_jobs=1)
    found = patterned.uns["moranI"]
    assert found.index[0] == GENES[0]
    assert found.loc[GENES[0], "I"] > 0.8
    assert found.loc[GENES[0], "pval_sim"] < 0.02
    assert found.loc[GENES[3:], "I"].abs().max() < 0.25
    # Moran's I by its definition, with rows of the graph that sum to one, as squidpy weighs them.
    weight = graph.toarray() / graph.toarray().sum(1, keepdims=True)
    for gene in genes:
        value = patterned[:, gene].X.ravel().astype(float)
        value -= value.mean()
        expected = len(value) / weight.sum() * (value @ weight @ value) / (value @ value)
        assert found.loc[gene, "I"] == pytest.approx(expected, rel=1e-4)


def test_scanpy_paints_cells_in_microns(patterned):
    import scanpy
    from matplotlib import pyplot

    (axes,) = scanpy.pl.spatial(patterned, color=GENES[0], spot_size=10, show=False)
    painted = axes.collections[0]
    centre = np.array([path.vertices.mean(0) for path in painted.get_paths()])
    assert len(centre) == CELLS
    assert np.allclose(centre[:, 0], 0.5 * 900 * np.asarray(painted.get_array()), atol=2)  # each in its own colour
    assert np.ptp(centre[:, 1]) == pytest.approx(np.ptp(patterned.obsm[schema.OBSM_UM][:, 1]), abs=4)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # y runs down, as on the slide
    pyplot.close("all")


def test_anndata_writes_it_again_and_takes_parts_of_it(written, tmp_path, matrices):
    table = anndata.read_h5ad(written)
    table[table.obs["inside"], ["KRT8", "CD3E"]].write_h5ad(tmp_path / "part.h5ad")
    part = anndata.read_h5ad(tmp_path / "part.h5ad")
    assert np.array_equal(part.X, matrices["X"][table.obs["inside"]][:, [3, 1]])


# Reading


def test_shares_add_up_from_x_and_the_cells_part_of_its_spot(create, matrices, obs, tmp_path):
    obs[schema.OF_SPOT] = np.float32(np.nan)
    path, share = tmp_path / "one.h5ad", 100 * matrices["counts"]
    own = share.sum(1)
    with create(counts=False) as out:
        out["X"].write(np.arange(CELLS), np.log1p(1e4 * share / own[:, None]))
        write_column(path, schema.OF_SPOT, own / 1e4)
    rows = np.array([4, 0, 4])
    np.testing.assert_allclose(PredictionFile(path).share(rows), share[rows], rtol=1e-4)
    np.testing.assert_allclose(anndata.read_h5ad(path).obs[schema.OF_SPOT], own / 1e4, rtol=1e-6)


def test_spot_share_of_cells_in_any_order_and_more_than_once(written, matrices):
    file = PredictionFile(written)
    assert file.genes == GENES
    assert list(file.cell_id[:2]) == ["cell_000", "cell_001"]
    assert file.info == INFO
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


def test_a_future_version_shows_both(create, tmp_path):
    with create(info=INFO.changed(version=99)):
        pass
    with pytest.raises(InputError, match=rf"version 99.* {schema.PREDICTION_VERSION}"):
        PredictionFile(tmp_path / "one.h5ad")


def test_the_recipe_of_a_prediction_is_what_it_was_made_from(written, tmp_path):
    assert recorded_recipe(written) == "abc"
    assert recorded_recipe(tmp_path / "absent.h5ad") is None


@pytest.mark.parametrize("damage", NO_PREDICTION, ids=lambda damage: damage.__name__)
def test_a_file_that_is_no_prediction_has_another_recipe(written, damage):
    """So that a run does not replace somebody's file unasked: `must_run` wants --force over another recipe."""
    damage(written, written.read_bytes())
    assert recorded_recipe(written) == ""
