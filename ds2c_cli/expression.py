"""Expression: which genes are kept, how counts are summed over spots and normalised, how genes are ordered."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from .errors import InputError
from .schema import TARGET_SUM

MIN_SEEN = 20  # cells or spots of a sample a gene must be seen in
CONTROL = re.compile(
    r"^(neg(ative)?[ _-]?(control|prb|probe)|blank[ _-]?\w*|unassigned|deprecated|antisense|intergenic|"
    r"systemcontrol|falsecode|custom_?control)",
    re.IGNORECASE,
)


def is_control(genes: Sequence[str]) -> np.ndarray:
    """(g,) bool: negative control, blank, unassigned, deprecated, antisense and intergenic features."""
    return np.array([bool(CONTROL.match(gene)) for gene in genes], bool)


def seen_in(counts: sparse.csr_matrix) -> np.ndarray:
    """(g,) in how many rows each gene has a count above zero."""
    return np.bincount(counts.tocoo().col[counts.tocoo().data > 0], minlength=counts.shape[1])


def sum_over_spots(counts: sparse.csr_matrix, member: np.ndarray, n_spots: int) -> sparse.csr_matrix:
    """Counts (cells, g) summed over the members of each spot: (n_spots, g); `member` (cells,) is -1 outside."""
    cells = np.flatnonzero(member >= 0)
    membership = sparse.csr_matrix(
        (np.ones(len(cells), counts.dtype), (member[cells], cells)), shape=(n_spots, counts.shape[0])
    )
    return (membership @ counts).tocsr()


def log_share(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """log1p(1e4 * counts / totals), (n, g) float32; NaN where a total is zero: there is no share of nothing.

    With a spot's own total this is the training label; with a cell's **spot** total it is `spot_share`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log1p(TARGET_SUM * counts / totals[:, None])
    return np.where(totals[:, None] > 0, share, np.nan).astype(np.float32)


def shared_panel(panels: Sequence[Sequence[str]]) -> list[str]:
    """Genes that every panel has, in the order of the first.

    Raises InputError when the panels share nothing.
    """
    shared = set(panels[0]).intersection(*panels[1:])
    if not shared:
        raise InputError(
            f"the samples share no gene (the first have {', '.join(map(str, panels[0][:3]))} and "
            f"{', '.join(map(str, panels[-1][:3]))})",
            "Are some panels gene symbols and others Ensembl ids? Rename them alike.",
        )
    return [gene for gene in panels[0] if gene in shared]


def select_genes(counts: sparse.csr_matrix, genes: Iterable[str], panel: Sequence[str]) -> sparse.csr_matrix:
    """Columns of counts (n, g) in the order of a panel; raises InputError naming the genes that are missing."""
    position = {gene: i for i, gene in enumerate(genes)}
    missing = [gene for gene in panel if gene not in position]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(panel):,} genes of the panel have no counts ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''})",
            "Use a model trained on this panel.",
        )
    return counts[:, [position[gene] for gene in panel]].tocsr()


def find_genes(genes: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Columns (k,) of the genes wanted, in their order; raises InputError that offers the nearest names for those that
    are not there."""
    position = {gene: i for i, gene in enumerate(genes)}
    missing = [gene for gene in wanted if gene not in position]
    if missing:
        lower = {gene.lower(): gene for gene in genes}
        near = [lower[name] for gene in missing[:3] for name in difflib.get_close_matches(gene.lower(), lower)]
        raise InputError(
            f"there is no gene {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''} among the {len(genes):,}",
            f"Near are {', '.join(dict.fromkeys(near))}." if near else f"The first are {', '.join(genes[:3])}.",
        )
    return np.array([position[gene] for gene in dict.fromkeys(wanted)], np.int64)


def seurat_v3_variance(counts: sparse.csr_matrix) -> np.ndarray:
    """Standardised variance (g,) of raw counts (n, g), Seurat v3 (Stuart et al., Cell 2019).

    A loess (span 0.3, degree 2) of log10 variance on log10 mean gives the expected SD; counts are standardised
    with it, clipped at sqrt(n), and their variance is returned; constant genes have 0. Where too few genes, or too few
    different means, leave a local quadratic undetermined, the expected variance is Poisson's: the mean.
    """
    from skmisc.loess import loess

    n = counts.shape[0]
    counts = counts.astype(np.float64)  # squares of int32 counts overflow from 46,341 on
    total = np.asarray(counts.sum(0)).ravel()
    square = np.asarray(counts.multiply(counts).sum(0)).ravel()
    mean, variance = total / n, (square - total**2 / n) / max(n - 1, 1)  # exactly 0 for a constant gene
    varies = variance > 0
    expected = np.zeros_like(variance)
    expected[varies] = np.log10(mean[varies])
    if varies.sum() >= 10:  # loess crashes on none, and has no parabola through a window of two
        fit = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=0.3, degree=2)
        with contextlib.suppress(ValueError):  # "near singularities", "svddc failed"
            fit.fit()
            expected[varies] = fit.outputs.fitted_values
    deviation = np.sqrt(10**expected)
    clip = deviation * np.sqrt(n) + mean
    clipped = counts.tocsc(copy=True)
    column = np.repeat(np.arange(clipped.shape[1]), np.diff(clipped.indptr))
    clipped.data = np.minimum(clipped.data, clip[column])
    total = np.asarray(clipped.sum(0)).ravel()
    square = np.asarray(clipped.multiply(clipped).sum(0)).ravel()
    standardised = (n * mean**2 + square - 2 * total * mean) / (max(n - 1, 1) * deviation**2)
    return np.where(varies, standardised, 0.0)


def order_by_variability(samples: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """Genes (g,) from most to least variable: by the median over samples of their Seurat v3 rank, then by variance."""
    variance = np.stack([seurat_v3_variance(counts) for counts in samples])
    rank = np.argsort(np.argsort(-variance, axis=1, kind="stable"), axis=1)
    return np.lexsort((-variance.mean(0), np.median(rank, 0)))
