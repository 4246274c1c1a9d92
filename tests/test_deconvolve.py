"""Cells outside spots: the multipliers undo a model's error where the spots around agree on it."""

from __future__ import annotations

import numpy as np
import pytest

from ds2c_cli.deconvolve import NEAREST, Multipliers

CENTRES = np.array([[x * 100.0, y * 100.0] for y in range(5) for x in range(5)])


def case(seed=0, total=100_000):
    """Spots with many counts, and the rates of a model that has every gene wrong by a factor."""
    random = np.random.default_rng(seed)
    share = random.dirichlet(np.full(6, 5.0), len(CENTRES))
    factor = np.array([0.5, 2, 1, 1, 3, 0.2])
    rates = share / factor
    rates = 1e4 * rates / rates.sum(1, keepdims=True)
    return total * share, rates


def test_a_spots_own_multiplier_turns_its_rates_into_its_counts():
    counts, rates = case()
    alone = Multipliers(CENTRES[:1], counts[:1], rates[:1]).at(CENTRES[:1] + 7)
    np.testing.assert_allclose(alone * rates[:1], 1e4 * counts[:1] / counts[:1].sum(), rtol=1e-3)


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
    counts[:, 0] = 0
    found = Multipliers(CENTRES, counts, rates).at(CENTRES)
    assert (found > 0).all()
    assert np.isfinite(found).all()


def test_a_place_far_from_every_spot_has_one_all_the_same():
    counts, rates = case()
    far = Multipliers(CENTRES, counts, rates).at(np.array([[1e6, 1e6]]))
    assert np.isfinite(far).all()
    nearest = Multipliers(CENTRES[[24]], counts[[24]], rates[[24]]).at(np.zeros((1, 2)))
    assert far == pytest.approx(nearest, rel=0.2)
