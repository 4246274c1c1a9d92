"""Superpixels against loops: what lies under spots and cells, which map's place each gets, and the two models."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch
import torch.nn.functional as F
from made import checkpoint_info

from ds2c_cli.cache.store import Cache
from ds2c_cli.choices import Features
from ds2c_cli.embeddings.embed import embed
from ds2c_cli.embeddings.superpixels import FAR, load_superpixels, map_boxes
from ds2c_cli.embeddings.tiles import tiles_of
from ds2c_cli.encoders.encoder import Encoder, load
from ds2c_cli.encoders.specification import specify
from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.models.base import SpotLabels
from ds2c_cli.models.scstgcn import mean_around
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Embedding, Geometry, Training
from ds2c_cli.training.checkpoint import Checkpoint, build_model, load_checkpoint, standardisation
from ds2c_cli.training.dataset import load_dataset

SIDE, MPP = 14, 0.5
PX = 16  # 8 um


@pytest.fixture(scope="module")
def sample(painted, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    source = painted / "one"
    sources = Sources(source / "slide.tif", str(source / "cells.parquet"), source / "cell_counts.h5ad")
    prepare(project, sources, geometry=Geometry(membership="centroid"), sample="one")
    return project.sample("one")


def position_maps(boxes):
    """Maps whose three features say where each place is and how wide: x, y of its corner and its side, in pixels."""
    rows = []
    for x, y, wide in boxes:
        step = wide / SIDE
        rows.append([[x + step * column, y + step * row, step] for row in range(SIDE) for column in range(SIDE)])
    return np.array(rows, np.float32).reshape(len(boxes), -1)


@pytest.fixture(scope="module")
def loaded(sample):
    return load_superpixels(sample, np.arange(len(sample.cells)), side=SIDE, maps_of=position_maps)


def test_each_superpixel_has_its_place_of_the_fine_and_of_the_coarse_map(loaded):
    x, y, wide, coarse_x, coarse_y, coarse_wide, mm_x, mm_y = loaded.features.numpy().T
    assert (wide == PX).all()
    assert (coarse_wide == PX * FAR).all()
    assert (x % PX == 0).all()
    assert (y % PX == 0).all()
    assert (coarse_x == x // (PX * FAR) * PX * FAR).all()
    assert (coarse_y == y // (PX * FAR) * PX * FAR).all()
    np.testing.assert_allclose(mm_x, (x + PX / 2) * MPP / 1000, rtol=1e-5)
    np.testing.assert_allclose(mm_y, (y + PX / 2) * MPP / 1000, rtol=1e-5)
    assert len(np.unique(np.column_stack([x, y]), axis=0)) == len(x)


def test_under_a_spot_are_the_superpixels_whose_centre_is_in_its_disc(sample, loaded):
    corner = loaded.features[:, :2].numpy()
    for spot in range(0, len(sample.spots), 7):
        rows, _ = loaded.of_spots.of(torch.tensor([spot]))
        found = {tuple(each) for each in corner[rows].astype(int)}
        centre = sample.spots.loc[spot, ["x", "y"]].to_numpy(float)
        reach = range(-5, 6)
        own = (centre // PX).astype(int)
        near = [((own[0] + i) * PX, (own[1] + j) * PX) for i in reach for j in reach]
        disc = {at for at in near if np.hypot(*(np.array(at) + PX / 2 - centre)) <= 55 / MPP / 2}
        assert found == {at for at in disc if 0 <= at[0] < 1024 and 0 <= at[1] < 1024}


def test_under_a_cell_are_the_superpixels_that_its_bounding_box_touches(sample, loaded):
    corner = loaded.features[:, :2].numpy()
    bounds = shapely.bounds(sample.outlines())
    for cell in range(0, len(bounds), 97):
        rows, _ = loaded.of_cells.of(torch.tensor([cell]))
        x0, y0, x1, y1 = bounds[cell].clip(0, 1024)
        squares = shapely.box(corner[rows, 0], corner[rows, 1], corner[rows, 0] + PX, corner[rows, 1] + PX)
        assert shapely.intersects(squares, shapely.box(x0, y0, x1, y1)).all()
        assert len(rows) == (np.ceil(x1 / PX) - x0 // PX) * (np.ceil(y1 / PX) - y0 // PX)


def test_around_are_the_eight_that_touch(loaded):
    corner = loaded.features[:, :2].numpy()
    there = np.argwhere(loaded.around.numpy() >= 0)
    apart = np.abs(corner[there[:, 0]] - corner[loaded.around.numpy()[tuple(there.T)]]).max(1)
    assert (apart == PX).all()
    under, _ = loaded.of_spots.of(torch.arange(len(loaded.of_spots.start) - 1))
    inner = under[((corner[under] > 0) & (corner[under] < 1024 - PX)).all(1)]
    assert (loaded.around[inner] >= 0).all()


def test_the_maps_that_are_embedded_cover_all_that_is_read(sample):
    asked = []
    load_superpixels(
        sample,
        np.arange(len(sample.cells)),
        side=SIDE,
        maps_of=lambda boxes: asked.append(boxes) or position_maps(boxes),
    )
    planned = {tuple(box) for box in map_boxes(sample, SIDE)}
    assert {tuple(box) for boxes in asked for box in boxes} == planned
    assert 16 < len(planned) <= 25 + 4  # 1,024 px: five tiles of 224 px each way, and two of 896; some hold no cell


def test_a_batch_holds_each_superpixel_once_and_enough_around_for_two_convolutions(loaded):
    spots, cells = torch.tensor([5, 2]), torch.tensor([3, 30, 31])
    batch = loaded.batch(spots, cells)
    rows, of = loaded.of_spots.of(spots)
    assert torch.equal(batch.features[batch.spot_row], loaded.features[rows])
    assert torch.equal(batch.spot_of, of)
    assert torch.equal(batch.features[batch.cell_row], loaded.features[loaded.of_cells.of(cells)[0]])
    assert len(torch.unique(batch.features, dim=0)) == len(batch.features)
    assert int(torch.cat([batch.spot_row, batch.cell_row]).max()) < batch.core
    whole = mean_around(mean_around(loaded.features, loaded.around), loaded.around)
    part = mean_around(mean_around(batch.features, batch.around[: batch.near]), batch.around[: batch.core])
    torch.testing.assert_close(part[batch.spot_row], whole[rows], rtol=1e-4, atol=1e-2)


def test_mean_around_is_a_loop(loaded):
    values, around = loaded.features[:50], torch.where(loaded.around[:50] < 50, loaded.around[:50], -1)
    expected = torch.stack(
        [torch.stack([values[i], *(values[j] for j in around[i].tolist() if j >= 0)]).mean(0) for i in range(50)]
    )
    torch.testing.assert_close(mean_around(values, around), expected, rtol=1e-4, atol=1e-2)


# The encoder's maps


def test_a_map_is_what_the_pooled_embedding_is_the_mean_of():
    tile = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    mapped = specify("imagenet-lite0", device="cpu", features="superpixels")
    assert mapped.fingerprint != specify("imagenet-lite0", device="cpu").fingerprint
    encoder = Encoder(mapped, torch.device("cpu"))
    (vector,) = encoder([tile])
    assert vector.shape == (SIDE * SIDE * 112,) == (mapped.recipe.dimension,)
    network = encoder._network.network
    pixels = (torch.from_numpy(tile).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    (stage,) = network.forward_intermediates(pixels, indices=[3], intermediates_only=True)
    np.testing.assert_allclose(vector.reshape(SIDE, SIDE, 112), stage[0].permute(1, 2, 0), atol=1e-4)


def test_an_encoder_without_a_map_is_refused():
    with pytest.raises(UsageError, match="no map"):
        specify("colour", features="superpixels")
    assert load("imagenet-lite0", device="cpu").dimension == 224  # tiles are what they were


# The models


@pytest.fixture(scope="module")
def dataset(sample, tmp_path_factory):
    project, root = Project(sample.folder.parents[1]), tmp_path_factory.mktemp("cache")
    done = embed(
        Workspace(project, cache=root, device="cpu"), Embedding(encoder="imagenet-lite0", features=Features.SUPERPIXELS)
    )
    (entry,) = project.embeddings()
    assert done.tiles == len(tiles_of(sample, entry.description)[1])
    with pytest.raises(InputError) as error:
        load_dataset(
            [sample], Cache(root / "none", done.fingerprint, done.dimension), encoder=entry.description, outside=False
        )
    assert "--features superpixels" in error.value.hint
    return load_dataset(
        [sample], Cache(root, done.fingerprint, done.dimension), encoder=entry.description, outside=True
    )


@pytest.mark.parametrize("name", ["istar", "scstgcn"])
def test_spots_and_cells_are_means_of_the_superpixels_under_them(tmp_path, dataset, name):
    torch.manual_seed(0)
    scale = standardisation(dataset, np.arange(dataset.n_spots))
    model = build_model(Training(model=name, hidden=8), dimension=scale.dimension, genes=3).eval()
    total = torch.full((1, 1), 100.0)
    model.start_at(SpotLabels(torch.expm1(torch.tensor([[1.0, 2.0, 3.0]])) / 100, total, total), 5.0)
    info = checkpoint_info(training=Training(model=name, hidden=8), genes=list("abc"))
    Checkpoint(model, scale, info).save(tmp_path / "x.pt")
    loaded = load_checkpoint(tmp_path / "x.pt")
    scaled = loaded.scale.of(dataset)
    spots = torch.tensor([4, 1, 9])
    batch = scaled.batch(spots)
    assert batch.cells.shape[1] == batch.tiles.shape[1] == 0
    whole = scaled.batch(torch.arange(dataset.n_spots))
    with torch.no_grad():
        rates = model.rates(whole.superpixels)
        spot, cell = loaded.model.spot(batch), loaded.model.cell(batch)
    assert (rates >= 0).all()
    for i, s in enumerate(spots.tolist()):
        under = whole.superpixels.spot_row[whole.superpixels.spot_of == s]
        torch.testing.assert_close(spot[i].expm1(), rates[under].mean(0), rtol=1e-3, atol=1e-3)
    index, _ = scaled.cell_index(spots)
    for i, c in enumerate(index.tolist()):
        under = whole.superpixels.cell_row[whole.superpixels.cell_of == c]
        torch.testing.assert_close(cell[i], 1e4 * F.normalize(rates[under].mean(0), p=1, dim=0), rtol=1e-3, atol=1e-2)


def test_some_cells_of_a_bag_see_what_they_saw_among_all(dataset):
    batch = dataset.batch(torch.tensor([4, 1, 9]))
    chosen = torch.tensor([7, 0, 3])
    some = batch.only(chosen)
    assert torch.equal(some.spot_of, batch.spot_of[chosen])
    assert torch.equal(some.superpixels.features, batch.superpixels.features)
    for i, c in enumerate(chosen.tolist()):
        under = batch.superpixels.cell_row[batch.superpixels.cell_of == c]
        assert len(under)
        assert torch.equal(some.superpixels.cell_row[some.superpixels.cell_of == i], under)


def test_istar_sees_no_place_and_no_neighbour_and_scstgcn_both(dataset):
    torch.manual_seed(0)
    scale = standardisation(dataset, np.arange(dataset.n_spots))
    scaled = dataset.superpixels.scaled(scale.centre, scale.feature_sd)
    batch = scaled.batch(torch.tensor([3]), torch.tensor([], dtype=torch.int64))
    moved = batch.features.clone()
    moved[:, -2:] += 1
    beyond = batch.features.clone()
    beyond[batch.core :] += 1
    for name, sees in (("istar", False), ("scstgcn", True)):
        model = build_model(Training(model=name, hidden=8), dimension=scale.dimension, genes=3).eval()
        for features in (moved, beyond):
            other = type(batch)(features, *(getattr(batch, f) for f in list(batch.__dataclass_fields__)[1:]))
            assert torch.allclose(model.read_superpixels(batch), model.read_superpixels(other)) != sees
