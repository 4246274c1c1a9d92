"""benchmark.toml: which samples, encoders, models and seeds, and what each network is trained and scored on."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .errors import InputError, UsageError
from .evaluate import SEES_SPOT
from .io.hest import open_hest
from .manifest import COLUMNS, Request, requests_of
from .models import MODELS
from .models.baselines import BASELINES
from .settings import Embedding, Geometry, Training, preset, resolve

SplitBy = Literal["donor", "patient", "sample"]
FOLDS = 5  # at most; DESIGN 9
KEYS = (
    "name", "preset", "split_by", "models", "encoders", "seeds", "reference", "ensemble", "gene", "geometry",
    "training", "model", "encoder", "design", "sample",
)  # fmt: skip
IS, OOS, OOD = "IS", "OOS", "OOD"
ENSEMBLE = "ensemble"  # of a model's seeds; part of its name in tables


@dataclass(frozen=True)
class ModelEntry:
    """A model to train, and how it is called in tables; an ablation has a table and a figure apart."""

    name: str
    settings: Training
    ablation: bool = False


@dataclass(frozen=True)
class EncoderEntry:
    """An encoder, and how it is called in tables."""

    name: str
    settings: Embedding


@dataclass(frozen=True)
class Fold:
    """Samples that networks are trained on, and the scenario in which each sample is scored."""

    design: str
    number: int
    train: tuple[str, ...]
    scenario: dict[str, str]  # by sample: IS, OOS or OOD

    @property
    def name(self) -> str:
        """For files."""
        kind = "-ood" if OOD in self.scenario.values() else ""
        return f"{self.design}{kind}-fold{self.number}"


@dataclass(frozen=True)
class Benchmark:
    """All that a benchmark file says."""

    name: str
    requests: list[Request]
    geometry: Geometry
    folds: list[Fold]
    models: list[ModelEntry]
    encoders: list[EncoderEntry]
    seeds: list[int]
    reference: str = ""  # the model that others are compared with
    ensemble: bool = False  # the seeds of a model also averaged
    gene: str = ""  # the one that is painted; empty: the most variable
    designs: list[str] = field(default_factory=list)


def read_benchmark(path: Path, split_by: str = "") -> Benchmark:
    """Read and check a benchmark file; `split_by` overrules the file's.

    Paths are as seen from its folder. Raises InputError or UsageError that names what is wrong in it.
    """
    document = _document(path)
    geometry = resolve(Geometry, {}, {}, {**preset(document.get("preset", "")), **document.get("geometry", {})})
    tables = document.get("sample", [])
    if not tables:
        raise InputError(f"{path} has no [[sample]]", "Write one a slide, with the columns of a manifest.")
    rows = []
    for number, table in enumerate(tables, 1):
        place = f"sample {table.get('sample', table.get('hest_id', number))}"
        if unknown := [key for key in table if key not in (*COLUMNS, "patient")]:
            raise InputError(f"{path}, {place}: {', '.join(unknown)} is not known", f"Keys are {', '.join(COLUMNS)}.")
        rows.append((place, {key: _text(value) for key, value in table.items() if key != "patient"}))
    requests = [_with_donor(request) for request in requests_of(rows, path, geometry)]
    chosen = split_by or document.get("split_by", "donor")
    if chosen not in ("donor", "patient", "sample"):
        raise UsageError(f"split_by is donor, patient or sample, not {chosen!r}", f"Correct {path}.")
    group = {request.name: _group(request, table, chosen) for request, table in zip(requests, tables, strict=True)}
    cohort = {request.name: request.cohort or "cohort" for request in requests}
    folds = list(_folds(path, document.get("design", []), group, cohort))
    models = _models(path, document)
    reference = document.get("reference", "additive" if "additive" in [m.name for m in models] else models[0].name)
    if reference not in [model.name for model in models]:
        raise InputError(f"{path}: the reference {reference!r} is none of its models", "Name one of them.")
    return Benchmark(
        document.get("name", path.stem),
        requests,
        geometry,
        folds,
        models,
        _encoders(path, document),
        [int(seed) for seed in document.get("seeds", [0, 1, 2])],
        reference,
        bool(document.get("ensemble", False)),
        document.get("gene", ""),
        list(dict.fromkeys(fold.design for fold in folds)),
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML ({error})", "Correct the line it names.") from error
    if unknown := [key for key in document if key not in KEYS]:
        raise InputError(f"{path}: there is no setting {', '.join(unknown)}", f"Known: {', '.join(KEYS)}.")
    return document


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _group(request: Request, table: dict[str, Any], split_by: str) -> str:
    """What a fold keeps whole. HEST's patient may split what is one donor: pieces of a lung."""
    if split_by == "sample":
        return request.name
    donor = request.donor or request.name
    if split_by == "donor":
        return donor
    return str(table.get("patient", "")) or _patient(request) or donor


