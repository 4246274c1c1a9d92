"""Step 4: give every cell its virtual expression, by a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .. import schema
from ..cache.store import Cache
from ..choices import Mode
from ..embeddings.embed import Embedded
from ..errors import InputError, UsageError
from ..expression import select_genes
from ..files import recipe_hash, replacing
from ..models import SpotModel
from ..progress import Progress
from ..project import Project, Sample, Workspace, must_run
from ..records import CheckpointUsed, PredictionInfo, SampleUsed
from ..schema import TARGET_SUM
from ..training.checkpoint import Checkpoint, load_checkpoint
from ..training.dataset import load_dataset
from ..version import __version__
from .deconvolve import Deconvolution
from .file import MatrixOnDisk, create_predictions, recorded_recipe, write_column
from .inference import Inference, PredictedCells, cache_for, check_fit, held_where_small


@dataclass
class Predicted:
    """What `predict` did for one sample."""

    sample: str
    path: Path
    cells: int = 0
    deconvolved: int = 0
    unchanged: bool = False
    embedded: Embedded | None = field(default=None, repr=False)


def predict(
    workspace: Workspace | Project,
    checkpoint_path: Path,
    *,
    samples: Sequence[str] = (),
    mode: Mode = "predict",
    output: Path | None = None,
    uncertainty: bool = False,
    force: bool = False,
) -> list[Predicted]:
    """Predict every cell of the samples, embedding what is missing first, and write one AnnData per sample.

    `deconvolve` shares the measured counts of each spot out over its members, and corrects the shares of the cells
    outside by what the spots around them say of the model's error; `uncertainty` adds a layer with the SD of
    what `spot_share` is the mean of.

    Raises:
        InputError: A sample's geometry is not the checkpoint's.
        WeightsError: Its encoder cannot be had here.
    """
    workspace = Workspace.of(workspace)
    project = workspace.project
    if mode not in ("predict", "deconvolve"):
        raise UsageError(f"--mode must be predict or deconvolve, not {mode!r}")
    checkpoint = load_checkpoint(checkpoint_path)
    if uncertainty and (mode != "predict" or type(checkpoint.model).predictive_sd is SpotModel.predictive_sd):
        raise UsageError(
            f"{checkpoint.info.training.model} in mode {mode} says nothing of its uncertainty",
            "Leave out --uncertainty, or use --mode predict and a model that has a likelihood, such as additive.",
        )
    chosen = project.samples(samples)
    if output is not None and len(chosen) > 1:
        raise UsageError(f"one file {output} cannot hold {len(chosen)} samples", "Name one sample, or leave out -o.")
    for sample in chosen:
        check_fit(checkpoint, sample)
        if mode == "deconvolve" and not sample.has_spot_counts:
            raise InputError(f"sample {sample.name} has no spot counts to share out", "Use --mode predict.")
    name = checkpoint.name if mode == "predict" else f"{checkpoint.name}-deconvolve"
    done = []
    for sample in chosen:
        path = output or project.predictions(name) / f"{sample.name}.h5ad"
        made_from = {"checkpoint": checkpoint.hash, "sample": sample.record.recipe, "mode": mode}
        recipe = recipe_hash(made_from | {"uncertainty": uncertainty})
        if not must_run(f"prediction {path}", None if force else recorded_recipe(path), wanted=recipe, force=force):
            done.append(Predicted(sample.name, path, len(sample.cells), unchanged=True))
            continue
        order = _Order(checkpoint, sample, path, mode=mode, uncertainty=uncertainty, recipe=recipe)
        cache, embedded = cache_for(workspace, checkpoint, sample)
        result = order.write(_predictions(order, cache, workspace.device), workspace.progress)
        result.embedded = embedded
        done.append(result)
    return done


@dataclass(frozen=True)
class _Order:
    """A prediction to be made of one sample, and written."""

    checkpoint: Checkpoint
    sample: Sample
    path: Path
    mode: Mode
    uncertainty: bool
    recipe: str

    def write(self, predictions: Iterable[PredictedCells], progress: Progress) -> Predicted:
        """Write predictions into one AnnData, some thousand cells at a time."""
        sample, deconvolved, done = self.sample, self.mode == "deconvolve", Predicted(self.sample.name, self.path)
        obs = self._obs()
        of_spot = obs[schema.OF_SPOT].to_numpy(copy=True)
        centre = sample.cells[["x", "y"]].to_numpy()
        obsm = {schema.OBSM_UM: centre * sample.mpp, schema.OBSM_PX: centre}
        with (
            replacing(self.path) as part,
            create_predictions(
                part,
                obs,
                genes=self.checkpoint.genes,
                obsm=obsm,
                info=self._info(),
                counts=deconvolved,
                predictive_sd=self.uncertainty,
            ) as matrices,
        ):
            for batch in predictions:
                of_spot[batch.cells] = _write_batch(batch, matrices)
                done.cells += len(batch.cells)
                done.deconvolved += int(batch.inside.sum()) if deconvolved else 0
                progress(f"predict {sample.name}", done.cells, len(obs), "")
            write_column(part, schema.OF_SPOT, of_spot)
        done.cells = len(obs)
        return done

    def _obs(self) -> pd.DataFrame:
        cells = self.sample.cells
        obs = cells.drop(columns="cell_id").set_index(cells["cell_id"].astype(str).to_numpy())
        if self.mode == "deconvolve":
            obs["deconvolved"] = obs["inside"]
        obs[schema.OF_SPOT] = np.full(len(obs), np.nan, np.float32)
        return obs

    def _info(self) -> PredictionInfo:
        sample, checkpoint = self.sample, self.checkpoint
        return PredictionInfo(
            version=schema.PREDICTION_VERSION,
            ds2c=__version__,
            recipe=self.recipe,
            mode=self.mode,
            sample=SampleUsed(name=sample.name, slide_fingerprint=sample.slide_fingerprint, mpp=sample.mpp),
            checkpoint=CheckpointUsed(hash=checkpoint.hash, **dict(checkpoint.info)),
        )


def _predictions(order: _Order, cache: Cache, device: str) -> Iterable[PredictedCells]:
    """Give what the checkpoint says of the sample's cells; in mode deconvolve, given the counts of its spots."""
    checkpoint, sample = order.checkpoint, order.sample
    dataset = load_dataset([sample], cache, encoder=checkpoint.encoder.description, outside=True)
    predictions: Iterable[PredictedCells] = Inference(checkpoint, dataset, device=device, with_sd=order.uncertainty)
    if order.mode == "predict":
        return predictions
    measured = sample.spot_counts()
    deconvolution = Deconvolution(sample, select_genes(measured.matrix, measured.genes, checkpoint.genes))
    predictions = held_where_small(predictions, cells=len(sample.cells), genes=len(checkpoint.genes))
    for _ in deconvolution.first_pass(predictions):
        pass
    return deconvolution.second_pass(predictions)


def _write_batch(batch: PredictedCells, matrices: Mapping[str, MatrixOnDisk]) -> np.ndarray:
    """Write some cells into all matrices; give (c,) what part of its spot each cell is, which X no longer says."""
    if schema.LAYER_COUNTS in matrices:
        matrices[schema.LAYER_COUNTS].write(batch.cells, batch.counts())
    matrices[schema.LAYER_SPOT_SHARE].write(batch.cells, batch.share_log)
    if batch.predictive_sd is not None:
        matrices[schema.LAYER_SD].write(batch.cells, batch.predictive_sd)
    share = torch.from_numpy(batch.known_share())
    own = share.sum(1, keepdim=True).clamp(min=1e-12)
    matrices["X"].write(batch.cells, torch.log1p(TARGET_SUM * share / own).numpy())
    return own[:, 0].numpy() / TARGET_SUM
