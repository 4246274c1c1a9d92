"""Score predictions of one sample: moments per gene add up over batches, and become rows, curves and pictures."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from scipy import sparse

from ..expression import log_share
from ..io.counts import Counts
from ..prediction.deconvolve import Deconvolution
from ..prediction.inference import PredictedCells, by_spots, held_where_small
from ..project import Sample
from ..records import CheckpointInfo
from . import metrics
from .baselines import BASELINES, SEE_SPOT, Baseline
from .metrics import Moments, blocks_of, centred_by, scores

SEES_SPOT = "+ spot"  # added to a model's name where it was given the measured spot


class Row(TypedDict):
    """One score, tidy; as metrics.json has it."""

    model: str
    kind: str
    encoder: str
    checkpoint: str
    scenario: str
    genes: str
    metric: str
    value: float
    low: float
    high: float
    n_cells: int
    n_genes: int
    sample: str
    seed: int | None


@dataclass(frozen=True)
class Painted:
    """A gene on one slide: where the cells are (n, 2) in um, their truth and their prediction (n,); and what the spots,
    at (s, 2) um, say of it (s,).

    By default the gene is the most variable of the training spots, so that no model shows its best one.
    """

    sample: str
    model: str
    gene: str
    points: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    pearson: float
    spot_points: np.ndarray
    spots: np.ndarray
    encoder: str = ""
    scenario: str = ""


@dataclass(frozen=True)
class Scored:
    """One source on one sample: tidy rows with their resampled values (rows, 10,000), scores per gene, pictures.

    Resamples of one sample and scenario draw the same blocks whatever the model, so differences of two are paired.
    """

    rows: list[Row]
    resamples: np.ndarray
    per_gene: pd.DataFrame
    painted: list[Painted]
    left_out: int  # cells without truth
    constant: int  # genes of the panel without a count

    def warnings(self, sample: str) -> list[str]:
        """Say in sentences what was not scored of the sample."""
        if not self.rows:
            return [f"{sample}: nothing is scored, as no gene of the panel varies in it or it has none of them"]
        return not_scored(sample, left_out=self.left_out, constant=self.constant)


def not_scored(sample: str, *, left_out: int, constant: int) -> list[str]:
    """Say which cells of a sample and genes of a panel are left out of its scores, where there are any."""
    said = []
    if left_out:
        said.append(f"{sample}: {left_out:,} cells have a spot without counts as context and are left out")
    if constant:
        said.append(f"{sample}: {constant:,} genes of the panel have no count in it and are left out")
    return said


def given_spot(model: str) -> bool:
    """Tell whether a model of the tables was given the measured spots."""
    return model.endswith(SEES_SPOT) or model in SEE_SPOT


def score(
    info: CheckpointInfo,
    predictions: Iterable[PredictedCells],
    *,
    sample: Sample,
    scenario: str,
    label: str,
    baselines: bool,
    gene: str = "",
    deconvolved: bool = False,
    ensemble: bool = False,
) -> Scored:
    """Score the predictions of one source for one sample.

    Args:
        info: Of the checkpoint that predicted.
        predictions: What it predicted; gone through twice where the sample has cell truth.
        sample: What is predicted.
        scenario: What the sample is to the checkpoint.
        label: What tables call the source.
        baselines: Whether to score the trivial baselines on the same panel.
        gene: The one that is painted, by default the most variable one.
        deconvolved: Whether the predictions were given the spots already, and are scored as that alone.
        ensemble: Whether they are the mean of several networks, and of no one seed.
    """
    truth = Truth.of(sample, info.genes)
    moments = MomentsByScenario(truth, scenario)
    picture = Picture(truth, gene)

    def add(model: str, batches: Iterable[PredictedCells]) -> None:
        for batch in batches:
            if batch.spot_log is not None:
                moments.add_spots(model, batch.spots, batch.spot_log)
            if truth.cells is not None:
                compared = truth.beside(batch, truth.cells)
                moments.add_cells(model, compared)
                picture.add(model, compared)

    given = f"{label} {SEES_SPOT}"
    if deconvolved:
        add(given, predictions)
    elif truth.cells is None:
        add(label, predictions)
    else:
        predictions = held_where_small(predictions, cells=len(sample.cells), genes=len(info.genes))
        deconvolution = Deconvolution(sample, truth.spots)
        add(label, deconvolution.first_pass(predictions))
        add(given, deconvolution.second_pass(predictions))
    for name, baseline in BASELINES.items() if baselines else ():
        add(name, _baseline(baseline, truth))
    rows, resamples, per_gene = _formatted(moments, info, seed=None if ensemble else info.training.seed)
    constant = int((truth.spots.getnnz(0) == 0).sum())
    return Scored(
        rows, resamples, per_gene, painted=picture.painted(), left_out=truth.cells_left_out, constant=constant
    )


@dataclass(frozen=True)
class Compared:
    """Cells whose spot has counts, with what is true and predicted of them."""

    cells: np.ndarray  # (c,) rows of the cell table
    spot_of: np.ndarray  # (c,) rows of the spot table
    inside: np.ndarray  # (c,) bool
    block: np.ndarray  # (c,) the spatial block of its spot
    observed: np.ndarray  # (c, G) log1p of counts per 10,000 of the spot
    predicted: np.ndarray  # (c, G)


@dataclass(frozen=True)
class Truth:
    """What is known of a sample, over a model's panel."""

    sample: Sample
    genes: list[str]
    spots: sparse.csr_matrix  # (S, G)
    totals: np.ndarray  # (S,)
    cells: sparse.csr_matrix | None  # (C, G)
    block: np.ndarray  # (S,) the spatial block of each spot

    @classmethod
    def of(cls, sample: Sample, genes: Sequence[str]) -> Truth:
        """Read a sample's counts; genes that were not measured are zero throughout."""
        spots = _on_panel(sample.spot_counts(), genes)
        cells = _on_panel(sample.cell_counts(), genes) if sample.has_cell_truth else None
        block = blocks_of(sample.spots[["x", "y"]].to_numpy())
        return cls(sample, list(genes), spots=spots, totals=np.asarray(spots.sum(1)).ravel(), cells=cells, block=block)

    @property
    def cell_is_known(self) -> np.ndarray:
        """(C,) whether the cell has a spot, and that counts."""
        spot = self.sample.cells["spot"].to_numpy()
        return (spot >= 0) & (self.totals[spot] > 0)

    @property
    def cells_left_out(self) -> int:
        """Count the cells that cannot be scored though the sample has cell truth."""
        return int((~self.cell_is_known).sum()) if self.cells is not None else 0

    def beside(self, batch: PredictedCells, counts: sparse.csr_matrix) -> Compared:
        """Put the counts (C, G) of cells beside their predictions, where their spot has any."""
        scored = self.totals[batch.spot_of] > 0
        cells, spot_of = batch.cells[scored], batch.spot_of[scored]
        return Compared(
            cells=cells,
            spot_of=spot_of,
            inside=batch.inside[scored],
            block=self.block[spot_of],
            observed=log_share(counts[cells].toarray(), self.totals[spot_of]),
            predicted=batch.share_log[scored],
        )


