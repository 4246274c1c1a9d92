"""Step 5: predictions are scored against single-cell truth and beside the trivial baselines."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from .. import schema
from ..errors import InputError, UsageError
from ..expression import log_share
from ..files import recipe_hash, replacing, write_json
from ..io.counts import Counts
from ..prediction.deconvolve import Deconvolution
from ..prediction.file import PredictionFile
from ..prediction.inference import Inference, PredictedCells, by_spots, cache_for, check_fit, held_where_small
from ..project import Project, Sample
from ..records import CheckpointInfo
from ..training.checkpoint import Checkpoint, load_checkpoint
from ..training.dataset import load_bags
from ..training.train import CELL_SUPERVISED
from ..workspace import Workspace
from . import metrics
from .baselines import BASELINES, SEE_SPOT, Baseline
from .metrics import Moments, blocks_of, centred_by, scores

SEES_SPOT = "+ spot"  # added to a model's name where it was given the measured spot (DESIGN 8, deconvolve)


@dataclass
class Evaluated:
    """What `evaluate` found: tidy rows (DESIGN 9), scores a gene, and what the report draws from."""

    folder: Path
    rows: pd.DataFrame
    per_gene: pd.DataFrame
    painted: list[Painted] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    """One source on one sample: tidy rows with their resampled values (rows, 10,000), scores a gene, pictures.

    Resamples of one sample and scenario draw the same blocks whatever the model, so differences of two are paired.
    """

    rows: list[dict[str, Any]]
    resamples: np.ndarray
    per_gene: pd.DataFrame
    painted: list[Painted]
    left_out: int  # cells without truth
    constant: int  # genes of the panel without a count

    def warnings(self, sample: str) -> list[str]:
        """What was not scored of the sample, in sentences."""
        if not self.rows:
            return [f"{sample}: nothing is scored, as no gene of the panel varies in it or it has none of them"]
        return not_scored(sample, self.left_out, self.constant)


@dataclass(frozen=True)
class Truth:
    """What is known of a sample, over a model's panel."""

    sample: Sample
    spots: sparse.csr_matrix  # (S, G)
    totals: np.ndarray  # (S,)
    cells: sparse.csr_matrix | None  # (C, G)
    block: np.ndarray  # (S,) the spatial block of each spot
    area: np.ndarray  # (C,) um2


def evaluate(
    workspace: Workspace | Project,
    *,
    checkpoints: Sequence[Path] = (),
    predictions: Path | None = None,
    samples: Sequence[str] = (),
    name: str = "",
    baselines: bool = True,
) -> Evaluated:
    """Score checkpoints, or written predictions, on every sample with truth, and write metrics and scores a gene.

    Samples with cell counts are scored cell by cell, measured ones spot by spot, which written predictions do not
    hold. Raises UsageError for two kinds of sources, InputError when there is nothing to score.
    """
    workspace = Workspace.of(workspace)
    project = workspace.project
    if checkpoints and predictions is not None:
        raise UsageError("--checkpoint and --predictions are two sources of scores", "Give one of them.")
    chosen = [sample for sample in project.samples(samples) if sample.has_spot_counts]
    if not chosen:
        raise InputError("no sample has counts to score against", "Prepare samples with --counts.")
    rows: list[dict[str, Any]] = []
    genes: list[pd.DataFrame] = []
    result = Evaluated(
        project.evaluation(name or _default_name(checkpoints, predictions)), pd.DataFrame(), pd.DataFrame()
    )
    seen: set[tuple[str, ...]] = set()
    without_truth: list[str] = []
    sources = _sources(checkpoints, predictions)
    for source, label in zip(sources, labels_of(sources), strict=True):
        for sample in chosen:
            deconvolved = False
            predictions_of: Iterable[PredictedCells]
            info: CheckpointInfo
            if isinstance(source, Path):
                if not (source / f"{sample.name}.h5ad").exists():
                    continue
                if not sample.has_cell_truth:
                    without_truth.append(sample.name)
                    continue
                file = _written(source, sample)
                info, predictions_of = file.info.checkpoint, Written(file, sample)
                deconvolved = file.info.mode == "deconvolve"
            else:
                info, predictions_of = source.info, predicted(workspace, source, sample)
            scenario = scenario_of(info, sample)
            key = (sample.name, scenario, *info.genes)
            scored = score(
                info,
                predictions_of,
                sample=sample,
                scenario=scenario,
                label=label or info.training.model,
                baselines=baselines and key not in seen,
                deconvolved=deconvolved,
            )
            seen.add(key)
            rows += scored.rows
            genes.append(scored.per_gene)
            result.painted += scored.painted
            result.warnings += scored.warnings(sample.name)
    if without_truth:
        sentence = f"{', '.join(without_truth)}: spots were measured, and {predictions} holds predictions of cells only"
        if not rows:
            raise InputError(sentence, "Score the model itself, with --checkpoint.")
        result.warnings.append(sentence)
    if not rows:
        raise InputError(
            "nothing was scored: " + ("; ".join(result.warnings) or "no sample has both truth and a prediction"),
            "Run `ds2c predict` on samples that were prepared with --counts, of genes that the model knows.",
        )
    result.warnings = list(dict.fromkeys(result.warnings))
    result.rows = pd.DataFrame(rows)
    result.per_gene = pd.concat(genes, ignore_index=True)
    document = {"version": schema.METRICS_VERSION, "rows": result.rows.replace({np.nan: None}).to_dict("records")}
    write_json(result.folder / "metrics.json", document)
    with replacing(result.folder / "per_gene.parquet") as part:
        result.per_gene.to_parquet(part, index=False)
    return result


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
    truth = _truth(sample, info.genes)
    table = _Table(truth, scenario, info.genes, gene)
    given = f"{label} {SEES_SPOT}"
    if deconvolved:
        for batch in predictions:
            table.add(given, batch)
    elif truth.cells is None:
        for batch in predictions:
            table.add(label, batch)
    else:
        predictions = held_where_small(predictions, cells=len(sample.cells), genes=len(info.genes))
        deconvolution = Deconvolution(sample, truth.spots)
        for batch in deconvolution.first_pass(predictions):
            table.add(label, batch)
        for batch in deconvolution.second_pass(predictions):
            table.add(given, batch)
    if baselines:
        for name, baseline in BASELINES.items():
            for batch in _baseline(baseline, truth):
                table.add(name, batch)
    return table.scored(info, None if ensemble else info.training.seed)