def _with_donor(request: Request) -> Request:
    """A HEST sample without a donor is of the patient that HEST names."""
    return request if request.donor else replace(request, donor=_patient(request))


def _patient(request: Request) -> str:
    """As HEST names them, with the study within which the name holds; empty where it does not say."""
    if request.sources.hest is None:
        return ""
    hest = open_hest(request.sources.hest, request.sources.hest_id)
    study = str(hest.metadata.get("dataset_title", ""))
    return f"{study}: {hest.donor}" if study and hest.donor else hest.donor


def _folds(
    path: Path, designs: Sequence[dict[str, Any]], group: dict[str, str], cohort: dict[str, str]
) -> Iterator[Fold]:
    """Every design's folds; without designs, one for each cohort.

    A design with `ood` trains on all samples of its cohorts, and is scored on those cohorts alone.
    """
    for design in designs or [{"cohorts": [name]} for name in dict.fromkeys(cohort.values())]:
        if unknown := [key for key in design if key not in ("name", "cohorts", "folds", "ood")]:
            raise InputError(f"{path}: a design has no {', '.join(unknown)}", "It has name, cohorts, folds and ood.")
        for each in (*design.get("cohorts", []), *design.get("ood", [])):
            if each not in cohort.values():
                raise InputError(f"{path}: a design names the cohort {each!r}", "No sample is of it.")
        inside = [name for name, of in cohort.items() if of in design.get("cohorts", [])]
        if not inside:
            raise InputError(f"{path}: a design has no cohorts to train on", 'Write cohorts = ["..."].')
        name = design.get("name", "+".join(design["cohorts"]))
        if design.get("ood"):
            apart = {sample: OOD for sample, of in cohort.items() if of in design["ood"]}
            yield Fold(name, 1 + _earlier(designs, design), tuple(inside), apart)
            continue
        groups = sorted({group[sample] for sample in inside})
        count = min(design.get("folds", FOLDS), len(groups))
        if count < 2:
            yield Fold(name, 1, tuple(inside), dict.fromkeys(inside, IS))
            continue
        for number in range(count):
            out = [sample for sample in inside if group[sample] in groups[number::count]]
            kept = [sample for sample in inside if sample not in out]
            yield Fold(name, number + 1, tuple(kept), dict.fromkeys(kept, IS) | dict.fromkeys(out, OOS))


def _earlier(designs: Sequence[dict[str, Any]], design: dict[str, Any]) -> int:
    """How many OOD designs of the same name stand before this one."""
    before = designs[: list(designs).index(design)]
    return sum(1 for other in before if other.get("ood") and other.get("name") == design.get("name"))


def _models(path: Path, document: dict[str, Any]) -> list[ModelEntry]:
    base = document.get("training", {})
    entries = [{"model": name} for name in document.get("models", [])] + document.get("model", [])
    models = []
    for entry in entries or [{"model": "paper"}, {"model": "additive"}]:
        settings = {key: value for key, value in entry.items() if key not in ("name", "ablation")}
        training = resolve(Training, {}, {}, {**base, **settings})
        if training.model not in MODELS:
            raise UsageError(f"{path}: there is no model {training.model!r}", f"Known: {', '.join(MODELS)}.")
        models.append(ModelEntry(entry.get("name", training.model), training, bool(entry.get("ablation", False))))
    _all_different(path, "model", [model.name for model in models])
    for model in models:
        if SEES_SPOT in model.name or model.name in BASELINES or ENSEMBLE in model.name:
            words = ", ".join((*BASELINES, SEES_SPOT, ENSEMBLE))
            raise InputError(
                f"{path}: a model is called {model.name!r}", f"Tables use {words} for other things: rename it."
            )
    return models


def _encoders(path: Path, document: dict[str, Any]) -> list[EncoderEntry]:
    encoders = []
    for entry in [{"encoder": name} for name in document.get("encoders", [])] + document.get("encoder", []):
        settings = {key: value for key, value in entry.items() if key != "name"}
        if settings.get("weights"):
            settings["weights"] = str(path.parent / settings["weights"])
        embedding = resolve(Embedding, {}, {}, settings)
        encoders.append(EncoderEntry(entry.get("name", embedding.encoder), embedding))
    if not encoders:
        encoders.append(EncoderEntry(Embedding.encoder, Embedding()))
    _all_different(path, "encoder", [encoder.name for encoder in encoders])
    return encoders


def _all_different(path: Path, what: str, names: list[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the {what} {twice[0]} twice", "Give each its own name.")
