"""Read a benchmark file as it is written: which keys and tables it may have, and of which kind their values are."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from ..errors import InputError
from ..schema import Record

KINDS = {str: "word", bool: "true or false value", int: "whole number", dict: "table"}
Settings = dict[str, Any]  # of training, geometry or an encoder: checked where they are resolved, against their section


class _WithSettings(Record):
    """A table that has settings beside its own keys."""

    model_config = ConfigDict(extra="allow")

    @property
    def own(self) -> Settings:
        """Its settings, as they are written."""
        return self.model_extra or {}


class ModelTable(_WithSettings):
    """A [[model]]: its name in tables, whether it is an ablation, and settings of training."""

    name: str | None = None
    ablation: bool = False


class EncoderTable(_WithSettings):
    """An [[encoder]]: its name in tables, and settings of embedding."""

    name: str | None = None


class DesignTable(Record):
    """A [[design]]: which cohorts are trained on, in how many folds, and which are the other ones."""

    name: str | None = None
    cohorts: list[str] = Field(default_factory=list)
    folds: int | None = None
    ood: list[str] = Field(default_factory=list)


class BenchmarkFile(Record):
    """All that a benchmark file may say."""

    name: str | None = None
    preset: str = ""
    split_by: str = "donor"
    models: list[str] = Field(default_factory=list)
    encoders: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2])
    reference: str | None = None
    ensemble: bool = False
    gene: str = ""
    geometry: Settings = Field(default_factory=dict)
    training: Settings = Field(default_factory=dict)
    model: list[ModelTable] = Field(default_factory=list)
    encoder: list[EncoderTable] = Field(default_factory=list)
    design: list[DesignTable] = Field(default_factory=list)
    sample: list[Settings] = Field(default_factory=list)


def read_file(path: Path) -> BenchmarkFile:
    """Read a benchmark file; raises InputError that names the key that is unknown or whose value is of another kind."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML ({error})", "Correct the line it names.") from error
    try:
        return BenchmarkFile.model_validate(document)
    except ValidationError as error:
        raise _named(path, document, error) from error


def _named(path: Path, document: Mapping[str, Any], error: ValidationError) -> InputError:
    """Say in a sentence what is wrong: a value first, then the keys that are not known."""
    errors = error.errors(include_url=False)
    unknown = [each["loc"] for each in errors if each["type"] == "extra_forbidden"]
    if top := [str(where[0]) for where in unknown if len(where) == 1]:
        return InputError(
            f"{path}: there is no setting {', '.join(top)}", f"Known: {', '.join(BenchmarkFile.model_fields)}."
        )
    if unknown:
        keys = [str(where[-1]) for where in unknown if where[:2] == unknown[0][:2]]
        return InputError(
            f"{path}: a design has no {', '.join(keys)}", f"It has {', '.join(DesignTable.model_fields)}."
        )
    section, number, *rest = *errors[0]["loc"], None, None
    nested = NESTED.get(str(section))
    if nested is None or not rest or rest[0] is None:
        place, fields, table, key = str(path), BenchmarkFile.model_fields, document, str(section)
    else:
        table = document[str(section)][number]
        place, fields, key = _place(path, str(section), table), nested.model_fields, str(rest[0])
    words = _kind_in_words(fields[key].annotation, key)
    return InputError(f"{place}: {key} must be {words}, not {table[key]!r}", "Correct it, or leave it out.")


NESTED: dict[str, type[Record]] = {"model": ModelTable, "encoder": EncoderTable, "design": DesignTable}


def _place(path: Path, section: str, table: Mapping[str, Any]) -> str:
    if section == "design":
        return f"{path}, [[design]]"
    return f"{path}, {section} {table.get('name', table.get(section, ''))}"


def _kind_in_words(annotation: Any, key: str) -> str:
    """Name a field's kind: a word, a list of words, tables."""
    if typing.get_origin(annotation) is dict:
        return f"a {KINDS[dict]}"
    kinds = [each for each in typing.get_args(annotation) or (annotation,) if each is not type(None)]
    if typing.get_origin(annotation) is list:
        return f"a list of {KINDS[kinds[0]]}s" if kinds[0] in KINDS else f"tables, [[{key}]]"
    return f"a {KINDS[kinds[0]]}"