def not_scored(sample: str, left_out: int, constant: int) -> list[str]:
    """Sentences on the cells of a sample and the genes of a panel that are left out of its scores, where there are."""
    said = []
    if left_out:
        said.append(f"{sample}: {left_out:,} cells have a spot without counts as context and are left out")
    if constant:
        said.append(f"{sample}: {constant:,} genes of the panel have no count in it and are left out")
    return said


def scenario_of(info: CheckpointInfo, sample: Sample) -> str:
    """IS for a training sample, VAL for one that only stopped the training, else OOS or, of another cohort, OOD."""
    if sample.name in info.val:
        return "VAL"
    if sample.slide_fingerprint in info.slides:
        return "IS"
    return "OOS" if sample.cohort in info.cohorts else "OOD"


def labels_of(sources: Sequence[Checkpoint | Path]) -> list[str]:
    """What each source is called in tables: its model; with its encoder where there are several; its own name where
    models of one name differ in more than the seed and the samples, so that unlike runs are never averaged.
    """
    infos = [source.info for source in sources if isinstance(source, Checkpoint)]
    if len(infos) < len(sources):
        return [""] * len(sources)  # written predictions say it themselves
    encoders = {one.encoder.fingerprint for one in infos}
    plain = [
        one.training.model + (f", {one.encoder.description.encoder}" if len(encoders) > 1 else "") for one in infos
    ]
    variants: dict[str, set[str]] = {}
    for label, one in zip(plain, infos, strict=True):
        settings = {**one.training.document(), "seed": 0, "encoder": one.encoder.fingerprint}
        variants.setdefault(label, set()).add(recipe_hash(settings))
    return [one.name if len(variants[label]) > 1 else label for label, one in zip(plain, infos, strict=True)]


def relative_to_ceiling(rows: pd.DataFrame) -> pd.Series:
    """Each score over the cell-supervised model's on the same cells, genes and metric (mean of its seeds).

    A model is compared with the ceiling of its own encoder, a baseline, which has none, with the mean of them.
    """
    keys = ["sample", "scenario", "genes", "metric"]
    ceiling = rows[rows["kind"] == CELL_SUPERVISED]
    of_encoder = ceiling.groupby([*keys, "encoder"])["value"].mean()
    of_any = ceiling.groupby(keys)["value"].mean()
    known = of_encoder.reindex(pd.MultiIndex.from_frame(rows[[*keys, "encoder"]])).to_numpy(float)
    any_encoder = of_any.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy(float)
    return rows["value"] / np.where(rows["encoder"] == "", any_encoder, known)


