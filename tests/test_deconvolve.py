"""Cells outside spots: the multipliers undo a model's error where the spots around agree on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from ds2c_cli.prediction.deconvolve import NEAREST, Multipliers, given_spots

CENTRES = np.array([[x * 100.0, y * 100.0] for y in range(5) for x in range(5)])


def case(seed=0, total=100_000):
    """Spots with many counts, and the rates of a model that has every gene wrong by a factor."""
    random = np.random.default_rng(seed)
    share = random.dirichlet(np.full(6, 5.0), len(CENTRES))
    factor = np.array([0.5, 2, 1, 1, 3, 0.2])
    rates = share / factor
    rates = 1e4 * rates / rates.sum(1, keepdims=True)
    return sparse.csr_matrix(total * share), rates


def test_a_spots_own_multiplier_turns_its_rates_into_its_counts():
    counts, rates = case()
    alone = Multipliers(CENTRES[:1], counts[:1], rates[:1]).at(CENTRES[:1] + 7)
    np.testing.assert_allclose(alone * rates[:1], 1e4 * counts[:1].toarray() / counts[:1].sum(), rtol=1e-3)


def test_how_large_rates_are_all_in_all_does_not_matter():
    counts, rates = case()
    points = np.array([[130.0, 220.0]])
    whole, many = (Multipliers(CENTRES, counts, k * rates).at(points) for k in (1, 20))
    np.testing.assert_allclose(many * 20, whole, rtol=1e-3)


def test_between_spots_it_is_their_weighted_geometric_mean():
    counts, rates = case(1)
    point = np.array([[150.0, 200.0]])  # half-way between two, so both count alike
    own = np.log([Multipliers(CENTRES[[i]], counts[[i]], rates[[i]]).at(point)[0] for i in range(25)])
    distance = np.hypot(*(CENTRES - point).T)
    near = np.argsort(distance, kind="stable")[:NEAREST]
    weight = np.exp(-(distance[near] ** 2) / (2 * 100**2))
    found = np.log(Multipliers(CENTRES, counts, rates).at(point)[0])
    ties = np.sum(np.isclose(distance, distance[near].max()))
    assert ties == 4  # two of four at one distance are taken, so the mean is only bounded
    low, high = own.min(0), own.max(0)
    assert ((low - 1e-6 <= found) & (found <= high + 1e-6)).all()
    exact = (weight[:, None] * own[near]).sum(0) / weight.sum()
    assert np.abs(found - exact).max() < (high - low).max() / 2


def test_a_gene_a_spot_missed_is_not_declared_absent():
    counts, rates = case(total=300)
    counts = sparse.csr_matrix(counts.toarray() * [0, 1, 1, 1, 1, 1])
    found = Multipliers(CENTRES, counts, rates).at(CENTRES)
    assert (found > 0).all()
    assert np.isfinite(found).all()


def test_a_place_far_from_every_spot_has_one_all_the_same():
    counts, rates = case()
    far = Multipliers(CENTRES, counts, rates).at(np.array([[1e6, 1e6]]))
    assert np.isfinite(far).all()
    nearest = Multipliers(CENTRES[[24]], counts[[24]], rates[[24]]).at(np.zeros((1, 2)))
    assert far == pytest.approx(nearest, rel=0.2)


def test_spots_without_counts_or_members_say_nothing():
    counts, rates = case()
    counts = counts.toarray()
    counts[3], rates[4] = 0, 0
    known = np.delete(np.arange(25), [3, 4])
    points = np.array([[280.0, 10.0], [410.0, 20.0]])
    whole = Multipliers(CENTRES, sparse.csr_matrix(counts), rates).at(points)
    np.testing.assert_allclose(
        whole, Multipliers(CENTRES[known], sparse.csr_matrix(counts[known]), rates[known]).at(points)
    )
    assert (Multipliers(CENTRES, sparse.csr_matrix(counts.shape), rates).at(points) == 1).all()


def test_given_its_spots_a_wrong_model_is_right_outside_them_too():
    counts, rates = case(2)
    random = np.random.default_rng(0)
    spot_of = np.repeat(np.arange(25), 4)
    inside = np.arange(100) % 4 > 0  # of every four cells one lies outside
    part = random.dirichlet(np.ones(3), 25)[:, :, None] * rates[:, None]  # members, who add up to their spot's rates
    share = np.concatenate([rates[:, None], part], 1).reshape(100, 6)
    around = Multipliers(CENTRES, counts, rates)
    given = given_spots(
        torch.from_numpy(share),
        spot_of=spot_of,
        inside=inside,
        counts=counts.toarray(),
        places=CENTRES[spot_of] + [20, 0],
        around=around,
    ).numpy()
    truth = 1e4 * counts.toarray() / counts.sum(1)
    np.testing.assert_allclose(given[inside].reshape(25, 3, 6).sum(1), truth, rtol=1e-6)
    before, after = (np.std(np.log(x[~inside]) - np.log(truth)) for x in (share, given))
    assert after < before / 2
