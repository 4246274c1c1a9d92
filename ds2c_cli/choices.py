"""The words that options, settings and files may take. Nothing heavy is imported here, as the command line reads it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Layout = Literal["grid", "hex"]
Membership = Literal["margin", "overlap", "centroid"]
Pseudospot = Literal["cells", "transcripts"]
Context = Literal["cell", "spot", "neighbours"]
SpotPooling = Literal["sum", "mean", "gru"]  # how the paper's form makes one vector of a spot's cells
Precision = Literal["auto", "fp32", "bf16", "fp16"]
MixedPrecision = Literal["auto", "on", "off"]
Mode = Literal["predict", "deconvolve"]
Boundaries = Literal["cell", "nucleus"]
SplitBy = Literal["donor", "patient", "sample"]
Preset = Literal["um", "ref-px"]
ModelName = Literal["additive", "paper", "mlp", "cell-supervised", "istar", "scstgcn"]
ExportFormat = Literal["spatialdata", "geojson", "parquet", "csv", "zarr"]


class Features(StrEnum):
    """What of an encoder a model reads: one vector per tile, or its map of features, of which superpixels are made."""

    TILES = "tiles"
    SUPERPIXELS = "superpixels"


class Pooling(StrEnum):
    """How an encoder's output becomes one vector per tile."""

    OWN = "own"  # the network's own output
    CLS = "cls"  # the class token
    CLS_AND_MEAN = "cls + mean"  # the class token and the mean of the patch tokens
    STAGE_FOUR = "stage 4, mean + SD"  # of a convolutional network's fourth stage
    MAP = "map"  # no pooling: the map of features, row by row
    NONE = "none"  # there is no network
