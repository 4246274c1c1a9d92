"""Settings of every step as records, and how flag, variable, file and default combine."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from .choices import (
    Context,
    Features,
    Layout,
    Membership,
    MixedPrecision,
    Precision,
    Pseudospot,
    SpotPooling,
)
from .errors import InputError, UsageError
from .schema import Record


class Geometry(Record):
    """How spots, tiles and membership are laid out; lengths in microns."""

    layout: Layout = "grid"
    membership: Membership = "margin"
    spot_um: float = 55.0  # diameter of the disc
    spot_tile_um: float = 0.0  # side of the spot's tile; 0: the paper's 224 / 160 = 1.4 times the disc
    pitch_um: float = 100.0  # hex only: centre to centre; a grid's pitch is its tile
    cell_tile_um: float = 36.0  # smallest side of a cell tile; the paper's tight crop is 0
    margin_um: float = 10.0  # membership = margin
    overlap: float = 0.6  # membership = overlap: smallest share of the cell's area
    # The reference's geometry, in level-0 pixels of each slide whatever they measure; instead of the microns above.
    spot_px: float = 0.0  # diameter of the disc; 0: `spot_um`
    spot_tile_px: float = 0.0  # side of the spot's tile; 0: 1.4 times the disc
    # What a pseudo-spot counts: the cells that are its members, or every transcript in its disc. A model trained on the
    # one may predict slides prepared for the other.
    pseudospot: Pseudospot = "cells"

    def model_post_init(self, context: Any) -> None:
        """Fill in the tile's side; raises UsageError for lengths that fit no spot."""
        if self.spot_px or self.spot_tile_px:
            if not self.spot_px > 0 or self.spot_tile_px < 0:
                raise UsageError("a geometry in pixels needs a spot_px above 0", "Add --spot-px, the disc's diameter.")
            tile = self.spot_tile_px or round(1.4 * self.spot_px, 6)
            if tile < self.spot_px:
                raise UsageError(f"a spot tile of {tile:g} px does not hold a disc of {self.spot_px:g} px")
            for name, value in (("spot_um", 0.0), ("spot_tile_um", 0.0), ("spot_tile_px", tile)):
                object.__setattr__(self, name, value)
            return
        for name in ("spot_um", "pitch_um"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be above 0 um, not {getattr(self, name):g}")
        for name in ("spot_tile_um", "cell_tile_um", "margin_um"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative, not {getattr(self, name):g}")
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap is a share of the cell's area, above 0 and at most 1, not {self.overlap:g}")
        if self.membership == "margin" and self.margin_um >= self.spot_um / 2:
            raise UsageError(
                f"a margin of {self.margin_um:g} um leaves nothing of a disc of {self.spot_um:g} um",
                "Lower --margin-um or choose another --membership.",
            )
        if not self.spot_tile_um:
            object.__setattr__(self, "spot_tile_um", round(1.4 * self.spot_um, 6))
        if self.spot_tile_um < self.spot_um:
            raise UsageError(f"a spot tile of {self.spot_tile_um:g} um does not hold a disc of {self.spot_um:g} um")

    def in_microns(self, mpp: float) -> Geometry:
        """Give every length in microns, as on a slide of `mpp` microns per pixel."""
        if not self.spot_px:
            return self
        return self.changed(
            spot_um=self.spot_px * mpp, spot_tile_um=self.spot_tile_px * mpp, spot_px=0.0, spot_tile_px=0.0
        )

    def fits(self, other: Geometry) -> bool:
        """Say whether a model trained on one predicts the other: they differ at most in what a pseudo-spot counts."""
        return self.changed(pseudospot=other.pseudospot) == other

    def must_fit(self, other: Geometry, *, here: str, there: str, hint: str, exactly: bool = False) -> None:
        """Refuse to go on with another geometry.

        Args:
            other: The other.
            here: What has this geometry, as the message says it.
            there: What has the other.
            hint: What to do about it.
            exactly: Pseudo-spots must count the same things too.

        Raises:
            InputError: The one does not fit the other.
        """
        if self != other if exactly else not self.fits(other):
            raise InputError(f"{here} and {there} have different geometries: {self} and {other}", hint)


# Geometries by name, as settings; what a flag or a file says besides goes on top.
PRESETS: dict[str, dict[str, Any]] = {
    # Visium's disc, the paper's text and tile ratio, and cell tiles with the surroundings encoders know
    "um": {"layout": "grid", "membership": "margin", "spot_um": 55.0, "spot_tile_um": 77.0, "cell_tile_um": 36.0},
    # the published code, so that published numbers can be approached: pixels whatever they measure, tight crops
    "ref-px": {
        "layout": "grid", "membership": "overlap", "overlap": 0.6, "spot_px": 160.0, "spot_tile_px": 224.0,
        "cell_tile_um": 0.0,
    },
}  # fmt: skip


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset; raises UsageError for a name there is not."""
    if name and name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", f"Known: {', '.join(PRESETS)}.")
    return PRESETS[name] if name else {}


DEFAULT_ENCODER = "phikon-v2"


class Embedding(Record):
    """Which encoder turns tiles into embeddings, and at which precision."""

    encoder: str = ""  # empty: phikon-v2 to embed with; to train with, the one that the project was embedded with last
    weights: str = ""  # a file or folder of weights; empty: the hub cache, then the hub
    precision: Precision = "auto"
    batch_size: int = 0  # tiles encoded at once; 0: found for the device
    # One vector for each tile of a cell or spot; or, for istar and scstgcn, the encoder's map of features on a grid.
    features: Features = Features.TILES

    def model_post_init(self, context: Any) -> None:
        """Raise UsageError for a batch size that is none."""
        if self.batch_size < 0:
            raise UsageError(f"batch_size must be at least 1, or 0 to find it, not {self.batch_size}")


class Training(Record):
    """How a model is trained."""

    model: str = "additive"
    seed: int = 0
    hidden: int = 0  # width of the layers; 0: the model's own (the paper's is 512)
    dropout: float = 0.3
    learning_rate: float = 0.0  # of Adam; 0: the model's own (the paper's is 1e-4)
    batch_spots: int = 0  # spots per step; 0: the model's own (the paper's is 256)
    epochs: int = 500
    patience: int = 0  # epochs without a better validation loss before stopping; 0: the model's own
    genes: int = 0  # the most variable genes to model; 0: all of the shared panel
    # Ablations of the DeepSets network: what a cell's vector holds beside the cell (spot: the spot's tile; neighbours:
    # that and the tiles around it), and how the paper's form makes one vector of a spot's cells.
    context: Context = "neighbours"
    pooling: SpotPooling = "sum"
    # Products of bfloat16 while learning, where the device has them (auto); results are the same (docs/research.md).
    mixed_precision: MixedPrecision = "auto"

    def model_post_init(self, context: Any) -> None:
        """Raise UsageError for numbers that no training can have."""
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")
        if self.epochs < 1:
            raise UsageError(f"epochs must be at least 1, not {self.epochs}")
        for name in ("hidden", "batch_spots", "patience"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 1, or 0 for the model's own, not {getattr(self, name)}")
        for name in ("seed", "genes"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, not {getattr(self, name)}")
        if not self.learning_rate >= 0:
            raise UsageError(f"learning_rate must not be negative, not {self.learning_rate:g}")


Section = TypeVar("Section", Geometry, Embedding, Training)


def resolve(
    section: type[Section],
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    table: Mapping[str, Any],
    place: str = "",
) -> Section:
    """Fill a section from flag, then `DS2C_<FIELD>`, then a file's table, then default.

    `place` is where the table stands, by default the section in ds2c.toml. Raises UsageError for an unknown key of the
    table or a value of the wrong type or size.
    """
    hints = {name: field.annotation for name, field in section.model_fields.items()}
    there = place or f"ds2c.toml, [{section.__name__.lower()}]"
    for key in table:
        if key not in hints:
            raise UsageError(f"{there}: there is no setting {key!r}", f"Known: {', '.join(hints)}.")
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        variable = f"DS2C_{name.upper()}"
        if flags.get(name) is not None:
            source, value = f"--{name.replace('_', '-')}", flags[name]
        elif variable in environment:
            source, value = variable, environment[variable]
        elif name in table:
            source, value = f"{there}: {name}", table[name]
        else:
            continue
        values[name] = _convert(value, hint, source)
    try:
        return section(**values)
    except UsageError as error:
        if not place:
            raise
        raise UsageError(f"{place}: {error.message}", error.hint) from error


def _convert(value: Any, kind: Any, source: str) -> Any:
    """One setting as its declared type; the source is named when it does not fit."""
    if kind is Features or typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind) or tuple(map(str, Features))
        if value not in choices:
            raise UsageError(f"{source} must be one of {', '.join(choices)}, not {value!r}")
        return Features(value) if kind is Features else value
    try:
        if kind is int and not float(value).is_integer():
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError):
        name = {int: "whole number", float: "number", str: "word"}[kind]
        raise UsageError(f"{source} must be a {name}, not {value!r}") from None