def _default_name(checkpoints: Sequence[Path], predictions: Path | None) -> str:
    if predictions is not None:
        return predictions.resolve().name
    return checkpoints[0].stem if len(checkpoints) == 1 else "all"


def _sources(checkpoints: Sequence[Path], predictions: Path | None) -> list[Checkpoint | Path]:
    return [predictions] if predictions is not None else [load_checkpoint(path) for path in checkpoints]


def predicted(workspace: Workspace, source: Checkpoint, sample: Sample) -> Inference:
    """Give a checkpoint's predictions for a sample, embedding what is missing.

    Raises InputError where the sample's geometry is not the checkpoint's.
    """
    check_fit(source, sample)
    cache, _ = cache_for(workspace, source, sample)
    bags = load_bags([sample], cache, source.encoder.description, outside=True)
    stage = f"score {source.name} on {sample.name}"
    return Inference(source, bags, device=workspace.device, progress=workspace.progress, stage=stage)


def _written(folder: Path, sample: Sample) -> PredictionFile:
    """The predictions of a folder for a sample; raises InputError where the sample is another by now."""
    file = PredictionFile(folder / f"{sample.name}.h5ad")
    if not np.array_equal(file.cell_id, sample.cells["cell_id"].to_numpy()):
        raise InputError(f"{folder} predicts other cells than sample {sample.name} has", "Run `ds2c predict` again.")
    if not file.info.checkpoint.geometry.fits(sample.geometry):
        raise InputError(
            f"{folder} predicts sample {sample.name} in another geometry than it has now", "Run `ds2c predict` again."
        )
    return file


@dataclass(frozen=True)
class Written:
    """The predictions of a file, as `Inference` gives them; they say nothing of spots."""

    file: PredictionFile
    sample: Sample

    def __iter__(self) -> Iterator[PredictedCells]:
        context, inside = self.sample.cells["spot"].to_numpy(), self.sample.cells["inside"].to_numpy()
        for spots, together, new in by_spots(self.sample, len(self.file.genes)):
            rows = together[new]
            share_log, share = self.file.spot_share(rows), self.file.share(rows)
            yield PredictedCells(spots, rows, context[rows], inside[rows], share_log=share_log, share=share)


def _truth(sample: Sample, genes: Sequence[str]) -> Truth:
    spots = _on_panel(sample.spot_counts(), genes)
    cells = _on_panel(sample.cell_counts(), genes) if sample.has_cell_truth else None
    points = sample.spots[["x", "y"]].to_numpy()
    totals = np.asarray(spots.sum(1)).ravel()
    return Truth(sample, spots, totals, cells, blocks_of(points), sample.cells["area_um2"].to_numpy())


def _on_panel(counts: Counts, genes: Sequence[str]) -> sparse.csr_matrix:
    """Columns of counts in the order of a model's panel.

    A gene that was not measured is zero throughout, which is constant, so it is left out of every score.
    """
    column = pd.Index(genes).get_indexer(pd.Index(counts.genes))
    entries = counts.matrix.tocoo()
    known = column[entries.col] >= 0
    at = (entries.row[known], column[entries.col[known]])
    return sparse.csr_matrix((entries.data[known], at), shape=(len(counts.ids), len(genes)))


def _baseline(predict: Baseline, truth: Truth) -> Iterator[PredictedCells]:
    context, inside = truth.sample.cells["spot"].to_numpy(), truth.sample.cells["inside"].to_numpy()
    for spots, rows, new in by_spots(truth.sample, truth.spots.shape[1]):
        share_log = predict(truth.spots, truth.totals, context[rows], inside[rows], truth.area[rows])[new]
        yield PredictedCells(spots, rows[new], context[rows[new]], inside[rows[new]], share_log=share_log)


