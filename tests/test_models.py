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
from scipy.special import gammaln
from scipy.stats import nbinom, poisson

from ds2c_cli.evaluation.baselines import area_split, even_split
from ds2c_cli.models import MODELS, count_likelihood
from ds2c_cli.models.base import SpotLabels, SpotModel
from ds2c_cli.models.batch import SpotBatch
from ds2c_cli.models.count_likelihood import expected_log, log_negative_binomial, predictive_sd
from ds2c_cli.prediction.deconvolve import share_out

D, G = 5, 7


@pytest.fixture(params=[name for name, model in MODELS.items() if model.features == "tiles"])
def name(request):
    return request.param


def model_of(name):
    torch.manual_seed(0)
    return MODELS[name](D, G, hidden=16, dropout=0.3).eval()


@pytest.fixture
def batch():
    """Three spots with 3, 0 and 2 members, one more cell in each, and neighbours missing here and there."""
    generator = torch.Generator().manual_seed(1)
    spot_of = torch.tensor([0, 0, 1, 2, 0, 2, 2, 0])
    inside = torch.tensor([True, True, False, True, True, True, False, False])
    return SpotBatch(
        cells=torch.randn(8, D, generator=generator),
        area=torch.rand(8, generator=generator) + 0.5,
        spot_of=spot_of,
        inside=inside,
        tiles=torch.randn(5, D, generator=generator),
        own=torch.tensor([0, 1, 2]),
        around=torch.tensor([[1, 3, -1], [-1, -1, -1], [4, 0, 1]]),
    )


def hidden(model, batch, cell):
    """h_j as the paper writes it, one cell at a time."""
    spot = batch.spot_of[cell]
    present = [row for row in batch.around[spot].tolist() if row >= 0]
    around = torch.stack([model.phi_spot(batch.tiles[row]) for row in present]).mean(0) if present else torch.zeros(16)
    return torch.cat([model.phi_cell(batch.cells[cell]), model.phi_spot(batch.tiles[batch.own[spot]]), around])


def test_a_model_that_implements_nothing_cannot_be_made():
    class Nothing(SpotModel):
        pass

    with pytest.raises(TypeError, match=r"abstract.*cell.*spot.*start_at"):
        Nothing()


@pytest.mark.parametrize("deep", ["paper", "additive"])
def test_reading_cells_is_rho_of_the_concatenated_vector(deep, batch):
    model = model_of(deep)
    for network in model.networks if deep == "additive" else [model]:
        expected = torch.stack([network.rho(hidden(network, batch, cell)) for cell in range(8)])
        assert torch.allclose(network.read_cells(batch), expected, atol=1e-5)


def test_the_papers_spot_is_rho_of_the_sum_over_its_members(batch):
    model = model_of("paper")
    spots = []
    for spot in range(3):
        members = [cell for cell in range(8) if batch.spot_of[cell] == spot and batch.inside[cell]]
        total = sum((hidden(model, batch, cell) for cell in members), torch.zeros(48))
        spots.append(F.softplus(model.rho(total)))
    assert torch.allclose(model.spot(batch), torch.stack(spots), atol=1e-5)


def ablated(deep, **options):
    torch.manual_seed(0)
    return MODELS[deep](D, G, hidden=16, dropout=0.3, **options).eval()


@pytest.mark.parametrize("deep", ["paper", "additive"])
@pytest.mark.parametrize(("context", "parts"), [("cell", 1), ("spot", 2), ("neighbours", 3)])
def test_a_context_ablation_reads_only_its_part_of_the_vector(deep, context, parts, batch):
    model = ablated(deep, context=context)
    if parts == 1:
        batch = replace(batch, tiles=torch.zeros(5, 16))
    for network in model.networks if deep == "additive" else [model]:
        if parts == 1:
            network.phi_spot = torch.nn.Identity()  # `hidden` computes the whole vector
        expected = torch.stack([network.rho(hidden(network, batch, cell)[: parts * 16]) for cell in range(8)])
        assert torch.allclose(network.read_cells(batch), expected, atol=1e-5)
    other = replace(batch, tiles=batch.tiles + 1)
    assert torch.equal(model.spot(batch), model.spot(other)) == (context == "cell")


