"""The records that steps store in files and pass on: each a type, read strictly and written as JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import JsonValue, SerializerFunctionWrapHandler, model_serializer

from .choices import Features, Mode, Pooling
from .geometry import Lattice
from .schema import Record
from .settings import Embedding, Geometry, Training


class SourceFile(Record):
    """A file that a sample was made from."""

    path: str
    sha256: str


class SampleRecord(Record):
    """What a prepared sample is and was made from: sample.json."""

    version: int
    ds2c: str  # the version that wrote it
    recipe: str  # names inputs and settings; equal samples have equal recipes
    slide: str  # path
    slide_fingerprint: str
    width: int  # of the slide, level-0 pixels
    height: int
    mpp: float  # microns per level-0 pixel
    donor: str
    cohort: str
    measured: bool  # its spots were measured, not simulated from cells
    geometry: Geometry
    lattice: Lattice
    sources: dict[str, SourceFile]  # by what they are
    warnings: list[str]


class EncoderDescription(Record):
    """What an encoder is: all that decides its vectors, which is what its fingerprint covers, and its name."""

    encoder: str  # the name; two names may stand for one encoder
    architecture: str
    arguments: dict[str, JsonValue]  # of timm.create_model
    pooling: Pooling
    dimension: int  # numbers per tile
    mean: tuple[float, ...]  # of the channels, which are 0..1
    std: tuple[float, ...]
    tile_px: int  # side of the input; 0: the tile as it is
    resize_px: int  # side before the centre is cropped; 0: nothing is cropped
    interpolation: str
    precision: str
    weights: str  # sha256 of the weights' file; empty where there are none
    map_side: int = 0  # rows and columns of the map of features; 0: one vector per tile

    @property
    def features(self) -> Features:
        """Say what it gives of a tile."""
        return Features.SUPERPIXELS if self.map_side else Features.TILES

    @property
    def fingerprint(self) -> str:
        """Name in 32 hex digits all of the description but the encoder's name."""
        covered = {key: value for key, value in self.document().items() if key != "encoder"}
        return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()[:32]

    @model_serializer(mode="wrap")
    def _without_absent_map(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `map_side` where there is no map: fingerprints are older than maps."""
        said: dict[str, Any] = handler(self)
        return {key: value for key, value in said.items() if key != "map_side" or value}


class EncoderUsed(Record):
    """An encoder as it was used: the settings that asked for it, and what they came to."""

    settings: Embedding
    fingerprint: str
    description: EncoderDescription


class EmbeddingRecord(EncoderUsed):
    """What `embed` last did by an encoder, so that `train` needs neither the weights nor the flags again."""

    recorded: float  # seconds since 1970
    tiles_per_second: float | None
    samples: list[str]  # into whose tiles the shards were split
    shards: int

    @property
    def used(self) -> EncoderUsed:
        """Give the encoder alone, as checkpoints name it."""
        return EncoderUsed(settings=self.settings, fingerprint=self.fingerprint, description=self.description)


class CheckpointInfo(Record):
    """What a checkpoint was trained from and how."""

    name: str
    recipe: str
    ds2c: str
    training: Training
    genes: list[str]
    geometry: Geometry
    encoder: EncoderUsed
    train: list[str]  # samples that were learned from
    val: list[str]  # samples that only stopped the training
    cohorts: list[str]
    donors: list[str]
    slides: list[str]  # fingerprints of all of them
    mixed_precision: bool
    epochs: int
    best_epoch: int  # from 1
    best_loss: float  # on held-out spots


class CheckpointUsed(CheckpointInfo):
    """A checkpoint as a prediction names it."""

    hash: str  # sha256 of its file


class SampleUsed(Record):
    """A sample as a prediction names it."""

    name: str
    slide_fingerprint: str
    mpp: float


class PredictionInfo(Record):
    """What a prediction was made from: uns["ds2c"]."""

    version: int
    ds2c: str
    recipe: str
    mode: Mode
    sample: SampleUsed
    checkpoint: CheckpointUsed