class _Table:
    """Moments of every model on one sample, by scenario and metric."""

    def __init__(self, truth: Truth, scenario: str, genes: Sequence[str], gene: str) -> None:
        self.truth, self.scenario, self.genes = truth, scenario, list(genes)
        self.shown = self.genes.index(gene) if gene in self.genes else 0
        cells = truth.sample.cells
        known = (cells["spot"].to_numpy() >= 0) & (truth.totals[cells["spot"].to_numpy()] > 0)
        self.left_out = int((~known).sum()) if truth.cells is not None else 0
        # OOS and OOD are of all cells; where all of them are members, that is OOS_in.
        self._whole = not scenario.startswith("IS") and bool((known & ~cells["inside"].to_numpy()).any())
        self._moments: dict[tuple[str, str, str], Moments] = {}
        self._kept: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}  # rows, truth, prediction

    def add(self, model: str, batch: PredictedCells) -> None:
        """Add a model's predictions for some spots."""
        truth, known = self.truth, self.truth.totals > 0
        if batch.spot_log is not None:
            at = batch.spots[known[batch.spots] & np.isfinite(batch.spot_log[:, 0])]
            observed = log_share(truth.spots[at].toarray(), truth.totals[at])
            self._add(
                model, self.scenario, "spot_pearson", truth.block[at], observed, batch.spot_log[at - batch.spots[0]]
            )
        if truth.cells is None:
            return
        scored = known[batch.spot_of]
        cells, spot_of, inside = batch.cells[scored], batch.spot_of[scored], batch.inside[scored]
        observed = log_share(truth.cells[cells].toarray(), truth.totals[spot_of])
        predicted, block = batch.share_log[scored], truth.block[spot_of]
        parts = [(f"{self.scenario}_in", inside), (f"{self.scenario}_out", ~inside)]
        sees_spot = SEES_SPOT in model or model in SEE_SPOT
        # Given the spots, cells inside them and outside are two questions, and are not averaged.
        if self._whole and not sees_spot:
            parts.append((self.scenario, np.ones_like(inside)))
        for scenario, chosen in parts:
            self._add(model, scenario, "pearson", block[chosen], observed[chosen], predicted[chosen])
        centred = centred_by(spot_of[inside], observed[inside], predicted[inside])
        self._add(model, f"{self.scenario}_in", "within_spot", block[inside], *centred)
        if SEES_SPOT not in model:
            self._kept.setdefault(model, []).append((cells, observed[:, self.shown], predicted[:, self.shown]))

    def _add(self, model: str, scenario: str, metric: str, block: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        key = (model, scenario, metric)
        if key not in self._moments:
            self._moments[key] = Moments(int(self.truth.block.max()) + 1, len(self.genes))
        self._moments[key].add(block, x, y)

    def scored(self, info: CheckpointInfo, trained_seed: int | None) -> Scored:
        """Tidy rows, scores a gene, and the gene painted for the models that saw no spot."""
        sample = self.truth.sample.name
        rows: list[dict[str, Any]] = []
        resamples: list[np.ndarray] = []
        by_gene = []
        for (model, scenario, metric), moments in self._moments.items():
            trained = model not in BASELINES
            seed = trained_seed if trained else None
            common = {
                "model": model,
                "kind": info.training.model if trained and SEES_SPOT not in model else model,
                "encoder": info.encoder.description.encoder if trained else "",
                "checkpoint": info.name if trained else "",
                "scenario": scenario,
            }
            for one in scores(moments, zlib.crc32(f"{sample}/{scenario}".encode())):
                rows.append({
                    **common, "genes": one.genes, "metric": metric, "value": one.value, "low": one.low,
                    "high": one.high, "n_cells": moments.number, "n_genes": one.n_genes,
                    "sample": sample, "seed": seed,
                })  # fmt: skip
                resamples.append(one.resamples)
            by_gene.append(
                pd.DataFrame(
                    {
                        **common,
                        "sample": sample,
                        "seed": seed,
                        "metric": metric,
                        "gene": self.genes,
                        "rank": np.arange(1, len(self.genes) + 1),
                        "value": moments.pearson(),
                    }
                )
            )
        return Scored(
            rows,
            np.array(resamples, np.float32).reshape(len(rows), metrics.RESAMPLES),
            pd.concat(by_gene, ignore_index=True) if by_gene else pd.DataFrame(),
            self._painted(),
            self.left_out,
            int((self.truth.spots.getnnz(0) == 0).sum()),
        )

    def _painted(self) -> list[Painted]:
        sample, truth = self.truth.sample, self.truth
        points = sample.cells[["x", "y"]].to_numpy() * sample.mpp
        known = np.flatnonzero(truth.totals > 0)
        spots = log_share(truth.spots[known][:, [self.shown]].toarray(), truth.totals[known])[:, 0]
        spot_points = sample.spots[["x", "y"]].to_numpy()[known] * sample.mpp
        painted = []
        for model, parts in self._kept.items():
            if model in BASELINES:
                continue
            rows, seen, predicted = (np.concatenate(part) for part in zip(*parts, strict=True))
            if not len(rows):
                continue
            both = np.corrcoef(seen, predicted)[0, 1] if seen.std() and predicted.std() else float("nan")
            painted.append(
                Painted(
                    sample.name, model, self.genes[self.shown], points[rows], seen, predicted, float(both), spot_points,
                    spots,
                )
            )  # fmt: skip
        return painted
