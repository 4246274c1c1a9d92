"""Expression: normalisation and gene order equal scanpy's, sums equal loops, panels say what they lack."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy as sc
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ds2c_cli.errors import InputError
from ds2c_cli.expression import (
    is_control,
    log_share,
    order_by_variability,
    seen_in,
    select_genes,
    seurat_v3_variance,
    shared_panel,
    sum_over_spots,
)

seeds = st.integers(0, 2**32 - 1)


def negative_binomial(seed: int, n: int = 200, genes: int = 150) -> sparse.csr_matrix:
    """Raw counts (n, genes) int32 of genes with different means and dispersions; the first gene is never seen."""
    generator = np.random.default_rng(seed)
    mean, dispersion = generator.lognormal(0, 1.5, genes), generator.uniform(0.2, 5, genes)
    counts = generator.negative_binomial(dispersion, dispersion / (dispersion + mean), (n, genes))
    counts[:, 0] = 0
    return sparse.csr_matrix(counts.astype(np.int32))


# Which genes are kept


@pytest.mark.parametrize(
    "gene",
    [
        "NegControlProbe_00042", "NegControlCodeword_0500", "BLANK_0180", "Blank-37", "antisense_PROKR2",
        "UnassignedCodeword_0001", "DeprecatedCodeword_0018", "Intergenic_Region_13080", "NegPrb12",
        "Negative Control 3", "negative_probe_7", "SystemControl12", "FalseCode4", "Custom_Control_1",
    ],
)  # fmt: skip
def test_control_features_are_known_by_name(gene):
    assert is_control([gene]).tolist() == [True]


@pytest.mark.parametrize(
    "gene",
    ["NEGR1", "NEFL", "CONTROL", "ACTB", "BLK", "BLNK", "MT-CO1", "HLA-DRA", "DEPDC1", "ANTXR1", "INTS1", "SYS1"],
)
def test_genes_are_no_controls(gene):
    assert is_control([gene]).tolist() == [False]


def test_no_genes_are_no_controls():
    assert is_control([]).dtype == bool
    assert is_control([]).shape == (0,)


@given(seeds)
def test_a_gene_is_seen_where_its_count_is_above_zero(seed):
    counts = np.random.default_rng(seed).poisson(0.5, (20, 6))
    assert seen_in(sparse.csr_matrix(counts)).tolist() == (counts > 0).sum(0).tolist()


def test_a_stored_zero_is_not_seen():
    stored = sparse.csr_matrix((np.array([0, 3]), np.array([0, 1]), np.array([0, 2, 2])), shape=(2, 3))
    assert seen_in(stored).tolist() == [0, 1, 0]


# Sums


@given(seed=seeds, cells=st.integers(0, 40), n_spots=st.integers(0, 6))
def test_spot_counts_equal_a_loop_over_cells(seed, cells, n_spots):
    generator = np.random.default_rng(seed)
    counts = generator.poisson(1, (cells, 5)).astype(np.int32)
    member = generator.integers(-1, n_spots, cells).astype(np.int32)
    expected = np.zeros((n_spots, 5), np.int32)
    for row, spot in zip(counts, member, strict=True):
        if spot >= 0:
            expected[spot] += row
    summed = sum_over_spots(sparse.csr_matrix(counts), member, n_spots)
    assert summed.dtype == np.int32
    assert summed.shape == (n_spots, 5)
    assert (summed.toarray() == expected).all()


# Normalisation


def test_log_share_of_its_own_total_is_scanpys_normalize_total_and_log1p():
    counts = negative_binomial(0)
    scanpy = anndata.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(scanpy, target_sum=1e4)
    sc.pp.log1p(scanpy)
    share = log_share(counts.toarray(), np.asarray(counts.sum(1)).ravel())
    assert share.dtype == np.float32
    assert np.allclose(share, scanpy.X.toarray(), atol=1e-5)


def test_a_cell_is_normalised_by_its_spots_total():
    share = log_share(np.array([[1, 3], [0, 4]]), np.array([8, 8]))
    assert np.allclose(share, np.log1p([[1250, 3750], [0, 5000]]))


def test_there_is_no_share_of_nothing():
    share = log_share(np.array([[0, 0], [1, 1]]), np.array([0, 2]))
    assert np.isnan(share[0]).all()
    assert np.isfinite(share[1]).all()


# Panels


def test_a_shared_panel_keeps_the_order_of_the_first():
    assert shared_panel([["C", "A", "B", "D"], ["A", "B", "C"], ["B", "C", "X"]]) == ["C", "B"]
    assert shared_panel([["B", "A"]]) == ["B", "A"]


def test_panels_that_share_nothing_are_an_error_that_shows_both():
    with pytest.raises(InputError) as error:
        shared_panel([["ACTB", "CD3E"], ["ENSG00000075624", "ENSG00000198851"]])
    assert error.value.message == (
        "the samples share no gene (the first have ACTB, CD3E and ENSG00000075624, ENSG00000198851)"
    )
    assert "Ensembl" in error.value.hint


def test_genes_are_selected_in_the_order_of_the_panel():
    counts = sparse.csr_matrix([[1, 2, 3], [4, 0, 6]])
    chosen = select_genes(counts, ["A", "B", "C"], ["C", "A"])
    assert isinstance(chosen, sparse.csr_matrix)
    assert chosen.toarray().tolist() == [[3, 1], [6, 4]]
    assert select_genes(counts, ["A", "B", "C"], []).shape == (2, 0)


@pytest.mark.parametrize(
    ("panel", "says"),
    [
        (["A", "Z"], "1 of 2 genes of the panel have no counts (Z)"),
        (["Z", "A", "Y", "X", "W"], "4 of 5 genes of the panel have no counts (Z, Y, X, ...)"),
    ],
)
def test_missing_genes_are_named(panel, says):
    with pytest.raises(InputError) as error:
        select_genes(sparse.csr_matrix([[1, 2]]), ["A", "B"], panel)
    assert error.value.message == says


# Variability


@pytest.mark.parametrize("seed", range(3))
def test_standardised_variance_is_scanpys(seed):
    counts = negative_binomial(seed)
    scanpy = anndata.AnnData(counts.astype(np.float64))
    sc.pp.highly_variable_genes(scanpy, flavor="seurat_v3", n_top_genes=50)
    ours = seurat_v3_variance(counts)
    assert np.abs(ours - scanpy.var["variances_norm"].to_numpy()).max() < 1e-6
    top = order_by_variability([counts])[:50]
    assert set(top) == set(np.flatnonzero(scanpy.var["highly_variable"]))


def test_counts_above_46341_do_not_overflow_when_squared():
    counts = negative_binomial(4)
    counts[:, 5] *= 100_000
    assert counts.dtype == np.int32
    assert np.allclose(seurat_v3_variance(counts), seurat_v3_variance(counts.astype(np.float64)))


def test_the_counts_are_left_as_they_were():
    counts = negative_binomial(5).astype(np.float64)
    counts[0, 3] = 5000  # is clipped
    before = counts.toarray()
    seurat_v3_variance(counts)
    assert (counts.toarray() == before).all()


@pytest.mark.parametrize(
    "counts",
    [
        np.random.default_rng(0).poisson(3, (50, 4)),  # few genes
        np.random.default_rng(0).negative_binomial(2, 0.1, (100, 11)),  # a window of three genes for a parabola
        np.stack([np.random.default_rng(g).permutation(100) < 20 for g in range(30)], 1).astype(int),  # one mean
        np.random.default_rng(0).poisson(0.01, (30, 200)),  # nearly nothing
        np.ones((10, 5), int),
        np.zeros((10, 5), int),
        np.ones((1, 5), int),
    ],
    ids=["four genes", "eleven genes", "one mean", "sparse", "constant", "empty", "one spot"],
)
def test_panels_too_poor_for_a_loess_are_standardised_by_poisson(counts):
    variance = seurat_v3_variance(sparse.csr_matrix(counts.astype(np.int32)))
    assert np.isfinite(variance).all()
    assert (variance[counts.var(0) == 0] == 0).all()
    if counts.shape[1] == 4:  # within the clip at sqrt(n) it is the index of dispersion
        assert np.allclose(variance, counts.var(0, ddof=1) / counts.mean(0))


def test_the_order_is_by_the_median_rank_over_samples():
    generator = np.random.default_rng(0)
    rate = generator.gamma(4, 2, 60)
    samples = []
    for noisy in ([7, 11], [7, 11], [7, 23]):  # gene 23 varies in one sample only
        counts = generator.poisson(rate, (300, 60))
        counts[:, noisy] = generator.negative_binomial(0.3, 0.3 / (0.3 + rate[noisy]), (300, 2))
        samples.append(sparse.csr_matrix(counts))
    order = order_by_variability(samples)
    assert sorted(order) == list(range(60))
    assert set(order[:2]) == {7, 11}
    assert (order == order_by_variability(samples[::-1])).all()
