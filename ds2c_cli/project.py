"""The project directory: its paths, settings, samples and provenance; every file is replaced whole."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import schema
from .errors import InputError, UsageError
from .geometry import Lattice, pixel_boxes
from .io.counts import Counts, read_counts
from .io.outlines import read_outlines
from .settings import DEFAULT_ENCODER, Embedding, Geometry, Section, Training, resolve


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed onto it at the end, so a killed run leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Containers that share a disk may have the same process id.
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder. What stood at `path` is moved aside for the moment between two renames, and back again
    where the second fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    aside = part.with_suffix(".old")
    try:
        yield part
        for written in part.rglob("*"):
            if written.is_file():
                with written.open("rb+") as file:
                    os.fsync(file.fileno())
        if path.exists():
            path.rename(aside)
        try:
            part.rename(path)
        except BaseException:
            if aside.exists():
                aside.rename(path)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, document: Any) -> None:
    """Write JSON through `replacing`; NaN is refused."""
    with replacing(path) as part:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes; raises InputError when there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path.") from error


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """A short name for what a step was made from: inputs, settings, version."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:32]


def must_run(what: str, recorded: str | None, wanted: str, force: bool) -> bool:
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
    record: dict[str, Any]

    @property
    def donor(self) -> str:
        return self.record["donor"]

    @property
    def cohort(self) -> str:
        return self.record["cohort"]

    @property
    def slide(self) -> Path:
        return Path(self.record["slide"])

    @property
    def slide_fingerprint(self) -> str:
        return self.record["slide_fingerprint"]

    @property
    def mpp(self) -> float:
        return self.record["mpp"]

    @property
    def measured(self) -> bool:
        """Its spots were measured, not simulated from cells."""
        return self.record["measured"]

    @property
    def has_cell_truth(self) -> bool:
        return (self.folder / schema.CELL_COUNTS_FILE).exists()

    @property
    def has_spot_counts(self) -> bool:
        return (self.folder / schema.SPOT_COUNTS_FILE).exists()

    @cached_property
    def geometry(self) -> Geometry:
        return Geometry(**self.record["geometry"])

    @cached_property
    def lattice(self) -> Lattice:
        return Lattice(**self.record["lattice"])

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
        return resolve(section, flags, os.environ, table)

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
        record = json.loads(path.read_text())
        if record["version"] != schema.SAMPLE_VERSION:
            raise InputError(
                f"{path} is of version {record['version']}, this ds2c reads {schema.SAMPLE_VERSION}",
                "Run `ds2c prepare --force` for it.",
            )
        return Sample(name, folder, record)

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
        settings: Embedding,
        description: Mapping[str, Any],
        fingerprint: str,
        rate: float | None,
        samples: Sequence[str],
        shards: int,
    ) -> None:
        """Remember the encoder that was used, as the latest, its tiles a second where some were encoded, and of which
        samples the work was split into how many shards."""
        last = next((e["tiles_per_second"] for e in self.embeddings() if e["fingerprint"] == fingerprint), None)
        entry = {
            "recorded": time.time(),
            "settings": asdict(settings),
            "fingerprint": fingerprint,
            "description": dict(description),
            "tiles_per_second": rate or last,
            "samples": list(samples),
            "shards": shards,
        }
        write_json(self.root / schema.EMBEDDINGS_FOLDER / f"{fingerprint}.json", entry)

    def embedding(self, wanted: Embedding) -> dict[str, Any]:
        """The encoder to train with: the one asked for, else the latest used.

        Raises InputError that names the command when the project was not embedded with it.
        """
        entries = self.embeddings()
        for entry in entries:
            found = entry["description"]
            features = "superpixels" if "map_side" in found else "tiles"
            if (
                wanted.encoder in ("", found["encoder"])
                and wanted.precision in ("auto", found["precision"])
                and features == wanted.features
            ):
                return entry
        what = wanted.encoder or "any encoder"
        what = f"the {wanted.features} of {what}" if wanted.features != "tiles" else what
        at = "" if wanted.precision == "auto" else f" at {wanted.precision}"
        words = f" --features {wanted.features}" if wanted.features != "tiles" else ""
        raise InputError(
            f"the project {self.root.resolve()} was not embedded with {what}{at}",
            f"Run `ds2c embed --encoder {wanted.encoder or DEFAULT_ENCODER}{words}` first.",
        )

    def embeddings(self) -> list[dict[str, Any]]:
        """Encoders this project was embedded with, the latest first."""
        entries = [json.loads(path.read_text()) for path in self.root.glob(f"{schema.EMBEDDINGS_FOLDER}/*.json")]
        return sorted(entries, key=lambda entry: entry["recorded"], reverse=True)
