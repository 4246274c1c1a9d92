"""Scores: correlations equal scipy's, moments add up, intervals are scipy's bootstrap, gene sets are what they say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ds2c_cli.evaluation.metrics import BLOCKS, RESAMPLES, Moments, blocks_of, centred_by, scores

seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, n: int, genes: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Truth with many ties and a prediction that follows it, (n, genes) float32 each, as log1p of counts."""
    generator = np.random.default_rng(seed)
    truth = generator.poisson(generator.uniform(0.2, 5, genes), (n, genes))
    prediction = strength * truth + generator.normal(0, 2, (n, genes))
    return np.log1p(truth).astype(np.float32), prediction.astype(np.float32)


def added(truth: np.ndarray, prediction: np.ndarray, block: np.ndarray | None = None) -> Moments:
    """Moments of all cells at once, one block unless told."""
    block = np.zeros(len(truth), np.int64) if block is None else block
    moments = Moments(int(block.max()) + 1, truth.shape[1])
    moments.add(block, truth, prediction)
    return moments


# Correlation


@given(seed=seeds, n=st.integers(3, 60))
def test_pearson_is_scipys_gene_by_gene(seed, n):
    truth, prediction = draw(seed, n, 7)
    truth[:, 2] = 1.25  # constant in truth
    prediction[:, 3] = 0.5  # constant in prediction
    r = added(truth, prediction).pearson()
    assert np.isnan(r[2])
    for gene in (0, 1, 3, 4, 5, 6):
        if np.ptp(truth[:, gene]) == 0:
            assert np.isnan(r[gene])
        elif gene == 3:
            assert r[gene] == 0
        else:
            assert r[gene] == pytest.approx(
                stats.pearsonr(truth[:, gene].astype(float), prediction[:, gene].astype(float)).statistic, abs=1e-9
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 8.3, 1e4])
def test_a_constant_prediction_scores_nothing_and_a_constant_truth_is_no_gene(dtype, value):
    truth, _ = draw(0, 500, 4)
    constant = np.full((500, 4), value, dtype)
    assert added(truth.astype(dtype), constant).pearson().tolist() == [0, 0, 0, 0]
    assert np.isnan(added(constant, truth.astype(dtype)).pearson()).all()
    assert not np.isfinite(added(constant, truth).pearson()).any()
    assert np.isfinite(added(truth, constant).pearson()).all()


def test_perfect_and_opposite_predictions():
    truth, _ = draw(0, 100, 3)
    assert added(truth, 3 * truth + 2).pearson() == pytest.approx([1, 1, 1])
    assert added(truth, -truth).pearson() == pytest.approx([-1, -1, -1])


def test_values_far_from_zero_lose_no_digits():
    truth, prediction = draw(0, 1000, 3)
    truth, prediction = truth.astype(float), prediction.astype(float)
    assert added(truth + 1e5, prediction + 1e5).pearson() == pytest.approx(added(truth, prediction).pearson(), abs=1e-6)


# Moments


@given(seed=seeds, cuts=st.lists(st.integers(0, 80), max_size=10), n_blocks=st.integers(1, 9))
def test_many_additions_equal_one(seed, cuts, n_blocks):
    truth, prediction = draw(seed, 80, 5)
    block = np.random.default_rng(seed).integers(0, n_blocks, 80)
    whole, parts = Moments(n_blocks, 5), Moments(n_blocks, 5)
    whole.add(block, truth, prediction)
    for rows in np.split(np.arange(80), sorted(cuts)):  # some are empty
        parts.add(block[rows], truth[rows], prediction[rows])
    assert parts.number == whole.number == 80
    assert (np.isfinite(parts.pearson()) == np.isfinite(whole.pearson())).all()
    assert np.allclose(parts.pearson(), whole.pearson(), atol=1e-9, equal_nan=True)


@given(seed=seeds)
def test_the_sums_of_each_block_are_those_of_its_cells(seed):
    truth, prediction = draw(seed, 40, 3)
    block = np.random.default_rng(seed).integers(0, 5, 40)
    moments = Moments(6, 3)  # the last has no cell
    moments.add(block, truth, prediction)
    x, y = truth - truth.mean(0, dtype=float), prediction - truth.mean(0, dtype=float)
    for b in range(6):
        chosen = block == b
        terms = np.ones_like(x), x, y, x * x, y * y, x * y
        assert np.allclose(moments.sums[b], [term[chosen].sum(0) for term in terms])


def test_nothing_added_is_no_cell():
    moments = Moments(3, 2)
    moments.add(np.empty(0, int), np.empty((0, 2)), np.empty((0, 2)))
    assert moments.number == 0
    assert np.isnan(moments.pearson()).all()
    assert scores(moments) == []
    assert Moments(3, 0).number == 0


# Bootstrap


