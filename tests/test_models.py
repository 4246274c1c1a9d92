"""The models against explicit loops, and the additivity that the design is about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ds2c_cli.models import MODELS
from ds2c_cli.models.bag import Bag
from ds2c_cli.models.baselines import area_split, even_split
from ds2c_cli.predict import share_out

D, G = 5, 7


@pytest.fixture(params=[name for name, model in MODELS.items() if model.features == "tiles"])
def name(request):
    return request.param


def model_of(name):
    torch.manual_seed(0)
    return MODELS[name](D, G, 16, 0.3).eval()


@pytest.fixture
def bag():
    """Three spots with 3, 0 and 2 members, one more cell in each, and neighbours missing here and there."""
    generator = torch.Generator().manual_seed(1)
    spot_of = torch.tensor([0, 0, 1, 2, 0, 2, 2, 0])
    inside = torch.tensor([True, True, False, True, True, True, False, False])
    return Bag(
        cells=torch.randn(8, D, generator=generator),
        area=torch.rand(8, generator=generator) + 0.5,
        spot_of=spot_of,
        inside=inside,
        tiles=torch.randn(5, D, generator=generator),
        own=torch.tensor([0, 1, 2]),
        around=torch.tensor([[1, 3, -1], [-1, -1, -1], [4, 0, 1]]),
    )


def hidden(model, bag, cell):
    """h_j as the paper writes it, one cell at a time."""
    spot = bag.spot_of[cell]
    present = [row for row in bag.around[spot].tolist() if row >= 0]
    around = torch.stack([model.phi_spot(bag.tiles[row]) for row in present]).mean(0) if present else torch.zeros(16)
    return torch.cat([model.phi_cell(bag.cells[cell]), model.phi_spot(bag.tiles[bag.own[spot]]), around])


@pytest.mark.parametrize("deep", ["paper", "additive"])
def test_reading_cells_is_rho_of_the_concatenated_vector(deep, bag):
    model = model_of(deep)
    expected = torch.stack([model.rho(hidden(model, bag, cell)) for cell in range(8)])
    assert torch.allclose(model.read_cells(bag), expected, atol=1e-5)


def test_the_papers_spot_is_rho_of_the_sum_over_its_members(bag):
    model = model_of("paper")
    spots = []
    for spot in range(3):
        members = [cell for cell in range(8) if bag.spot_of[cell] == spot and bag.inside[cell]]
        total = sum((hidden(model, bag, cell) for cell in members), torch.zeros(48))
        spots.append(F.softplus(model.rho(total)))
    assert torch.allclose(model.spot(bag), torch.stack(spots), atol=1e-5)


def ablated(deep, **options):
    torch.manual_seed(0)
    return MODELS[deep](D, G, 16, 0.3, **options).eval()


@pytest.mark.parametrize("deep", ["paper", "additive"])
@pytest.mark.parametrize(("context", "parts"), [("cell", 1), ("spot", 2), ("neighbours", 3)])
def test_a_context_ablation_reads_only_its_part_of_the_vector(deep, context, parts, bag):
    model = ablated(deep, context=context)
    if parts == 1:
        model.phi_spot = torch.nn.Identity()  # `hidden` computes the whole vector
        bag = replace(bag, tiles=torch.zeros(5, 16))
    expected = torch.stack([model.rho(hidden(model, bag, cell)[: parts * 16]) for cell in range(8)])
    assert torch.allclose(model.read_cells(bag), expected, atol=1e-5)
    other = replace(bag, tiles=bag.tiles + 1)
    assert torch.equal(model.spot(bag), model.spot(other)) == (context == "cell")


def test_mean_pooling_is_rho_of_the_mean_and_gru_pooling_its_last_state(bag):
    model, recurrent = ablated("paper", pooling="mean"), ablated("paper", pooling="gru")
    means, states = [], []
    for spot in range(3):
        members = [cell for cell in range(8) if bag.spot_of[cell] == spot and bag.inside[cell]]
        total = sum((hidden(model, bag, cell) for cell in members), torch.zeros(48))
        means.append(F.softplus(model.rho(total / max(len(members), 1))))
        state = torch.zeros(1, 1, 16)
        for cell in members:
            _, state = recurrent.gru(hidden(recurrent, bag, cell)[None, None], state)
        states.append(F.softplus(recurrent.rho(state[0, 0])))
    assert torch.allclose(model.spot(bag), torch.stack(means), atol=1e-5)
    assert torch.allclose(recurrent.spot(bag), torch.stack(states), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "gru"])
def test_a_cell_is_read_off_as_a_spot_of_itself_alone(pooling, bag):
    model = ablated("paper", pooling=pooling)
    alone = replace(bag, inside=torch.arange(8) == 3)
    assert torch.allclose(torch.log1p(model.cell(bag)[3]), model.spot(alone)[2], atol=1e-5)


def test_additive_cells_add_up_to_their_spot(bag):
    model = model_of("additive")
    model.typical_total.fill_(3.0)
    cells, spots = model.cell(bag), torch.expm1(model.spot(bag))
    for spot in (0, 2):
        members = (bag.spot_of == spot) & bag.inside
        assert torch.allclose(cells[members].sum(0), spots[spot], rtol=1e-4)
        assert spots[spot].sum().item() == pytest.approx(1e4, rel=1e-4)
    assert torch.isfinite(cells).all()  # the spot without members has a typical total


def test_additive_rates_scale_with_the_area(bag):
    model = model_of("additive")
    assert torch.allclose(model.rates(replace(bag, area=2 * bag.area)), 2 * model.rates(bag))


def test_outside_cells_do_not_change_the_spot(name, bag):
    model = model_of(name)
    moved = bag.cells.clone()
    moved[~bag.inside] += 10
    assert torch.equal(model.spot(replace(bag, cells=moved)), model.spot(bag))


def test_a_missing_neighbour_is_masked_not_zero_filled(name, bag):
    model = model_of(name)
    wider = torch.cat([bag.around, torch.full((3, 2), -1)], 1)
    assert torch.allclose(model.spot(replace(bag, around=wider)), model.spot(bag))


def test_the_order_of_cells_does_not_matter(name, bag):
    model = model_of(name)
    order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    turned = replace(
        bag, cells=bag.cells[order], area=bag.area[order], spot_of=bag.spot_of[order], inside=bag.inside[order]
    )
    assert torch.allclose(model.spot(turned), model.spot(bag), atol=1e-5)
    assert torch.allclose(model.cell(turned), model.cell(bag)[order], rtol=1e-4, atol=1e-5)


def test_outputs_are_not_negative_and_gradients_finite(name, bag):
    model = model_of(name).train()
    loss = model.spot(bag).pow(2).mean() + model.cell(bag).mean()
    loss.backward()
    assert (model.spot(bag) >= 0).all()
    assert (model.cell(bag) >= 0).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_gene_starts_at_its_mean(name, bag):
    """With all weights zero the last bias alone speaks."""
    model = model_of(name)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    profile = torch.tensor([10.0, 20, 70, 100, 300, 500, 9000])
    model.start_at(torch.log1p(profile), 2.5)
    same = replace(bag, area=torch.ones(8))
    assert torch.allclose(torch.expm1(model.spot(same))[0], profile, rtol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 5))
def test_shared_out_counts_add_up_to_the_spot(seed, n_cells, n_spots):
    random = np.random.default_rng(seed)
    spot_of = torch.from_numpy(random.integers(0, n_spots, n_cells))
    share = torch.from_numpy(random.exponential(size=(n_cells, G)) * random.integers(0, 2, (n_cells, G)))
    counts = torch.from_numpy(random.poisson(5, (n_spots, G)).astype(float))
    shared = share_out(share, spot_of, counts)
    total = torch.zeros_like(counts).index_add_(0, spot_of, shared)
    occupied = torch.bincount(spot_of, minlength=n_spots) > 0
    assert torch.allclose(total[occupied], counts[occupied])
    assert (shared >= 0).all()


def test_where_all_rates_are_zero_the_spot_is_shared_out_evenly():
    shared = share_out(torch.zeros(4, 1), torch.tensor([0, 0, 0, 1]), torch.tensor([[9.0], [5.0]]))
    assert shared.ravel().tolist() == [3, 3, 3, 5]


@pytest.mark.parametrize("split", [even_split, area_split])
def test_splits_add_up_to_the_spot(split):
    spots = sparse.csr_matrix(np.array([[4, 6, 0], [1, 0, 9]]))
    spot_of, area = np.array([0, 0, 1, 0]), np.array([1.0, 2, 5, 7])
    share = np.expm1(split(spots, np.array([10, 10]), spot_of, np.ones(4, bool), area))
    total = np.zeros((2, 3))
    np.add.at(total, spot_of, share)
    assert np.allclose(total, spots.toarray() * 1000, rtol=1e-4)