def test_mean_pooling_is_rho_of_the_mean_and_gru_pooling_its_last_state(batch):
    model, recurrent = ablated("paper", pooling="mean"), ablated("paper", pooling="gru")
    means, states = [], []
    for spot in range(3):
        members = [cell for cell in range(8) if batch.spot_of[cell] == spot and batch.inside[cell]]
        total = sum((hidden(model, batch, cell) for cell in members), torch.zeros(48))
        means.append(F.softplus(model.rho(total / max(len(members), 1))))
        state = torch.zeros(1, 1, 16)
        for cell in members:
            _, state = recurrent.gru(hidden(recurrent, batch, cell)[None, None], state)
        states.append(F.softplus(recurrent.rho(state[0, 0])))
    assert torch.allclose(model.spot(batch), torch.stack(means), atol=1e-5)
    assert torch.allclose(recurrent.spot(batch), torch.stack(states), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "gru"])
def test_a_cell_is_read_off_as_a_spot_of_itself_alone(pooling, batch):
    model = ablated("paper", pooling=pooling)
    alone = replace(batch, inside=torch.arange(8) == 3)
    assert torch.allclose(torch.log1p(model.cell(batch)[3]), model.spot(alone)[2], atol=1e-5)


def test_additive_cells_add_up_to_their_spot(batch):
    model = model_of("additive")
    model.typical_total.fill_(3.0)
    rates, cells = model.rates(batch), model.cell(batch)
    spots = model.totals(rates, batch)
    for spot in (0, 2):
        members = (batch.spot_of == spot) & batch.inside
        assert torch.allclose(rates[members].sum(0), spots[spot], rtol=1e-4)
        assert torch.allclose(cells[members].sum(0), 1e4 * spots[spot] / spots[spot].sum(), rtol=1e-4)
    assert torch.isfinite(cells).all()  # the spot without members has a typical total


def test_additive_rates_scale_with_the_area(batch):
    model = model_of("additive")
    assert torch.allclose(model.rates(replace(batch, area=2 * batch.area)), 2 * model.rates(batch))


def test_outside_cells_do_not_change_the_spot(name, batch):
    model = model_of(name)
    moved = batch.cells.clone()
    moved[~batch.inside] += 10
    assert torch.equal(model.spot(replace(batch, cells=moved)), model.spot(batch))


def test_a_missing_neighbour_is_masked_not_zero_filled(name, batch):
    model = model_of(name)
    wider = torch.cat([batch.around, torch.full((3, 2), -1)], 1)
    assert torch.allclose(model.spot(replace(batch, around=wider)), model.spot(batch))


def test_the_order_of_cells_does_not_matter(name, batch):
    model = model_of(name)
    order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    turned = replace(
        batch,
        cells=batch.cells[order],
        area=batch.area[order],
        spot_of=batch.spot_of[order],
        inside=batch.inside[order],
    )
    assert torch.allclose(model.spot(turned), model.spot(batch), atol=1e-5)
    assert torch.allclose(model.cell(turned), model.cell(batch)[order], rtol=1e-4, atol=1e-5)


def test_outputs_are_not_negative_and_gradients_finite(name, batch):
    model = model_of(name).train()
    measured = measured_at(500.0)
    if name == "cell-supervised":
        measured = measured.at(batch.spot_of)  # of its cells
    loss = model.spot(batch).pow(2).mean() + model.cell(batch).mean() + model.loss(batch, measured)
    loss.backward()
    assert (model.spot(batch) >= 0).all()
    assert (model.cell(batch) >= 0).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_gene_starts_at_its_mean(name, batch):
    """With all weights zero the last bias alone speaks; two samples of unlike depth say the same."""
    model = model_of(name)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    profile = torch.tensor([10.0, 20, 70, 100, 300, 500, 9000])
    totals = torch.tensor([[1e6], [2e6]])
    model.start_at(SpotLabels(profile * totals / 1e4, totals, totals), 2.5)
    same = replace(batch, area=torch.ones(8))
    assert torch.allclose(torch.expm1(model.spot(same))[0], profile, rtol=5e-3)


@pytest.mark.parametrize("total", [80.0, 660.0, 20_000.0])
def test_the_expected_log_is_the_sum_over_poisson_counts(total):
    means = np.array([0.0, 1e-4, 0.03, 0.5, 2.0, 9.0, 60.0])
    counts = np.arange(1000)
    brute = [(poisson.pmf(counts, mean) * np.log1p(1e4 * counts / total)).sum() for mean in means]
    found = expected_log(torch.tensor(means, dtype=torch.float32)[None], total=torch.tensor([[total]]))[0]
    np.testing.assert_allclose(found.numpy(), brute, rtol=1e-3, atol=1e-6)