def test_the_interval_is_scipys_paired_bootstrap_when_every_cell_is_a_block():
    truth, prediction = draw(1, 60, 3, strength=0.6)
    sets = {"two": np.array([2, 0]), "one": np.array([1])}
    ours = added(truth, prediction, np.arange(60)).resampled(sets)
    for name, genes in sets.items():
        assert ours[name].shape == (RESAMPLES,)
        low, high = np.percentile(ours[name], [2.5, 97.5])
        scipy = stats.bootstrap(
            (truth[:, genes].T.astype(float), prediction[:, genes].T.astype(float)),
            lambda x, y, axis: stats.pearsonr(x, y, axis=axis).statistic.mean(0),
            paired=True, axis=-1, n_resamples=4000, method="percentile", random_state=0,
        )  # fmt: skip
        assert low == pytest.approx(scipy.confidence_interval.low, abs=0.015)
        assert high == pytest.approx(scipy.confidence_interval.high, abs=0.015)
        assert ours[name].std() == pytest.approx(scipy.standard_error, rel=0.08)


def test_the_difference_of_two_models_drawn_with_one_seed_is_scipys_paired_bootstrap():
    truth, one = draw(11, 60, 1, strength=0.9)
    other = (one + np.random.default_rng(1).normal(0, 0.5, one.shape)).astype(np.float32)
    sets, cells = {"all": np.array([0])}, np.arange(60)
    mine, theirs = (added(truth, each, cells).resampled(sets, 5)["all"] for each in (one, other))
    low, high = np.percentile(mine - theirs, [2.5, 97.5])

    def statistic(x, y, z, axis):
        return stats.pearsonr(x, y, axis=axis).statistic - stats.pearsonr(x, z, axis=axis).statistic

    scipy = stats.bootstrap(
        tuple(each[:, 0].astype(float) for each in (truth, one, other)), statistic, paired=True, n_resamples=4000,
        method="percentile", random_state=0,
    )  # fmt: skip
    assert low == pytest.approx(scipy.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(scipy.confidence_interval.high, abs=0.01)
    apart = added(truth, other, cells).resampled(sets, 6)["all"]
    assert (mine - theirs).std() < 0.6 * (mine - apart).std()  # unpaired, it would be far wider


def test_single_precision_changes_no_digit_that_an_interval_shows():
    truth, prediction = draw(12, 4000, 6)
    block = np.arange(4000) // 40
    moments = added(truth, prediction * 1e-3 + 40, block)  # far from zero, and hardly varying
    sets = {"all": np.arange(6)}
    drawn = moments.resampled(sets, 3)["all"]
    weights = np.random.default_rng(3).multinomial(100, np.full(100, 0.01), RESAMPLES)
    for row in (0, 1, 2, 3000):
        chosen = np.concatenate([np.repeat(np.flatnonzero(block == b), k) for b, k in enumerate(weights[row])])
        r = [
            stats.pearsonr(truth[chosen, g].astype(float), prediction[chosen, g].astype(float)).statistic
            for g in range(6)
        ]
        assert drawn[row] == pytest.approx(np.mean(r), abs=2e-4)


def test_cells_of_one_block_are_drawn_together():
    truth, prediction = (np.repeat(matrix, 10, axis=0) for matrix in draw(2, 40, 2))
    apart = added(truth, prediction, np.arange(400)).resampled({"all": np.array([0, 1])})["all"]
    together = added(truth, prediction, np.repeat(np.arange(40), 10)).resampled({"all": np.array([0, 1])})["all"]
    assert together.std() > 2 * apart.std()  # ten copies of a cell know no more than one


def test_blocks_without_cells_change_nothing():
    truth, prediction = draw(3, 30, 2)
    sets = {"all": np.array([0, 1])}
    dense, sparse = added(truth, prediction, np.arange(30)), added(truth, prediction, np.arange(30) * 3)
    assert np.allclose(dense.resampled(sets)["all"], sparse.resampled(sets)["all"])


def test_the_same_seed_gives_the_same_interval():
    moments = added(*draw(4, 30, 2), np.arange(30))
    sets = {"all": np.array([0, 1])}
    assert (moments.resampled(sets, 7)["all"] == moments.resampled(sets, 7)["all"]).all()
    assert (moments.resampled(sets, 7)["all"] != moments.resampled(sets, 8)["all"]).any()


def test_a_gene_seen_in_one_block_is_left_out_of_the_resamples_without_it():
    truth, prediction = draw(5, 40, 2)
    truth[:, 1] = 0
    truth[:4, 1] = [1, 2, 3, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = added(truth, prediction, np.arange(40) // 4).resampled({"rare": np.array([1]), "all": np.array([0, 1])})
    assert np.isnan(drawn["rare"]).mean() == pytest.approx(0.9**10, abs=0.03)
    assert np.isfinite(drawn["all"]).all()


# The table


def test_the_table_has_the_papers_sets_of_genes():
    truth, prediction = draw(6, 80, 260)
    truth[:, 10] = 0  # constant: left out of every set
    moments = added(truth, prediction, np.arange(80) % 20)
    r = moments.pearson()
    best = np.sort(r[np.isfinite(r)])[::-1]
    rows = {row.genes: row for row in scores(moments)}
    assert {name: row.n_genes for name, row in rows.items()} == {
        "top50": 50, "top100": 100, "top200": 200, "hvg50": 49, "hvg100": 99, "all": 259,
    }  # fmt: skip
    for k in (50, 100, 200):
        assert rows[f"top{k}"].value == pytest.approx(best[:k].mean())
    assert rows["hvg50"].value == pytest.approx(np.nanmean(r[:50]))
    assert rows["hvg100"].value == pytest.approx(np.nanmean(r[:100]))
    assert rows["all"].value == pytest.approx(np.nanmean(r))
    drawn = moments.resampled({"all": np.flatnonzero(np.isfinite(r))})["all"]
    assert (rows["all"].low, rows["all"].high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    for row in rows.values():
        assert row.low < row.value < row.high


def test_a_small_panel_is_scored_with_the_genes_it_has():
    rows = {row.genes: row.n_genes for row in scores(added(*draw(7, 50, 30), np.arange(50)))}
    assert set(rows.values()) == {30}


def test_a_set_of_which_no_gene_varies_is_not_in_the_table():
    truth, prediction = draw(8, 50, 60)
    truth[:, :50] = 0
    rows = {row.genes: row.n_genes for row in scores(added(truth, prediction, np.arange(50)))}
    assert "hvg50" not in rows
    assert rows["hvg100"] == rows["all"] == 10
    assert scores(added(np.zeros((5, 3)), np.ones((5, 3)))) == []


def test_the_mean_scores_zero_without_an_interval():
    truth, _ = draw(9, 50, 5)
    for row in scores(added(truth, np.broadcast_to(truth.mean(0), truth.shape), np.arange(50))):
        assert (row.value, row.low, row.high) == (0, 0, 0)


# Within spots, and blocks


@given(seed=seeds, groups=st.integers(1, 8))
def test_centring_equals_a_loop_over_spots(seed, groups):
    generator = np.random.default_rng(seed)
    group, matrix, other = generator.integers(0, groups, 30) * 7 - 1, generator.normal(size=(30, 3)), np.ones((30, 2))
    before = matrix.copy()
    centred, flat = centred_by(group, matrix, other)
    for name in np.unique(group):
        rows = group == name
        assert np.allclose(centred[rows], matrix[rows] - matrix[rows].mean(0))
    assert np.allclose(flat, 0)
    assert (matrix == before).all()


def test_within_spots_a_prediction_of_the_spot_alone_scores_zero():
    truth, _ = draw(10, 60, 4)
    spot = np.repeat(np.arange(12), 5)
    of_the_spot = np.stack([truth[spot == s].mean(0) for s in spot])
    assert (added(truth, of_the_spot).pearson() > 0.2).all()
    assert np.allclose(added(*centred_by(spot, truth, of_the_spot)).pearson(), 0, atol=1e-9)


@given(seed=seeds, n=st.integers(1, 600), most=st.integers(1, 60), stretch=st.floats(0.01, 100))
def test_blocks_are_squares_of_the_slide_and_no_more_than_allowed(seed, n, most, stretch):
    points = np.random.default_rng(seed).uniform(0, 1000, (n, 2)) * [1, stretch]
    block = blocks_of(points, most)
    assert block.shape == (n,)
    labels = np.unique(block)
    assert labels.tolist() == list(range(len(labels)))
    assert len(labels) <= most
    if n <= most:
        assert len(labels) == n
    else:  # points of a block lie together: the bounding squares of different blocks do not overlap
        low = np.array([points[block == b].min(0) for b in labels])
        high = np.array([points[block == b].max(0) for b in labels])
        for a in range(len(labels)):
            for b in range(a):
                assert ((high[a] < low[b]) | (high[b] < low[a])).any()


def test_blocks_use_most_of_what_they_may():
    points = np.random.default_rng(0).uniform(0, 5000, (20_000, 2))
    assert BLOCKS * 0.6 < blocks_of(points).max() + 1 <= BLOCKS


def test_cells_of_one_place_are_one_block_and_no_cells_are_none():
    assert blocks_of(np.zeros((500, 2))).tolist() == [0] * 500
    assert blocks_of(np.empty((0, 2))).shape == (0,)
    line = np.column_stack([np.arange(1000.0), np.zeros(1000)])
    assert 100 < blocks_of(line).max() + 1 <= BLOCKS
