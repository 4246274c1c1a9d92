"""Files: replaced whole or not at all, hashed, and read as records."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from .errors import InputError
from .schema import Record

Kind = TypeVar("Kind", bound=Record)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it is renamed onto `path` at the end.

    A killed run leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Do the same for a folder.

    What stood at `path` is moved aside for the moment between two renames, and back again where the second fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
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


def _beside(path: Path) -> Path:
    """Name a hidden path beside another; containers that share a disk may have the same process id."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


def write_json(path: Path, document: Any) -> None:
    """Write JSON through `replacing`; NaN is refused."""
    with replacing(path) as part:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON through `replacing`."""
    write_json(path, record.document())


def read_record(kind: type[Kind], path: Path, *, hint: str) -> Kind:
    """Read a file of JSON as a record.

    Args:
        kind: The type of the record.
        path: The file.
        hint: What to do where it is not what it should be.

    Raises:
        InputError: The file cannot be read, or something in it is missing, of the wrong type or not known.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", hint) from error
    return parse_record(kind, text, where=str(path), hint=hint)


def parse_record(kind: type[Kind], text: str | bytes, *, where: str, hint: str) -> Kind:
    """Read JSON as a record; raises InputError that names `where` it stands and the first key that is wrong."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise InputError(f"{where} is damaged ({first['msg'].lower()})", hint) from error
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}{f', {place}' if place else ''}: {first['msg'].lower()}", hint) from error


def version_of(text: bytes) -> Any:
    """Give the `version` that a JSON document names; None where it names none or is no document."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document.get("version") if isinstance(document, dict) else None


def file_hash(path: Path) -> str:
    """Hash a file's bytes with sha256; raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path.") from error


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Name in 32 hex digits what a step was made from: inputs, settings, version."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:32]