class MomentsByScenario:
    """Moments per gene of every model on one sample, by scenario and metric."""

    def __init__(self, truth: Truth, scenario: str) -> None:
        self.truth, self.scenario = truth, scenario
        # OOS and OOD are of all cells; where all of them are members, that is OOS_in.
        outside = truth.cell_is_known & ~truth.sample.cells["inside"].to_numpy()
        self._whole = not scenario.startswith("IS") and bool(outside.any())
        self.of: dict[tuple[str, str, str], Moments] = {}  # by model, scenario and metric

    def add_spots(self, model: str, spots: np.ndarray, spot_log: np.ndarray) -> None:
        """Add a model's predictions (s, G) for spots (s,) that follow one another; NaN where it says nothing."""
        truth = self.truth
        at = spots[(truth.totals[spots] > 0) & np.isfinite(spot_log[:, 0])]
        observed = log_share(truth.spots[at].toarray(), truth.totals[at])
        self._moments(model, self.scenario, "spot_pearson").add(truth.block[at], observed, spot_log[at - spots[0]])

    def add_cells(self, model: str, them: Compared) -> None:
        """Add a model's predictions for cells: inside spots, outside, all where that is one question, and within spots.

        Given the spots, cells inside them and outside are two questions, and are not averaged.
        """
        inside = them.inside
        parts = [(f"{self.scenario}_in", inside), (f"{self.scenario}_out", ~inside)]
        if self._whole and not given_spot(model):
            parts.append((self.scenario, np.ones_like(inside)))
        for scenario, chosen in parts:
            self._moments(model, scenario, "pearson").add(
                them.block[chosen], them.observed[chosen], them.predicted[chosen]
            )
        centred = centred_by(them.spot_of[inside], them.observed[inside], them.predicted[inside])
        self._moments(model, f"{self.scenario}_in", "within_spot").add(them.block[inside], *centred)

    def _moments(self, model: str, scenario: str, metric: str) -> Moments:
        key = (model, scenario, metric)
        if key not in self.of:
            self.of[key] = Moments(int(self.truth.block.max()) + 1, len(self.truth.genes))
        return self.of[key]


