"""Data sets of spots against loops, and what the models promise whatever the batch; complements test_models.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import checkpoint_info, encoder_description
from scipy import sparse

from ds2c_cli.cache.store import Cache, tile_keys
from ds2c_cli.embeddings.embed import embed
from ds2c_cli.evaluation.baselines import area_split, even_split
from ds2c_cli.models import MODELS
from ds2c_cli.models.batch import segment_sum
from ds2c_cli.prediction import inference
from ds2c_cli.prediction.deconvolve import share_out
from ds2c_cli.prediction.inference import Inference
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Embedding, Geometry, Training
from ds2c_cli.training.checkpoint import Checkpoint, build_model, standardisation
from ds2c_cli.training.dataset import SpotDataset, load_dataset

D, G = 5, 7


@st.composite
def ragged(draw):
    """Data sets of one to six spots with none to five cells each, and a choice of these spots, repeats included."""
    number = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    k, spots = draw(st.integers(1, 4)), len(number)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cells = sum(number)
    dataset = SpotDataset(
        cells=torch.from_numpy(random.normal(size=(cells, D)).astype(np.float32)),
        area=torch.from_numpy(random.uniform(0.5, 2, cells).astype(np.float32)),
        inside=torch.from_numpy(random.random(cells) < 0.7),
        start=torch.from_numpy(np.cumsum([0, *number])),
        tiles=torch.from_numpy(random.normal(size=(spots, D)).astype(np.float32)),
        around=torch.from_numpy(random.integers(-1, spots, (spots, k))),
        cell_row=np.arange(cells),
        sample=np.zeros(spots, np.int64),
    )
    return dataset, torch.tensor(draw(st.lists(st.integers(0, spots - 1), min_size=1, max_size=8)))


def model_of(name):
    torch.manual_seed(0)
    model = MODELS[name](D, G, hidden=16, dropout=0.3).eval()
    if hasattr(model, "typical_total"):
        model.typical_total.fill_(3.0)
    return model


@given(ragged())
def test_a_batch_is_what_a_loop_over_its_spots_gathers(case):
    dataset, spots = case
    batch = dataset.batch(spots)
    expected = [(i, c) for i, s in enumerate(spots) for c in range(dataset.start[s], dataset.start[s + 1])]
    rows = torch.tensor([c for _, c in expected], dtype=torch.int64)
    assert batch.spot_of.tolist() == [i for i, _ in expected]
    assert torch.equal(batch.cells, dataset.cells[rows])
    assert torch.equal(batch.area, dataset.area[rows])
    assert torch.equal(batch.inside, dataset.inside[rows])
    assert torch.equal(batch.tiles[batch.own], dataset.tiles[spots])
    around = dataset.around[spots]
    assert torch.equal(batch.around >= 0, around >= 0)
    assert torch.equal(batch.tiles[batch.around[around >= 0]], dataset.tiles[around[around >= 0]])
    assert len(batch.tiles) == len(set(spots.tolist()) | set(around[around >= 0].tolist()))  # each tile once


@given(ragged())
def test_segment_sums_are_those_of_a_loop(case):
    dataset, spots = case
    batch = dataset.batch(spots)
    total = segment_sum(batch.cells, batch.spot_of, batch.n_spots)
    loop = [batch.cells[batch.spot_of == s].double().sum(0) for s in range(batch.n_spots)]
    torch.testing.assert_close(total.double(), torch.stack(loop), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.features == "tiles"])
@given(case=ragged())
def test_a_spot_and_its_cells_do_not_depend_on_the_rest_of_the_batch(name, case):
    dataset, spots = case
    model = model_of(name)
    with torch.no_grad():
        together = dataset.batch(spots)
        of_spots, of_cells = model.spot(together), model.cell(together)
        for i, spot in enumerate(spots):
            alone = dataset.batch(spot[None])
            torch.testing.assert_close(model.spot(alone)[0], of_spots[i], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(model.cell(alone), of_cells[together.spot_of == i], rtol=1e-4, atol=1e-4)


@given(ragged())
def test_additive_cells_add_up_to_their_spot_whatever_the_bag(case):
    dataset, spots = case
    batch, model = dataset.batch(spots), model_of("additive")
    with torch.no_grad():
        cells, log = model.cell(batch).double(), model.spot(batch)
    total = segment_sum(cells[batch.inside], batch.spot_of[batch.inside], batch.n_spots)
    assert torch.isfinite(cells).all()
    occupied = torch.bincount(batch.spot_of[batch.inside], minlength=batch.n_spots) > 0
    np.testing.assert_allclose(total[occupied].sum(1), 1e4, rtol=1e-4)
    assert not total[~occupied].any()
    assert not log[~occupied].any()


@given(ragged(), st.floats(0.1, 10))
def test_an_outside_cells_share_is_linear_in_its_area(case, factor):
    dataset, spots = case
    batch, model = dataset.batch(spots), model_of("additive")
    larger = replace(batch, area=torch.where(batch.inside, batch.area, factor * batch.area))
    with torch.no_grad():
        cells, scaled = model.cell(batch), model.cell(larger)
    torch.testing.assert_close(scaled[~batch.inside], factor * cells[~batch.inside], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scaled[batch.inside], cells[batch.inside], rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(-28, 4))
def test_sharing_out_conserves_counts_at_every_scale_of_the_rates(seed, power):
    random = np.random.default_rng(seed)
    spot_of = torch.from_numpy(random.integers(0, 3, 12))
    share = torch.from_numpy((random.exponential(size=(12, G)) * 10.0**power).astype(np.float32))
    counts = torch.from_numpy(random.poisson(5, (3, G)).astype(np.float32))
    total = segment_sum(share_out(share, spot_of, counts), spot_of, 3)
    occupied = torch.bincount(spot_of, minlength=3) > 0
    torch.testing.assert_close(total[occupied], counts[occupied], rtol=1e-4, atol=1e-4)


def test_splits_are_even_and_in_proportion_to_area():
    spots, totals = sparse.csr_matrix(np.array([[8, 0]])), np.array([8])
    spot_of, inside, area = np.zeros(2, int), np.ones(2, bool), np.array([1.0, 3.0])
    even = np.expm1(even_split(spots, totals, spot_of=spot_of, inside=inside, area=area)[:, 0])
    by_area = np.expm1(area_split(spots, totals, spot_of=spot_of, inside=inside, area=area)[:, 0])
    np.testing.assert_allclose(even, [5000, 5000], rtol=1e-4)
    np.testing.assert_allclose(by_area, [2500, 7500], rtol=1e-4)
    unknown = area_split(spots, totals, spot_of=spot_of, inside=inside, area=np.full(2, np.nan))
    np.testing.assert_allclose(unknown, even_split(spots, totals, spot_of=spot_of, inside=inside, area=area))


def test_a_cell_outside_gets_what_a_member_gets():
    spots, totals = sparse.csr_matrix(np.array([[8, 0], [4, 4]])), np.array([8, 8])
    spot_of, inside, area = np.array([0, 0, 0, 1]), np.array([True, True, False, False]), np.array([1.0, 3, 2, 5])
    even = np.expm1(even_split(spots, totals, spot_of=spot_of, inside=inside, area=area)[:, 0])
    by_area = np.expm1(area_split(spots, totals, spot_of=spot_of, inside=inside, area=area)[:, 0])
    np.testing.assert_allclose(even, [5000, 5000, 5000, 5000], rtol=1e-4)  # the last spot has no member
    np.testing.assert_allclose(by_area, [2500, 7500, 5000, 5000], rtol=1e-4)


# Two samples


@pytest.fixture(scope="module")
def samples(painted, tmp_path_factory):
    """Two prepared samples with colour embeddings, and their cache."""
    home = tmp_path_factory.mktemp("dataset")
    project = Project(home / "project")
    for name in ("one", "two"):
        folder = painted / name
        sources = Sources(folder / "slide.tif", str(folder / "cells.parquet"), folder / "cell_counts.h5ad")
        prepare(project, sources, geometry=Geometry(membership="centroid"), sample=name, donor=name, cohort="painted")
    done = embed(Workspace(project, cache=home / "cache", device="cpu"), Embedding(encoder="colour"))
    return project.samples(), Cache(home / "cache", done.fingerprint, done.dimension)


COLOUR = encoder_description(encoder="colour", tile_px=0)


def vectors(cache, sample, boxes):
    return torch.from_numpy(cache.get(tile_keys(sample.slide_fingerprint, boxes, tile_px=0)).astype(np.float32))


@pytest.mark.parametrize("outside", [False, True])
def test_bags_of_two_samples_keep_to_their_own_cells_and_tiles(samples, outside):
    chosen, cache = samples
    dataset = load_dataset(chosen, cache, encoder=COLOUR, outside=outside)
    first = 0
    for number, sample in enumerate(chosen):
        n = len(sample.spots)
        own, cells = vectors(cache, sample, sample.spot_boxes()), vectors(cache, sample, sample.cell_boxes())
        context, inside = sample.cells["spot"].to_numpy(), sample.cells["inside"].to_numpy()
        assert (dataset.sample[first : first + n] == number).all()
        assert torch.equal(dataset.tiles[first : first + n], own)
        for spot in range(n):
            rows = np.flatnonzero((context == spot) & (inside | outside))
            held = slice(int(dataset.start[first + spot]), int(dataset.start[first + spot + 1]))
            assert np.array_equal(dataset.cell_row[held], rows)
            assert torch.equal(dataset.cells[held], cells[rows])
            assert dataset.inside[held].tolist() == inside[rows].tolist()
            seen = dataset.around[first + spot]
            expected = sample.neighbours[spot]
            assert torch.equal(seen >= 0, torch.from_numpy(expected >= 0))
            assert torch.equal(dataset.tiles[seen[seen >= 0]], own[expected[expected >= 0]])
        first += n
    assert dataset.n_spots == first
    assert dataset.start[-1] == len(dataset.cells) == len(dataset.cell_row) == len(dataset.area)


def test_cells_without_a_spot_are_in_no_bag(samples, monkeypatch):
    chosen, cache = samples
    cells = chosen[1].cells.copy()
    lost = np.flatnonzero(~cells["inside"])[:3]
    cells.loc[lost, "spot"] = -1
    monkeypatch.setitem(chosen[1].__dict__, "cells", cells)
    dataset = load_dataset(chosen, cache, encoder=COLOUR, outside=True)
    last_of_first = len(chosen[0].spots) - 1
    of_first = (chosen[0].cells["spot"] == last_of_first).sum()
    assert dataset.start[last_of_first + 1] - dataset.start[last_of_first] == of_first
    assert len(dataset.cells) == len(chosen[0].cells) + len(cells) - len(lost)


def by_cell_and_spot(checkpoint, dataset):
    """Everything that is read, in order of cells and spots; each is told once."""
    spot_log, rows, shares = np.full((dataset.n_spots, len(checkpoint.genes)), np.nan), [], []
    for chunk in Inference(checkpoint, dataset, device="cpu"):
        told = ~np.isnan(chunk.spot_log[:, 0])
        assert np.isnan(spot_log[chunk.spots[told]]).all()
        spot_log[chunk.spots[told]] = chunk.spot_log[told]
        rows.append(np.c_[chunk.cells, chunk.spot_of, chunk.inside])
        shares.append(np.concatenate([chunk.share, chunk.share_log], 1))
    order = np.argsort(np.concatenate(rows)[:, 0])
    return np.concatenate(rows)[order], np.concatenate(shares)[order], spot_log


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.features == "tiles"])
def test_a_spot_beside_which_very_many_cells_lie_is_read_in_parts(samples, monkeypatch, name):
    chosen, cache = samples
    dataset = load_dataset(chosen[:1], cache, encoder=COLOUR, outside=True)
    torch.manual_seed(0)
    model = build_model(Training(model=name, hidden=8), dimension=dataset.tiles.shape[1], genes=3).eval()
    checkpoint = Checkpoint(
        model, standardisation(dataset, np.arange(dataset.n_spots)), checkpoint_info(genes=list("abc"))
    )
    whole = by_cell_and_spot(checkpoint, dataset)
    monkeypatch.setattr(inference, "CELLS_AT_ONCE", 2)
    sizes = [len(chunk.cells) for chunk in Inference(checkpoint, dataset, device="cpu")]
    members = np.bincount(whole[0][whole[0][:, 2] == 1, 1])
    assert max(sizes) <= max(members) + 2 < (dataset.start[1:] - dataset.start[:-1]).max()
    for all_at_once, in_parts in zip(whole, by_cell_and_spot(checkpoint, dataset), strict=True):
        np.testing.assert_allclose(in_parts, all_at_once, rtol=1e-4, atol=1e-4)
