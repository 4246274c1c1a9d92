"""Checkpoints: a trained model with all that prediction needs, in a file that is safe to load."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from .. import schema
from ..errors import InputError, UsageError
from ..files import file_hash, parse_record, replacing
from ..models import MODELS, SpotModel
from ..models.batch import SpotBatch
from ..records import CheckpointInfo, EncoderUsed
from ..settings import Geometry, Training
from .dataset import SpotDataset

FORMER_NAMES = {
    "members": "networks",
    "log_size": "log_inverse_dispersion",
}  # of weights, in files of version 3
Embedded = TypeVar("Embedded", SpotDataset, SpotBatch)


@dataclass(frozen=True)
class Standardisation:
    """The scale of the training data, on which a model sees every input."""

    centre: torch.Tensor  # (d,) mean of the training embeddings
    feature_sd: torch.Tensor  # (d,) their SD
    mean_area: float  # um2, of the training cells; NaN where they are points

    @property
    def dimension(self) -> int:
        """Count the numbers of an embedding."""
        return len(self.centre)

    def of(self, dataset: Embedded) -> Embedded:
        """Put embeddings and areas on the scale of the training data."""
        area = dataset.area / self.mean_area
        dataset = replace(dataset, area=torch.where(torch.isfinite(area), area, 1.0))
        if dataset.superpixels:
            return replace(dataset, superpixels=dataset.superpixels.scaled(self.centre, self.feature_sd))
        cells, tiles = ((vectors - self.centre) / self.feature_sd for vectors in (dataset.cells, dataset.tiles))
        return replace(dataset, cells=cells, tiles=tiles)


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that prediction needs."""

    model: SpotModel
    scale: Standardisation
    info: CheckpointInfo
    hash: str = ""  # sha256 of the file

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def genes(self) -> list[str]:
        return self.info.genes

    @property
    def geometry(self) -> Geometry:
        return self.info.geometry

    @property
    def encoder(self) -> EncoderUsed:
        return self.info.encoder

    def save(self, path: Path) -> None:
        """Write atomically: tensors, and everything else as JSON."""
        state = {key: value.cpu() for key, value in self.model.state_dict().items()}
        with replacing(path) as part:
            torch.save(
                {
                    "version": schema.CHECKPOINT_VERSION,
                    "about": json.dumps(self.info.document()),
                    "state": state,
                    "centre": self.scale.centre,
                    "spread": self.scale.feature_sd,
                    "mean_area": self.scale.mean_area,
                },
                part,
            )


def build_model(settings: Training, *, dimension: int, genes: int) -> SpotModel:
    """Make an untrained model by its name, in the shape that the settings say.

    Args:
        settings: name, width, dropout and what else the model has for options.
        dimension: numbers of an embedding.
        genes: how many are modelled.

    Raises: UsageError for a setting that the model does not have.
    """
    model = MODELS[settings.model]
    for name in ("context", "pooling"):
        if name not in model.options and getattr(settings, name) != getattr(Training(), name):
            raise UsageError(
                f"{settings.model} has no --{name}", f"Leave it out, or choose another --model than {settings.model}."
            )
    options = {name: getattr(settings, name) for name in model.options}
    return model(dimension, genes, hidden=settings.hidden, dropout=settings.dropout, **options)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without unpickling anything but tensors and plain values.

    Raises InputError when the file is missing, is no checkpoint of ds2c, or would have to run code to be read.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}", "Train one with `ds2c train -o FILE`.")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums of what it reads
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum does not match")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets in a file that is none of ours
        raise InputError(
            f"{path} is not a checkpoint of ds2c: it is damaged or a pickle that would have to run code to load",
            "Use a file that `ds2c train` wrote.",
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if version not in schema.CHECKPOINT_VERSIONS_READ:
        raise InputError(
            f"{path} is of version {version}, this ds2c reads {' and '.join(map(str, schema.CHECKPOINT_VERSIONS_READ))}"
            if version
            else f"{path} holds no ds2c checkpoint",
            "Train it again, or use the ds2c that wrote it.",
        )
    try:
        info = parse_record(
            CheckpointInfo, content["about"], where=str(path), hint="Use a file that `ds2c train` wrote."
        )
        scale = Standardisation(content["centre"], content["spread"], content["mean_area"])
        model = build_model(info.training, dimension=scale.dimension, genes=len(info.genes))
        model.load_state_dict(_named_as_now(content["state"]), strict=True)
        loaded = Checkpoint(model, scale, info, file_hash(path))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{path} does not hold what a checkpoint of version {version} holds ({str(error).splitlines()[0]})",
            "Use a file that `ds2c train` wrote.",
        ) from error
    model.eval().requires_grad_(False)
    return loaded


def _named_as_now(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of checkpoints that were written when the additive model's had other names."""
    now = {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        now[FORMER_NAMES.get(first, first) + dot + rest] = value
    return now


def standardisation(dataset: SpotDataset, spots: np.ndarray) -> Standardisation:
    """Measure mean and SD over the cell and spot tiles, or the superpixels, of the training spots (rows), and their
    cells' mean area."""
    chosen = torch.from_numpy(spots)
    cells, _ = dataset.cell_index(chosen)
    cells = cells[dataset.inside[cells]]
    if dataset.superpixels:
        vectors = dataset.superpixels.features[dataset.superpixels.of_spots.of(chosen)[0]]
    else:
        vectors = torch.cat([dataset.cells[cells], dataset.tiles[chosen]]).float()
    feature_sd = vectors.std(0, correction=0)
    feature_sd = torch.where(feature_sd > 1e-6, feature_sd, 1.0)
    return Standardisation(vectors.mean(0), feature_sd, float(dataset.area[cells].nanmean()))
