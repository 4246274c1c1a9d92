"""Records as steps would write them, with made-up values: what a test is not about has a default."""

from __future__ import annotations

from typing import Any

from ds2c_cli import schema
from ds2c_cli.choices import Pooling
from ds2c_cli.geometry import Lattice
from ds2c_cli.records import (
    CheckpointInfo,
    CheckpointUsed,
    EncoderDescription,
    EncoderUsed,
    PredictionInfo,
    SampleRecord,
    SampleUsed,
)
from ds2c_cli.settings import Embedding, Geometry, Training


def encoder_description(**changes: Any) -> EncoderDescription:
    """An encoder's description."""
    plain = {
        "encoder": "made-up", "architecture": "none", "arguments": {}, "pooling": Pooling.NONE, "dimension": 5,
        "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "tile_px": 112, "resize_px": 0, "interpolation": "bicubic",
        "precision": "fp32", "weights": "",
    }  # fmt: skip
    return EncoderDescription(**{**plain, **changes})


def sample_record(**changes: Any) -> SampleRecord:
    """What a prepared sample is."""
    plain = {
        "version": schema.SAMPLE_VERSION, "ds2c": "0", "recipe": "r", "slide": "slide.tif", "slide_fingerprint": "s",
        "width": 1, "height": 1, "mpp": 0.5, "donor": "d", "cohort": "c", "measured": False, "geometry": Geometry(),
        "lattice": Lattice("grid", 100.0), "sources": {}, "warnings": [],
    }  # fmt: skip
    return SampleRecord(**{**plain, **changes})


def encoder_used(**changes: Any) -> EncoderUsed:
    """An encoder as it was used."""
    plain = {"settings": Embedding(), "fingerprint": "f" * 32, "description": encoder_description()}
    return EncoderUsed(**{**plain, **changes})


def checkpoint_info(**changes: Any) -> CheckpointInfo:
    """What a checkpoint says of itself."""
    return CheckpointInfo(**{**_OF_CHECKPOINT, **changes})


def prediction_info(**changes: Any) -> PredictionInfo:
    """What a prediction says of itself."""
    plain = {
        "version": schema.PREDICTION_VERSION, "ds2c": "0", "recipe": "r", "mode": "predict",
        "sample": SampleUsed(name="one", slide_fingerprint="s", mpp=0.5),
        "checkpoint": CheckpointUsed(**{**_OF_CHECKPOINT, "hash": "h"}),
    }  # fmt: skip
    return PredictionInfo(**{**plain, **changes})


_OF_CHECKPOINT: dict[str, Any] = {
    "name": "made-up", "recipe": "r", "ds2c": "0", "training": Training(), "genes": ["a", "b", "c"],
    "geometry": Geometry(), "encoder": encoder_used(), "train": ["one"], "val": [], "cohorts": ["cohort"],
    "donors": ["one"], "slides": ["s"], "mixed_precision": False, "epochs": 1, "best_epoch": 1, "best_loss": 1.0,
}  # fmt: skip
