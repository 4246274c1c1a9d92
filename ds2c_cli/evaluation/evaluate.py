"""Step 5: score predictions against single-cell truth, beside the trivial baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from .. import schema
from ..errors import InputError, UsageError
from ..files import recipe_hash, replacing, write_json
from ..prediction.file import PredictionFile
from ..prediction.inference import Inference, PredictedCells, by_spots, cache_for, check_fit
from ..project import Project, Sample, Workspace
from ..records import CheckpointInfo
from ..training.checkpoint import Checkpoint, load_checkpoint
from ..training.dataset import load_dataset
from ..training.train import CELL_SUPERVISED
from .scoring import Painted, Scored, score


@dataclass
class Evaluated:
    """What `evaluate` found: tidy rows, scores per gene, and what the report draws from."""

    folder: Path
    rows: pd.DataFrame
    per_gene: pd.DataFrame
    painted: list[Painted] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """Predictions of one sample: by which checkpoint, and what tables call it."""

    sample: Sample
    info: CheckpointInfo
    predictions: Iterable[PredictedCells]
    label: str
    deconvolved: bool = False  # given the measured spots


def evaluate(
    workspace: Workspace | Project,
    *,
    checkpoints: Sequence[Path] = (),
    predictions: Path | None = None,
    samples: Sequence[str] = (),
    name: str = "",
    baselines: bool = True,
) -> Evaluated:
    """Score checkpoints, or written predictions, on every sample with truth, and write metrics and scores per gene.

    Samples with cell counts are scored cell by cell, measured ones spot by spot, which written predictions do not
    hold.

    Args:
        workspace: Where the samples and checkpoints are.
        checkpoints: Models that predict now.
        predictions: A folder of what `predict` wrote, instead.
        samples: Names; all of the project by default.
        name: Of the evaluation's folder.
        baselines: Whether to score the trivial baselines too, once per sample, scenario and panel.

    Raises:
        UsageError: There are two kinds of sources.
        InputError: There is nothing to score.
    """
    workspace = Workspace.of(workspace)
    if checkpoints and predictions is not None:
        raise UsageError("--checkpoint and --predictions are two sources of scores", "Give one of them.")
    chosen = [sample for sample in workspace.project.samples(samples) if sample.has_spot_counts]
    if not chosen:
        raise InputError("no sample has counts to score against", "Prepare samples with --counts.")
    if predictions is None:
        sources, without_truth = _of_checkpoints(workspace, checkpoints, chosen), ""
    else:
        sources, without_truth = _of_folder(predictions, chosen), _without_truth(predictions, chosen)

    scored: list[Scored] = []
    warnings: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for source in sources:
        scenario = scenario_of(source.info, source.sample)
        panel = (source.sample.name, scenario, *source.info.genes)
        scored.append(
            score(
                source.info,
                source.predictions,
                sample=source.sample,
                scenario=scenario,
                label=source.label,
                baselines=baselines and panel not in seen,
                deconvolved=source.deconvolved,
            )
        )
        warnings += scored[-1].warnings(source.sample.name)
        seen.add(panel)
    folder = workspace.project.evaluation(name or _default_name(checkpoints, predictions))
    return _written(folder, scored, warnings=warnings, without_truth=without_truth)


def _of_checkpoints(workspace: Workspace, paths: Sequence[Path], samples: Sequence[Sample]) -> Iterator[Source]:
    checkpoints = [load_checkpoint(path) for path in paths]
    for checkpoint, label in zip(checkpoints, labels_of([each.info for each in checkpoints]), strict=True):
        for sample in samples:
            yield Source(sample, checkpoint.info, predicted(workspace, checkpoint, sample), label=label)


def predicted(workspace: Workspace, checkpoint: Checkpoint, sample: Sample) -> Inference:
    """Give a checkpoint's predictions for a sample, embedding what is missing.

    Raises InputError where the sample's geometry is not the checkpoint's.
    """
    check_fit(checkpoint, sample)
    cache, _ = cache_for(workspace, checkpoint, sample)
    dataset = load_dataset([sample], cache, encoder=checkpoint.encoder.description, outside=True)
    stage = f"score {checkpoint.name} on {sample.name}"
    return Inference(checkpoint, dataset, device=workspace.device, progress=workspace.progress, stage=stage)


def _of_folder(folder: Path, samples: Sequence[Sample]) -> Iterator[Source]:
    """Open the predictions of a folder; raises InputError where a sample is another by now."""
    for sample in samples:
        path = folder / f"{sample.name}.h5ad"
        if not path.exists() or not sample.has_cell_truth:
            continue
        file = PredictionFile(path)
        again = "Run `ds2c predict` again."
        if not np.array_equal(file.cell_id, sample.cells["cell_id"].to_numpy()):
            raise InputError(f"{folder} predicts other cells than sample {sample.name} has", again)
        info = file.info.checkpoint
        info.geometry.must_fit(
            sample.geometry, here=f"the predictions {folder}", there=f"sample {sample.name}", hint=again
        )
        deconvolved = file.info.mode == "deconvolve"
        yield Source(sample, info, FromFile(file, sample), label=info.training.model, deconvolved=deconvolved)


def _without_truth(folder: Path, samples: Sequence[Sample]) -> str:
    """Say of which samples a folder has predictions and nobody knows the cells; empty where there are none."""
    names = [each.name for each in samples if (folder / f"{each.name}.h5ad").exists() and not each.has_cell_truth]
    return f"{', '.join(names)}: spots were measured, and {folder} holds predictions of cells only" if names else ""


@dataclass(frozen=True)
class FromFile:
    """The predictions of a file, as `Inference` gives them; they say nothing of spots."""

    file: PredictionFile
    sample: Sample

    def __iter__(self) -> Iterator[PredictedCells]:
        context, inside = self.sample.cells["spot"].to_numpy(), self.sample.cells["inside"].to_numpy()
        for spots, together, new in by_spots(self.sample, len(self.file.genes)):
            rows = together[new]
            share_log, share = self.file.spot_share(rows), self.file.share(rows)
            yield PredictedCells(spots, rows, context[rows], inside[rows], share_log=share_log, share=share)


def _written(folder: Path, scored: Sequence[Scored], *, warnings: list[str], without_truth: str) -> Evaluated:
    """Write metrics.json and per_gene.parquet; raises InputError where nothing was scored."""
    rows = [row for one in scored for row in one.rows]
    if without_truth and not rows:
        raise InputError(without_truth, "Score the model itself, with --checkpoint.")
    warnings = list(dict.fromkeys([*warnings, *([without_truth] if without_truth else [])]))
    if not rows:
        raise InputError(
            "nothing was scored: " + ("; ".join(warnings) or "no sample has both truth and a prediction"),
            "Run `ds2c predict` on samples that were prepared with --counts, of genes that the model knows.",
        )
    found = Evaluated(
        folder,
        rows=pd.DataFrame(rows),
        per_gene=pd.concat([one.per_gene for one in scored], ignore_index=True),
        painted=[each for one in scored for each in one.painted],
        warnings=warnings,
    )
    document = {"version": schema.METRICS_VERSION, "rows": found.rows.replace({np.nan: None}).to_dict("records")}
    write_json(folder / "metrics.json", document)
    with replacing(folder / "per_gene.parquet") as part:
        found.per_gene.to_parquet(part, index=False)
    return found


def scenario_of(info: CheckpointInfo, sample: Sample) -> str:
    """Say what a sample is to a checkpoint.

    IS for one that it was trained on, VAL for one that only stopped the training, OOS for another of the same cohorts,
    OOD for one of another cohort.
    """
    if sample.name in info.val:
        return "VAL"
    if sample.slide_fingerprint in info.slides:
        return "IS"
    return "OOS" if sample.cohort in info.cohorts else "OOD"


def labels_of(infos: Sequence[CheckpointInfo]) -> list[str]:
    """Name checkpoints in tables: by the model; with its encoder where there are several; by their own name where
    models of one name differ in more than the seed and the samples, so that unlike runs are never averaged.
    """
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
    """Divide each score by the cell-supervised model's on the same cells, genes and metric (mean of its seeds).

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