def test_the_expected_log_of_many_counts_is_the_log_of_their_mean():
    found = expected_log(torch.tensor([[4e5, 6e5]]), total=torch.tensor([[1e6]]))
    np.testing.assert_allclose(found.numpy(), np.log1p([[4e3, 6e3]]), rtol=1e-3)


@pytest.mark.parametrize("total", [80.0, 660.0, 20_000.0])
def test_the_predictive_sd_is_that_of_negative_binomial_counts(total):
    means = np.array([1e-4, 0.03, 0.5, 2.0, 9.0, 60.0, 64.0, 110.0, 110.0, 150.0, 1000.0, 3000.0])
    size = np.array([0.5, 3.0, 20.0, 1.0, 3.0, 3.0, 1000.0, 3000.0, 0.1, 200.0, 30.0, 3.0])
    counts = np.arange(40_000)
    log = np.log1p(1e4 * counts / total)
    chance = nbinom.pmf(counts, size[:, None], (size / (size + means))[:, None])
    brute = np.sqrt((chance * log**2).sum(1) - (chance * log).sum(1) ** 2)
    mean, of_gene = (torch.from_numpy(values.astype(np.float32)) for values in (means, size))
    found = predictive_sd(torch.stack([mean, mean / 2]), total=torch.full((2, 1), total), inverse_dispersion=of_gene)
    np.testing.assert_allclose(found[0].numpy(), brute, rtol=2e-2)


def test_the_likelihood_is_scipys():
    random = np.random.default_rng(0)
    counts, mean, size = random.poisson(5, (20, 3)), random.uniform(0.01, 30, (20, 3)), random.uniform(0.1, 50, 3)
    k, m, n = (torch.from_numpy(np.asarray(x, float)) for x in (counts, mean, size))
    found = log_negative_binomial(k, mean=m, inverse_dispersion=n)
    np.testing.assert_allclose(found.numpy(), nbinom.logpmf(counts, size, size / (size + mean)), rtol=1e-9)


def measured_at(depth):
    generator = torch.Generator().manual_seed(2)
    share = torch.rand(3, G, generator=generator)
    total = depth * torch.tensor([[1.5], [0.5], [1.0]])
    return SpotLabels(total * share / share.sum(1, keepdim=True), total, torch.full((3, 1), depth))


def test_the_additive_loss_is_the_likelihood_of_the_members_sum(batch):
    model, measured = model_of("additive"), measured_at(800.0)
    counts = measured.counts.numpy()
    rates = model.rates(batch).detach().numpy()
    mean = np.stack([800 * rates[(batch.spot_of.numpy() == s) & batch.inside.numpy()].sum(0) for s in (0, 2)])
    size = model.log_inverse_dispersion.exp().detach().numpy()
    filled = measured.at(torch.tensor([0, 2]))
    kept = replace(batch, own=batch.own[[0, 2]], around=batch.around[[0, 2]], spot_of=batch.spot_of.clamp(max=1))
    chosen = batch.spot_of != 1
    kept = replace(
        kept, cells=batch.cells[chosen], area=batch.area[chosen], inside=batch.inside[chosen],
        spot_of=batch.spot_of[chosen].clamp(max=1),
    )  # fmt: skip
    both = np.log(mean + size)
    expected = gammaln(counts[[0, 2]] + size) - gammaln(size) - gammaln(counts[[0, 2]] + 1)
    expected += size * (np.log(size) - both) + counts[[0, 2]] * (np.log(mean) - both)
    assert model.loss(kept, filled).item() == pytest.approx(-expected.mean(), rel=1e-4)


def test_the_ceiling_is_the_additive_model_of_spots_of_one_cell(batch):
    """The same weights have the same loss, whether cells are spots of their own or the ceiling's cells."""
    spots, ceiling = model_of("additive"), model_of("cell-supervised")
    ceiling.load_state_dict(spots.state_dict())
    measured = measured_at(40.0).at(batch.spot_of)
    alone = replace(
        batch, spot_of=torch.arange(8), inside=torch.ones(8, dtype=torch.bool), own=batch.own[batch.spot_of],
        around=batch.around[batch.spot_of],
    )  # fmt: skip
    assert ceiling.loss(batch, measured).item() == pytest.approx(spots.loss(alone, measured).item(), rel=1e-5)


