"""What is learned: the gene panel that samples share, and the counts of spots, or of single cells, of these genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from ..errors import InputError
from ..expression import MIN_SEEN, order_by_variability, seen_in, select_genes, shared_panel
from ..io.counts import Counts
from ..models.base import SpotLabels
from ..project import Sample
from .dataset import SpotDataset


@dataclass(frozen=True)
class GenePanel:
    """The genes that are modelled, and what the spots count of them."""

    genes: list[str]  # the most variable of the training spots first
    counts: list[sparse.csr_matrix]  # (S, G) of each sample
    left_out: int  # genes that are rare in a training sample, or not in all samples

    @property
    def warnings(self) -> list[str]:
        """Say how many genes are left out and why, if any."""
        why = "genes are left out, rare in a sample or not in all of them"
        return [f"{self.left_out:,} {why}; {len(self.genes):,} are modelled"] if self.left_out else []


@dataclass
class Labels:
    """What is learned: the spots' counts; for the ceiling also their cells' counts."""

    spots: SpotLabels
    cells: sparse.csr_matrix | None = None  # (C, G) raw counts, in the order of the data set's cells


def gene_panel(learned: Sequence[Sample], held_out: Sequence[Sample], *, most: int) -> GenePanel:
    """Choose the genes that all samples share and that are not rare in a sample to learn from.

    Args:
        learned: samples to learn from.
        held_out: samples that stop the training.
        most: number of genes to keep, the most variable of them; 0 for all.

    Raises: InputError where a sample has no such gene, or where the samples share none.
    """
    tables: list[Counts] = [sample.spot_counts() for sample in [*learned, *held_out]]
    panels = [list(table.genes) for table in tables]
    for i, sample in enumerate(learned):
        counted = sample.cell_counts() if sample.has_cell_truth else tables[i]
        matrix = counted.matrix if sample.has_cell_truth else counted.matrix[on_cells(sample)]
        panels[i] = list(counted.genes[seen_in(matrix) >= MIN_SEEN])
        if not panels[i]:
            raise InputError(
                f"no gene of sample {sample.name} is seen in {MIN_SEEN} of its {matrix.shape[0]:,} cells or spots",
                "Give the counts of a whole sample.",
            )
    shared = shared_panel(panels)
    counts = [select_genes(table.matrix, table.genes, shared) for table in tables]
    taught = [matrix[on_cells(sample)] for matrix, sample in zip(counts, learned, strict=False)]
    order = order_by_variability(taught)[: most or None]
    left_out = max(len(table.genes) for table in tables) - len(shared)
    return GenePanel([shared[i] for i in order], [matrix[:, order] for matrix in counts], left_out)


def on_cells(sample: Sample) -> np.ndarray:
    """Tell which spots (S,) lie on tissue and have cells."""
    return (sample.spots["in_tissue"] & (sample.spots["n_cells"] > 0)).to_numpy()


def usable_spots(samples: Sequence[Sample], counts: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """Tell which of all samples' spots (S,) may be learned from or stopped on: they have cells, counts and tissue.

    Args:
        samples: in the order of their spots.
        counts: of each sample (spots, G).
    """
    counted = [np.asarray(matrix.sum(1)).ravel() > 0 for matrix in counts]
    return np.concatenate([on_cells(sample) & some for sample, some in zip(samples, counted, strict=True)])


def labels_of(
    samples: Sequence[Sample], panel: GenePanel, *, dataset: SpotDataset, usable: np.ndarray, of_cells: bool
) -> Labels:
    """Make the labels of all samples' spots, and with `of_cells` those of their cells, which have true counts.

    Args:
        samples: in the order of their spots.
        panel: of these samples.
        dataset: of these samples, whose order the cells have.
        usable: (S,) the spots that depths are measured on.
        of_cells: whether single cells are learned from.
    """
    spots = spot_labels(panel.counts, usable=usable)
    return Labels(spots, cell_labels(samples, panel.genes, dataset=dataset) if of_cells else None)


def spot_labels(counts: Sequence[sparse.csr_matrix], *, usable: np.ndarray) -> SpotLabels:
    """Put the counts of all samples' spots together, with the depth of each sample, the median total of usable spots.

    Args:
        counts: of each sample (spots, G).
        usable: (S,) of all samples' spots.
    """
    matrix = sparse.vstack(list(counts)).tocsr()
    totals = np.asarray(matrix.sum(1)).ravel()
    sample_of = np.repeat(np.arange(len(counts)), [part.shape[0] for part in counts])
    depth = np.ones_like(totals, float)
    for i in range(len(counts)):
        of_sample = (sample_of == i) & usable
        depth[of_sample] = np.median(totals[of_sample]) if of_sample.any() else 1.0
    return SpotLabels(
        torch.from_numpy(matrix.toarray().astype(np.float32)),
        torch.from_numpy(totals.astype(np.float32)).unsqueeze(1),
        torch.from_numpy(depth.astype(np.float32)).unsqueeze(1),
    )


def cell_labels(samples: Sequence[Sample], genes: Sequence[str], *, dataset: SpotDataset) -> sparse.csr_matrix:
    """Read the true counts (C, G) of the cells in the order of the dataset."""
    cells, first = [], 0
    for i, sample in enumerate(samples):
        truth = sample.cell_counts()
        last = int(dataset.start[np.flatnonzero(dataset.sample == i)[-1] + 1])
        cells.append(select_genes(truth.matrix, truth.genes, genes)[dataset.cell_row[first:last]])
        first = last
    return sparse.vstack(cells).tocsr()
