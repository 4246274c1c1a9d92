"""The generated counts: which genes mark which cell type, and gamma-Poisson counts that the image can tell of."""

from __future__ import annotations

import numpy as np

from .cells import CELL_TYPES, TYPES, Cells

SHARED = {
    ("tumour", "epithelium"): "EPCAM KRT8 KRT18 CDH1 CLDN7",
    ("lymphocyte", "macrophage"): "PTPRC CD74 HLA-DRA CXCR4 CD53",
    ("fibroblast", "macrophage"): "VIM SPARC LGALS1 TIMP1 FN1",
}
HOUSEKEEPING = "ACTB GAPDH B2M EEF1A1 TPT1 RPLP0 RPL13 RPL32 RPS18 RPS6 UBC PPIA TUBA1B HSP90AB1 FTL FTH1 PFN1 MYL6"
LOW = (
    "NEAT1 MALAT1 XBP1 JUN FOS EGR1 MYC CCND1 STAT1 IRF1 HIF1A VEGFA SOD2 TXNIP DUSP1 KLF6 ZFP36 SAT1 NFKBIA "
    "IFI6 ISG15 CD9 CD24 CD44 ANXA1 ANXA2 TMSB10 CFL1 EIF1 SERF2"
)
RARE = "CHGA IL2 FOXP3 AICDA INS CALCA"
GRADIENT = "MMP11"  # falls off with the distance to the nearest tumour nest, in every type
# Genes, the types that express them, and the range of their rates there, relative to each other.
PROGRAMMES = [
    *((look.markers.split(), (name,), (3, 12)) for name, look in CELL_TYPES.items()),
    *((genes.split(), types, (2, 8)) for types, genes in SHARED.items()),
    (HOUSEKEEPING.split(), TYPES, (1.5, 5)),
    (LOW.split(), TYPES, (0.3, 1.5)),
    (RARE.split(), TYPES, (0.01, 0.05)),
    ([GRADIENT], TYPES, (8, 8)),
]
GENES = tuple(gene for genes, _, _ in PROGRAMMES for gene in genes)
BIOLOGY_SEED = 20_240  # every sample is of the same biology
LEAK = 0.12  # mean rate of a gene in a type that does not express it
GRADIENT_UM = 50.0
COUNTS_PER_UM2 = 1.2
DISPERSION = 0.4  # variance = mean + dispersion * mean^2


def express(rng: np.random.Generator, cells: Cells, *, area_um2: np.ndarray, nest_um: np.ndarray) -> np.ndarray:
    """Draw counts (n, len(GENES)) int32 of cells.

    The cells are of `area_um2` (n,) and lie `nest_um` (n,) deep in a nest, below 0 outside. The total goes with the
    area; the shares depend on the type and, within it, on the cell's size and chromatin.
    """
    share, response = _biology()
    rate = share[cells.kind] * np.exp(np.column_stack([cells.size, cells.darkness]) @ response)
    rate[:, GENES.index(GRADIENT)] *= np.exp(np.minimum(nest_um, 0) / GRADIENT_UM)
    total = COUNTS_PER_UM2 * area_um2 * rng.lognormal(0, 0.25, len(rate))
    mean = total[:, None] * rate / rate.sum(1, keepdims=True)
    return rng.poisson(mean * rng.gamma(1 / DISPERSION, DISPERSION, mean.shape)).astype(np.int32)


def _biology() -> tuple[np.ndarray, np.ndarray]:
    """Rate of each gene in a type (types, genes), and its response (2, genes) to size and darkness, in log units."""
    rng = np.random.default_rng(BIOLOGY_SEED)
    blocks = []
    for genes, types, (low, high) in PROGRAMMES:
        leak = rng.gamma(2, min(LEAK, low) / 2, (len(TYPES), len(genes)))
        expressed = np.isin(TYPES, types)[:, None]
        blocks.append(np.where(expressed, rng.uniform(low, high, len(genes)), leak))
    rate = np.concatenate(blocks, 1)
    response = rng.normal(0, 0.45, (2, len(GENES))) * (rng.random((2, len(GENES))) < 0.5)
    return rate, response