def test_rates_are_the_mean_of_networks_that_learn_one_by_one(batch):
    model, measured = model_of("additive"), measured_at(50.0)
    of_networks = torch.stack(list(model.rates_by_network(batch)))
    assert not torch.allclose(of_networks[0], of_networks[1])
    assert torch.allclose(model.rates(batch), of_networks.mean(0))
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses = []
    for rates in of_networks:
        mean = (50 * model.totals(rates, batch)).clamp(min=1e-7)
        chance = log_negative_binomial(
            measured.counts, mean=mean, inverse_dispersion=model.log_inverse_dispersion.exp()
        )
        losses.append(-chance.mean())
    assert model.loss(batch, measured).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_what_is_read_is_what_cell_and_spot_say(name, batch):
    model = model_of(name)
    if name not in ("paper", "mlp"):
        model.depth.fill_(300.0)
    read = model.read(batch)
    assert torch.allclose(read.share, model.cell(batch))
    assert torch.allclose(read.spot_log[[0, 2]], model.spot(batch)[[0, 2]], atol=1e-5)
    if name in ("paper", "mlp"):
        assert torch.equal(read.share_log, torch.log1p(read.share))


def test_a_cells_log_is_expected_at_the_depth_of_its_spot(batch):
    model = model_of("additive")
    model.depth.fill_(300.0)
    read, rates = model.read(batch), model.rates(batch)
    total = 300 * model.totals(rates, batch).sum(1)
    for cell in (0, 3):
        n = total[batch.spot_of[cell]].item()
        assert torch.allclose(read.share_log[cell], expected_log(300 * rates[cell][None], total=torch.tensor([[n]]))[0])
    assert (read.share_log <= torch.log1p(read.share) + 1e-4).all()  # Jensen


def test_totals_are_trusted_as_far_as_held_out_spots_followed_them(batch, monkeypatch):
    monkeypatch.setattr(count_likelihood, "TRUSTED", 0.0)
    model = model_of("additive")
    model.depth.fill_(300.0)
    model.typical_total.fill_(2.0)
    predicted = model.totals(model.rates(batch), batch).sum(1, keepdim=True)[[0, 2]]  # the other has no member
    none = torch.zeros(2, G)
    for power, found in ((0.4, 0.4), (1.7, 1.0), (-1.0, 0.0)):
        measured = SpotLabels(none, 700 * predicted**power, torch.full((2, 1), 300.0))
        filled = replace(batch, own=batch.own[[0, 2]], around=batch.around[[0, 2]], spot_of=batch.spot_of // 2)
        filled = replace(filled, inside=batch.inside & (batch.spot_of != 1))
        model.settle([(filled, measured)])
        assert model.reliability.item() == pytest.approx(found, abs=1e-3)
        counts = 300 * 2 * (predicted / 2) ** found
        read, rates = model.read(batch), model.rates(batch)
        composition = model.totals(rates, batch)[[0, 2]] / predicted
        torch.testing.assert_close(
            read.spot_log[[0, 2]], expected_log(composition * counts, total=counts), rtol=1e-4, atol=1e-3
        )
        torch.testing.assert_close(read.share, model.cell(batch))  # what adds up is left alone
    alike = SpotLabels(none[:1], torch.ones(1, 1), torch.ones(1, 1))
    one = replace(filled, own=filled.own[:1], around=filled.around[:1], spot_of=torch.zeros_like(filled.spot_of))
    monkeypatch.undo()
    model.settle([(one, alike)])  # a single spot tells nothing
    assert model.reliability == 1
    against = SpotLabels(none, 700 / predicted, torch.full((2, 1), 300.0))
    model.settle([(filled, against)])  # two that hardly differ little
    assert 0.9 < model.reliability < 1


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
    share = np.expm1(split(spots, np.array([10, 10]), spot_of=spot_of, inside=np.ones(4, bool), area=area))
    total = np.zeros((2, 3))
    np.add.at(total, spot_of, share)
    assert np.allclose(total, spots.toarray() * 1000, rtol=1e-4)
