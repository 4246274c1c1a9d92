"""Geometry: where spots, tiles, members and neighbours are, against references written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from ds2c_cli.geometry import (
    Lattice,
    cell_tiles,
    centroids,
    context_of,
    lattice_of,
    member_of,
    neighbours_of,
    pixel_boxes,
    pseudo_spots,
    square_tiles,
)
from ds2c_cli.io.tissue import TissueMask, pseudo_cells
from ds2c_cli.settings import Geometry
from ds2c_cli.training.folds import hold_out_blocks

GRID = Geometry(layout="grid", spot_um=40.0, membership="centroid")
HEX = Geometry(layout="hex")

seeds = st.integers(0, 2**32 - 1)
mpps = st.floats(0.2, 1.0)
lengths = st.integers(0, 1200)


def array(layout: str, columns: int, rows: int, pitch: float = 100.0) -> np.ndarray:
    """Centres (n, 2) of a whole array of spots, row by row."""
    column, row = (part.ravel() for part in np.meshgrid(np.arange(columns), np.arange(rows)))
    if layout == "grid":
        return np.column_stack([column, row]) * pitch
    return np.column_stack([column + row % 2 / 2, row * np.sqrt(3) / 2]) * pitch


def blobs(generator: np.random.Generator, n: int, extent: float) -> np.ndarray:
    """Polygons (n,) of random sizes and shapes, some over the border."""
    centre = generator.uniform(0, extent, (n, 1, 2))
    angle = np.sort(generator.uniform(0, 2 * np.pi, (n, 9)), axis=1)[..., None]
    radius = generator.uniform(3, 20, (n, 9, 1))
    return shapely.convex_hull(
        shapely.multipoints(centre + radius * np.concatenate([np.cos(angle), np.sin(angle)], -1))
    )


# Pseudo-spots


@given(lengths, lengths, mpps)
def test_grid_tiles_adjoin_and_lie_whole_on_the_slide(width, height, mpp):
    side = GRID.spot_tile_um / mpp
    spots = pseudo_spots(width, height, mpp=mpp, geometry=GRID)
    assert spots.shape == (int((width + 1e-6) // side) * int((height + 1e-6) // side), 2)
    tiles = square_tiles(*spots.T, side)
    assert (tiles[:, :2] > -1e-6).all()
    assert (tiles[:, :2] + side < [width + 1e-3, height + 1e-3]).all()
    for axis in (0, 1):
        assert np.allclose(np.diff(np.unique(tiles[:, axis].round(6))), side, atol=1e-3)


@given(lengths, lengths, mpps)
def test_hexagonal_spots_are_one_pitch_apart_and_lie_whole_on_the_slide(width, height, mpp):
    spots = pseudo_spots(width, height, mpp=mpp, geometry=HEX)
    half, pitch = HEX.spot_tile_um / mpp / 2, HEX.pitch_um / mpp
    assert (spots > half - 1e-6).all()
    assert (spots < np.array([width, height]) - half + 1e-3).all()
    assume(len(spots) > 1)
    apart = np.linalg.norm(spots[:, None] - spots[None], axis=-1) + np.diag(np.full(len(spots), np.inf))
    assert apart.min() > pitch - 1e-3
    assert np.isclose(apart.min(), pitch) or height - 2 * half < pitch * np.sqrt(3) / 2 or width - 2 * half < pitch


def test_the_paper_cuts_tiles_one_point_four_times_the_disc():
    assert pseudo_spots(448, 224, mpp=0.5, geometry=Geometry(spot_um=80.0)).tolist() == [[112, 112], [336, 112]]


def test_a_slide_smaller_than_a_tile_has_no_pseudo_spot():
    assert pseudo_spots(50, 5000, mpp=1.0, geometry=GRID).shape == (0, 2)
    assert pseudo_spots(5000, 50, mpp=1.0, geometry=GRID).shape == (0, 2)


def test_pseudo_cells_cover_the_tissue_and_nothing_else():
    tissue = np.zeros((10, 20), bool)
    tissue[2:6, 4:12] = True  # 16 px per pixel: x from 64 to 192, y from 32 to 96
    cells = pseudo_cells(TissueMask(tissue, 16.0), mpp=0.5, side_um=8.0)
    assert len(cells) == 8 * 4
    assert shapely.union_all(cells).equals(shapely.box(64, 32, 192, 96))
    assert np.allclose(shapely.area(cells), 16.0**2)
    assert len(pseudo_cells(TissueMask(np.zeros((10, 20), bool), 16.0), mpp=0.5, side_um=8.0)) == 0


def test_a_mask_is_false_outside_its_thumbnail():
    mask = np.array([[True, False], [False, True]])
    x, y = np.array([0, 9.9, 10, 19.9, -0.1, 20]), np.array([0, 9.9, 9, 19.9, 5, 15])
    assert TissueMask(mask, 10.0).at(x, y).tolist() == [
        True, True, False, True, False, False,
    ]  # fmt: skip


# Tiles


@given(seeds, mpps, st.floats(0, 50))
def test_a_cell_tile_is_the_smallest_square_that_holds_the_cell_and_the_least_side(seed, mpp, smallest_um):
    outline = blobs(np.random.default_rng(seed), 20, 300)
    for (x, y, side), (x0, y0, x1, y1) in zip(
        cell_tiles(outline, mpp, smallest_um), shapely.bounds(outline), strict=True
    ):
        assert x <= x0 + 1e-9
        assert y <= y0 + 1e-9
        assert x + side >= x1 - 1e-9
        assert y + side >= y1 - 1e-9
        assert np.isclose(side, max(x1 - x0, y1 - y0, smallest_um / mpp, 1))
        assert np.allclose([x + side / 2, y + side / 2], [(x0 + x1) / 2, (y0 + y1) / 2])


def test_a_cell_at_the_border_keeps_its_tile():
    assert cell_tiles(np.array([shapely.box(0, 0, 10, 4)]), 1.0, 0.0).tolist() == [[0, -3, 10]]


def test_a_point_has_a_tile_of_the_least_side():
    assert cell_tiles(shapely.points([[30.0, 40.0]]), 0.5, 10.0).tolist() == [[20, 30, 20]]
    assert cell_tiles(shapely.points([[30.0, 40.0]]), 0.5, 0.0).tolist() == [[29.5, 39.5, 1]]


@given(st.lists(st.tuples(*[st.floats(-5000, 5000)] * 2, st.floats(0.01, 500)), min_size=1))
def test_pixel_boxes_are_whole_squares_around_the_same_centre(tiles):
    tiles = np.array(tiles)
    boxes = pixel_boxes(tiles)
    assert boxes.dtype == np.int64
    assert (boxes[:, 2] == np.maximum(np.rint(tiles[:, 2]), 1)).all()
    moved = (boxes[:, :2] + boxes[:, 2:] / 2) - (tiles[:, :2] + tiles[:, 2:] / 2)
    assert np.abs(moved).max() <= 0.5 + 1e-6
    assert (pixel_boxes(boxes.astype(float)) == boxes).all()


# Membership and context


@pytest.mark.parametrize("layout", ["grid", "hex"])
@given(seed=seeds, mpp=mpps)
def test_members_by_centroid_and_by_margin_equal_a_loop_over_pairs(layout, seed, mpp):
    spots = pseudo_spots(300, 260, mpp=mpp, geometry=Geometry(layout=layout, spot_um=40.0, pitch_um=70.0))
    outline = blobs(np.random.default_rng(seed), 30, 300)
    for rule, radius in (("centroid", 20.0), ("margin", 20.0 - 7.5)):
        geometry = Geometry(layout=layout, spot_um=40.0, pitch_um=70.0, membership=rule, margin_um=7.5)
        expected = []
        for cell in outline:
            distance = [shapely.Point(spot).distance(cell.centroid) for spot in spots]
            assume(not np.isclose(distance, radius / mpp).any())
            near = [i for i, d in enumerate(distance) if d < radius / mpp]
            assert len(near) <= 1  # discs of one layout do not overlap
            expected.append(near[0] if near else -1)
        member = member_of(outline, spots, mpp=mpp, geometry=geometry)
        assert member.dtype == np.int32
        assert member.tolist() == expected


@given(seed=seeds, least=st.floats(0.1, 1.0))
def test_members_by_overlap_equal_areas_of_polygons_in_discs(seed, least):
    generator = np.random.default_rng(seed)
    spots, outline = pseudo_spots(200, 200, mpp=0.8, geometry=GRID), blobs(generator, 12, 200)
    discs = [shapely.Point(spot).buffer(25.0, quad_segs=128) for spot in spots]
    member = member_of(outline, spots, mpp=0.8, geometry=Geometry(spot_um=40.0, membership="overlap", overlap=least))
    for cell, got in zip(outline, member, strict=True):
        share = np.array([cell.intersection(disc).area / cell.area for disc in discs])
        assume((np.abs(share - least) > 2e-3).all())  # a disc is a polygon of 128 corners
        assert got == (share.argmax() if share.max() > least else -1)


def test_where_discs_overlap_a_cell_belongs_to_the_one_that_holds_more_of_it():
    spots = np.array([[0.0, 0.0], [30.0, 0.0], [60.0, 0.0]])
    cells = shapely.box([8, 12, 38], -3, [18, 22, 48], 3)
    for rule in ("overlap", "centroid"):
        assert member_of(cells, spots, mpp=1.0, geometry=Geometry(spot_um=40.0, membership=rule)).tolist() == [0, 1, 1]


def test_the_margin_is_inside_the_disc_in_microns():
    cells = shapely.points([[0.0, 0.0], [34.0, 0.0], [36.0, 0.0], [54.0, 0.0]])  # at 0.5 um: 17, 18 and 27 um
    spot = np.zeros((1, 2))
    assert member_of(cells, spot, mpp=0.5, geometry=Geometry()).tolist() == [0, 0, -1, -1]  # 27.5 - 10 um
    assert member_of(cells, spot, mpp=0.5, geometry=Geometry(membership="centroid")).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("rule", ["margin", "overlap", "centroid"])
def test_without_spots_or_cells_there_are_no_members(rule):
    geometry = Geometry(membership=rule)
    assert member_of(shapely.points([[1.0, 1.0]]), np.empty((0, 2)), mpp=0.5, geometry=geometry).tolist() == [-1]
    assert member_of(np.empty(0, object), np.zeros((1, 2)), mpp=0.5, geometry=geometry).shape == (0,)


@pytest.mark.parametrize(("layout", "side"), [("grid", 100.0), ("hex", 77.0)])
@given(seed=seeds)
def test_an_outside_cell_sees_the_tile_that_holds_it_else_the_nearest_spot(layout, side, seed):
    generator = np.random.default_rng(seed)
    spots = array(layout, 4, 3)[generator.permutation(12)[:9]]
    cells = generator.uniform(-150, 500, (40, 2))
    member = np.where(generator.random(40) < 0.3, generator.integers(0, 9, 40), -1).astype(np.int32)
    expected = []
    for cell, own in zip(cells, member, strict=True):
        holds = np.flatnonzero((np.abs(spots - cell) <= side / 2).all(1))
        assert len(holds) <= 1
        nearest = np.linalg.norm(spots - cell, axis=1).argmin()
        expected.append(own if own >= 0 else holds[0] if len(holds) else nearest)
    context = context_of(cells, member, spots, side)
    assert context.dtype == np.int32
    assert context.tolist() == expected


def test_the_tile_that_holds_a_cell_beats_a_nearer_spot():
    spots = np.array([[0.0, 0.0], [60.0, 100.0]])
    cell = np.array([[45.0, 45.0]])  # in a corner of the first tile, 64 px from its centre, 57 px from the other's
    assert context_of(cell, np.array([-1]), spots, 100.0).tolist() == [0]
    assert context_of(cell, np.array([-1]), spots, 80.0).tolist() == [1]


def test_without_spots_a_cell_has_no_context():
    assert context_of(np.zeros((3, 2)), np.full(3, -1), np.empty((0, 2)), 100.0).tolist() == [-1, -1, -1]


def test_centroids_are_of_the_area_not_of_the_corners():
    triangle = shapely.polygons([[0, 0], [6, 0], [0, 3]])
    assert centroids(np.array([triangle])).tolist() == [[2, 1]]


# The array of spots and its neighbours


@pytest.mark.parametrize("layout", ["grid", "hex"])
@given(seed=seeds, columns=st.integers(3, 12), rows=st.integers(3, 12), pitch=st.floats(20, 400))
def test_the_array_is_recognised_through_jitter_order_and_gaps(layout, seed, columns, rows, pitch):
    generator = np.random.default_rng(seed)
    assume(layout == "grid" or columns * rows > 14)  # of fewer, three in four have at most four others around
    spots = array(layout, columns, rows, pitch) + generator.uniform(-0.04, 0.04, (columns * rows, 2)) * pitch
    spots = spots[generator.permutation(len(spots))]
    if min(columns, rows) > 6:
        spots = spots[len(spots) // 20 :]
    lattice = lattice_of(spots)
    assert lattice.layout == layout
    assert lattice.pitch_px == pytest.approx(pitch, rel=0.12)


def test_two_spots_are_too_few_to_be_hexagonal_and_one_has_no_pitch():
    assert lattice_of(np.array([[0.0, 0.0], [30.0, 40.0]])) == Lattice("grid", 50.0)
    assert lattice_of(np.zeros((1, 2))) == Lattice("grid", float("inf"))


@pytest.mark.parametrize(("layout", "k", "reach"), [("grid", 8, np.sqrt(2)), ("hex", 6, 1.0)])
@given(seed=seeds, columns=st.integers(1, 8), rows=st.integers(1, 8), kept=st.floats(0.5, 1))
def test_neighbours_equal_a_loop_over_pairs(layout, k, reach, seed, columns, rows, kept):
    generator = np.random.default_rng(seed)
    spots = array(layout, columns, rows)
    spots = spots[generator.permutation(len(spots))[: max(1, int(kept * len(spots)))]]
    neighbours = neighbours_of(spots, Lattice(layout, 100.0))
    assert neighbours.shape == (len(spots), k)
    assert neighbours.dtype == np.int32
    for i, around in enumerate(neighbours):
        distance = np.linalg.norm(spots - spots[i], axis=1)
        expected = set(np.flatnonzero((distance > 0) & (distance < reach * 100 + 1)))
        assert set(around[around >= 0]) == expected
        assert (around[len(expected) :] == -1).all()  # those that are missing come last
        assert (np.diff(distance[around[: len(expected)]]) > -1e-6).all()  # nearest first
        for j in expected:
            assert i in neighbours[j]


@pytest.mark.parametrize(("layout", "whole", "corner"), [("grid", 8, 3), ("hex", 6, 2)])
def test_an_interior_spot_has_them_all_and_a_corner_few(layout, whole, corner):
    spots = array(layout, 9, 7)
    count = (neighbours_of(spots, Lattice(layout, 100.0)) >= 0).sum(1).reshape(7, 9)
    assert (count[1:-1, 1:-1] == whole).all()
    assert count[0, 0] == corner
    assert (count[0] < whole).all()


def test_a_lone_spot_has_no_neighbours():
    assert neighbours_of(np.zeros((1, 2)), Lattice("hex", 100.0)).tolist() == [[-1] * 6]
    assert neighbours_of(np.empty((0, 2)), Lattice("grid", 100.0)).shape == (0, 8)
    far = neighbours_of(np.array([[0.0, 0.0], [500.0, 0.0]]), Lattice("grid", 100.0))
    assert (far == -1).all()


# Do coordinates fit the tissue?


def test_the_right_reading_of_coordinates_fits_the_tissue_best():
    mpp, scale = 0.5, 8.0
    mask = np.zeros((200, 300), bool)  # a slide of 2400 x 1600 px
    mask[110:190, 20:120] = True
    tissue = TissueMask(mask, scale)
    generator = np.random.default_rng(0)
    x, y = generator.uniform(160, 960, 4000), generator.uniform(880, 1520, 4000)
    fit = {
        "as given": tissue.jaccard(x, y, bin_px=80.0),
        "swapped": tissue.jaccard(y, x, bin_px=80.0),
        "microns": tissue.jaccard(x * mpp, y * mpp, bin_px=80.0),
        "microns, swapped": tissue.jaccard(y * mpp, x * mpp, bin_px=80.0),
    }
    assert fit["as given"] == 1
    assert max(value for name, value in fit.items() if name != "as given") < 0.3


def test_the_fit_is_the_share_of_squares_in_both():
    mask = np.array([[1, 1, 0, 0]], bool)  # squares of one thumbnail pixel, 10 px wide
    tissue, y = TissueMask(mask, 10.0), np.full(3, 5.0)
    assert tissue.jaccard(np.array([5.0, 15, 16]), y, bin_px=10.0) == 1
    assert tissue.jaccard(np.array([15.0, 25, 16]), y, bin_px=10.0) == pytest.approx(1 / 3)
    assert tissue.jaccard(np.array([15.0, 95, -5]), y, bin_px=10.0) == pytest.approx(1 / 4)
    assert tissue.jaccard(np.empty(0), np.empty(0), bin_px=10.0) == 0
    assert TissueMask(~mask & mask, 10.0).jaccard(np.empty(0), np.empty(0), bin_px=10.0) == 0


# Spots to stop early on


@pytest.mark.parametrize("layout", ["grid", "hex"])
@given(seed=st.integers(0, 1000), columns=st.integers(5, 25), rows=st.integers(5, 25))
def test_held_out_spots_are_a_fifth_and_touch_no_training_spot(layout, seed, columns, rows):
    spots = array(layout, columns, rows)
    neighbours = neighbours_of(spots, Lattice(layout, 100.0))
    learn, stop = hold_out_blocks(spots, neighbours=neighbours, seed=seed, usable=np.ones(len(spots), bool))
    assert not set(learn) & set(stop)
    assert len(stop) == pytest.approx(len(spots) / 10, abs=2)
    assert not set(neighbours[learn].ravel()) & set(stop)
    assert not set(neighbours[stop].ravel()) & set(learn)
    again = hold_out_blocks(spots, neighbours=neighbours, seed=seed, usable=np.ones(len(spots), bool))
    assert (again[0] == learn).all()
    assert (again[1] == stop).all()


@given(seed=st.integers(0, 1000), n=st.integers(2, 19))
def test_even_a_few_spots_leave_some_on_either_side(seed, n):
    spots = np.column_stack([np.zeros(n), np.arange(n) * 1000.0])
    learn, stop = hold_out_blocks(spots, neighbours=np.full((n, 8), -1, np.int32), seed=seed, usable=np.ones(n, bool))
    assert len(stop) == 1
    assert sorted([*learn, *stop]) == list(range(n))


def test_the_slabs_cut_the_longer_axis():
    spots = array("grid", 3, 40)
    beside = neighbours_of(spots, Lattice("grid", 100.0))
    _, stop = hold_out_blocks(spots, neighbours=beside, seed=0, usable=np.ones(len(spots), bool))
    assert len(np.unique(spots[stop, 1])) == 4
    assert len(stop) == 12


@pytest.mark.parametrize("seed", range(5))
def test_spots_beside_the_tissue_are_not_what_training_stops_on(seed):
    x = np.arange(400.0)
    spots, usable = np.column_stack([x, np.zeros(400)]), (x >= 160) & (x < 280)  # an array far wider than its tissue
    learn, stop = hold_out_blocks(spots, neighbours=np.full((400, 8), -1, np.int32), seed=seed, usable=usable)
    assert usable[stop].all()
    assert len(stop) == 40
    assert usable[learn].sum() == 80
