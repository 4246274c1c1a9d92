"""The project directory (paths, settings, samples, provenance), and the workspace that steps share."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import schema
from .choices import Features
from .errors import InputError, UsageError
from .files import parse_record, read_record, version_of, write_record
from .geometry import Lattice, pixel_boxes
from .io.counts import Counts, read_counts
from .io.outlines import read_outlines
from .progress import Progress, silent
from .records import EmbeddingRecord, EncoderUsed, SampleRecord
from .settings import DEFAULT_ENCODER, Embedding, Geometry, Section, Training, resolve


def must_run(what: str, recorded: str | None, *, wanted: str, force: bool) -> bool:
    """Whether a step has work to do: not when it was made from the same, and only with `force` over another.

    Raises UsageError when a different result stands there and `force` is not given.
    """
    if recorded is None or force:
        return True
    if recorded == wanted:
        return False
    raise UsageError(f"{what} is there already, made from other inputs or settings", "Add --force to replace it.")


@dataclass(frozen=True)
class Sample:
    """One prepared sample, as its folder says."""

    name: str
    folder: Path
    record: SampleRecord

    @property
    def donor(self) -> str:
        return self.record.donor

    @property
    def cohort(self) -> str:
        return self.record.cohort

    @property
    def slide(self) -> Path:
        return Path(self.record.slide)

    @property
    def slide_fingerprint(self) -> str:
        return self.record.slide_fingerprint

    @property
    def mpp(self) -> float:
        return self.record.mpp

    @property
    def has_cell_truth(self) -> bool:
        return (self.folder / schema.CELL_COUNTS_FILE).exists()

    @property
    def has_spot_counts(self) -> bool:
        return (self.folder / schema.SPOT_COUNTS_FILE).exists()

    @property
    def geometry(self) -> Geometry:
        return self.record.geometry

    @property
    def lattice(self) -> Lattice:
        return self.record.lattice

    @cached_property
    def cells(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / schema.CELLS_FILE)

    @cached_property
    def spots(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / schema.SPOTS_FILE)

    @cached_property
    def neighbours(self) -> np.ndarray:
        return np.load(self.folder / schema.NEIGHBOURS_FILE, allow_pickle=False)

    def outlines(self) -> np.ndarray:
        """Outlines (cells,) in level-0 pixels: polygons, or points where only centroids were given."""
        return read_outlines(self.folder / schema.OUTLINES_FILE)

    def cell_boxes(self) -> np.ndarray:
        """Pixel boxes (cells, 3) of the cell tiles."""
        return pixel_boxes(self.cells[["tile_x", "tile_y", "tile_side"]].to_numpy())

    def spot_boxes(self) -> np.ndarray:
        """Pixel boxes (spots, 3) of the spot tiles."""
        return pixel_boxes(self.spots[["tile_x", "tile_y", "tile_side"]].to_numpy())

    def cell_counts(self) -> Counts:
        return read_counts(self.folder / schema.CELL_COUNTS_FILE)

    def spot_counts(self) -> Counts:
        return read_counts(self.folder / schema.SPOT_COUNTS_FILE)


@dataclass(frozen=True)
class Project:
    """A project directory and, through it, its settings and samples."""

    root: Path

    @property
    def samples_folder(self) -> Path:
        return self.root / "samples"

    def checkpoint(self, name: str) -> Path:
        return self.root / "checkpoints" / f"{name}.pt"

    def checkpoint_names(self) -> list[str]:
        """Checkpoints of the project, by name."""
        return sorted(path.stem for path in (self.root / "checkpoints").glob("*.pt"))

    def checkpoint_named(self, name: str) -> Path:
        """A checkpoint by its file or by its name in the project; raises InputError when there is none."""
        for path in (Path(name), self.checkpoint(name.removesuffix(".pt"))):
            if path.is_file():
                return path
        known = ", ".join(self.checkpoint_names()) or "none yet"
        raise InputError(f"there is no checkpoint {name} (the project has: {known})", "Train one with `ds2c train`.")

    def predictions(self, name: str) -> Path:
        return self.root / "predictions" / name

    def evaluation(self, name: str) -> Path:
        return self.root / "evaluation" / name

    def settings(self, section: type[Section], flags: Mapping[str, Any]) -> Section:
        """A section's settings from flag, variable, ds2c.toml and default, in this order."""
        table = self._toml.get(section.__name__.lower(), {})
        return resolve(section, flags, environment=os.environ, table=table)

    @cached_property
    def _toml(self) -> dict[str, Any]:
        path = self.root / schema.SETTINGS_FILE
        if not path.exists():
            return {}
        try:
            document = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML ({error})", "Correct the line it names.") from error
        known = [kind.__name__.lower() for kind in (Geometry, Embedding, Training)]
        for name, table in document.items():
            if name not in known or not isinstance(table, dict):
                raise UsageError(
                    f"{path} has {name!r} at its top", f"Sections are {', '.join(f'[{k}]' for k in known)}."
                )
        return document

    def sample_names(self) -> list[str]:
        """Prepared samples, by name."""
        return sorted(path.parent.name for path in self.samples_folder.glob(f"*/{schema.SAMPLE_FILE}"))

    def sample(self, name: str) -> Sample:
        """One prepared sample; raises InputError when there is none of this name or it is of another version."""
        folder = self.samples_folder / name
        path = folder / schema.SAMPLE_FILE
        if not path.exists():
            known = ", ".join(self.sample_names()) or "none yet"
            raise InputError(f"{self.root} has no sample {name!r} (it has: {known})", "Run `ds2c prepare` for it.")
        again = "Run `ds2c prepare --force` for it."
        text = path.read_bytes()
        version = version_of(text)
        if version is not None and version != schema.SAMPLE_VERSION:
            raise InputError(f"{path} is of version {version}, this ds2c reads {schema.SAMPLE_VERSION}", again)
        return Sample(name, folder, parse_record(SampleRecord, text, where=str(path), hint=again))

    def samples(self, names: Sequence[str] = ()) -> list[Sample]:
        """The samples named, or all; raises InputError when there is none."""
        wanted = list(names) or self.sample_names()
        if not wanted:
            raise InputError(
                f"{self.root.resolve()} has no samples",
                "Run `ds2c prepare SLIDE --cells FILE` first, or name the project with --project.",
            )
        return [self.sample(name) for name in wanted]

    # What `embed` last did, so that `train` needs neither the weights nor the flags again.

    def record_embedding(
        self,
        encoder: EncoderUsed,
        *,
        rate: float | None,
        samples: Sequence[str],
        shards: int,
    ) -> None:
        """Remember the encoder that was used, as the latest, its tiles per second where some were encoded, and of which
        samples the work was split into how many shards."""
        known = (entry.tiles_per_second for entry in self.embeddings() if entry.fingerprint == encoder.fingerprint)
        entry = EmbeddingRecord(
            settings=encoder.settings,
            fingerprint=encoder.fingerprint,
            description=encoder.description,
            recorded=time.time(),
            tiles_per_second=rate or next(known, None),
            samples=list(samples),
            shards=shards,
        )
        write_record(self.root / schema.EMBEDDINGS_FOLDER / f"{encoder.fingerprint}.json", entry)

    def embedding(self, wanted: Embedding) -> EmbeddingRecord:
        """The encoder to train with: the one asked for, else the latest used.

        Raises InputError that names the command when the project was not embedded with it.
        """
        entries = self.embeddings()
        for entry in entries:
            found = entry.description
            if (
                wanted.encoder in ("", found.encoder)
                and wanted.precision in ("auto", found.precision)
                and wanted.features == found.features
            ):
                return entry
        what = wanted.encoder or "any encoder"
        what = f"the {wanted.features} of {what}" if wanted.features != Features.TILES else what
        at = "" if wanted.precision == "auto" else f" at {wanted.precision}"
        words = f" --features {wanted.features}" if wanted.features != Features.TILES else ""
        raise InputError(
            f"the project {self.root.resolve()} was not embedded with {what}{at}",
            f"Run `ds2c embed --encoder {wanted.encoder or DEFAULT_ENCODER}{words}` first.",
        )

    def embeddings(self) -> list[EmbeddingRecord]:
        """List the encoders that this project was embedded with, the latest first."""
        again = "Remove the file and run `ds2c embed` again: what the cache has is not encoded again."
        entries = [
            read_record(EmbeddingRecord, path, hint=again)
            for path in self.root.glob(f"{schema.EMBEDDINGS_FOLDER}/*.json")
        ]
        return sorted(entries, key=lambda entry: entry.recorded, reverse=True)


def default_cache() -> Path:
    """Name the cache's folder: `DS2C_CACHE`, else ds2c in the user's cache directory."""
    if root := os.environ.get("DS2C_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ds2c"


@dataclass(frozen=True)
class Workspace:
    """Everything that steps share and pass on.

    Args:
        project: The project directory.
        cache: The folder of embeddings, for every run and project.
        device: auto, cpu, cuda, or CUDA devices with commas between them: cuda:0,cuda:1.
        progress: Called with how far a step is.
    """

    project: Project
    cache: Path = field(default_factory=default_cache)
    device: str = "auto"
    progress: Progress = silent

    @classmethod
    def of(cls, subject: Project | Workspace) -> Workspace:
        """Make a workspace of a project with the defaults of all else; a workspace stays as it is."""
        return subject if isinstance(subject, Workspace) else cls(subject)