class Picture:
    """One gene of every model that saw no spot, cell by cell."""

    def __init__(self, truth: Truth, gene: str) -> None:
        self._truth = truth
        self._shown = truth.genes.index(gene) if gene in truth.genes else 0
        self._kept: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}  # rows, truth, prediction

    def add(self, model: str, them: Compared) -> None:
        """Keep the gene of some cells."""
        if SEES_SPOT not in model and model not in BASELINES:
            values = (them.cells, them.observed[:, self._shown], them.predicted[:, self._shown])
            self._kept.setdefault(model, []).append(values)

    def painted(self) -> list[Painted]:
        """Give the gene as it lies on the slide."""
        sample, truth = self._truth.sample, self._truth
        points = sample.cells[["x", "y"]].to_numpy() * sample.mpp
        known = np.flatnonzero(truth.totals > 0)
        spots = log_share(truth.spots[known][:, [self._shown]].toarray(), truth.totals[known])[:, 0]
        spot_points = sample.spots[["x", "y"]].to_numpy()[known] * sample.mpp
        found = []
        for model, parts in self._kept.items():
            rows, seen, predicted = (np.concatenate(part) for part in zip(*parts, strict=True))
            if not len(rows):
                continue
            both = np.corrcoef(seen, predicted)[0, 1] if seen.std() and predicted.std() else float("nan")
            found.append(
                Painted(
                    sample=sample.name, model=model, gene=truth.genes[self._shown], points=points[rows], truth=seen,
                    prediction=predicted, pearson=float(both), spot_points=spot_points, spots=spots,
                )
            )  # fmt: skip
        return found


def _formatted(
    moments: MomentsByScenario, info: CheckpointInfo, seed: int | None
) -> tuple[list[Row], np.ndarray, pd.DataFrame]:
    """Tidy rows, their resampled values (rows, 10,000), and scores per gene."""
    sample, genes = moments.truth.sample.name, moments.truth.genes
    rows: list[Row] = []
    resamples: list[np.ndarray] = []
    per_gene = []
    for (model, scenario, metric), of_model in moments.of.items():
        trained = model not in BASELINES
        own_seed = seed if trained else None
        kind = info.training.model if trained and SEES_SPOT not in model else model
        encoder = info.encoder.description.encoder if trained else ""
        checkpoint = info.name if trained else ""
        for one in scores(of_model, zlib.crc32(f"{sample}/{scenario}".encode())):
            rows.append(Row(
                model=model, kind=kind, encoder=encoder, checkpoint=checkpoint, scenario=scenario, genes=one.genes,
                metric=metric, value=one.value, low=one.low, high=one.high, n_cells=of_model.number,
                n_genes=one.n_genes, sample=sample, seed=own_seed,
            ))  # fmt: skip
            resamples.append(one.resamples)
        per_gene.append(pd.DataFrame({
            "model": model, "kind": kind, "encoder": encoder, "checkpoint": checkpoint, "scenario": scenario,
            "sample": sample, "seed": own_seed, "metric": metric, "gene": genes,
            "rank": np.arange(1, len(genes) + 1), "value": of_model.pearson(),
        }))  # fmt: skip
    drawn = np.array(resamples, np.float32).reshape(len(rows), metrics.RESAMPLES)
    return rows, drawn, pd.concat(per_gene, ignore_index=True) if per_gene else pd.DataFrame()


def _baseline(baseline: Baseline, truth: Truth) -> Iterator[PredictedCells]:
    cells = truth.sample.cells
    context, inside, area = (cells[column].to_numpy() for column in ("spot", "inside", "area_um2"))
    for spots, rows, new in by_spots(truth.sample, truth.spots.shape[1]):
        share_log = baseline(truth.spots, truth.totals, spot_of=context[rows], inside=inside[rows], area=area[rows])[
            new
        ]
        yield PredictedCells(spots, rows[new], context[rows[new]], inside[rows[new]], share_log=share_log)


def _on_panel(counts: Counts, genes: Sequence[str]) -> sparse.csr_matrix:
    """Columns of counts in the order of a model's panel.

    A gene that was not measured is zero throughout, which is constant, so it is left out of every score.
    """
    column = pd.Index(genes).get_indexer(pd.Index(counts.genes))
    entries = counts.matrix.tocoo()
    known = column[entries.col] >= 0
    at = (entries.row[known], column[entries.col[known]])
    return sparse.csr_matrix((entries.data[known], at), shape=(len(counts.ids), len(genes)))
