"""Plan a benchmark: which samples, encoders, models and seeds, and what each network is trained and scored on."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..choices import SplitBy
from ..encoders import recipe_of
from ..errors import InputError, UsageError
from ..evaluation.baselines import BASELINES
from ..evaluation.scoring import SEES_SPOT
from ..io.hest import open_hest
from ..models import MODELS
from ..samples.manifest import COLUMNS, Request, requests_of
from ..settings import DEFAULT_ENCODER, PRESETS, Embedding, Geometry, Training, preset, resolve
from ..training.folds import folds_of
from .file import BenchmarkFile, DesignTable, EncoderTable, ModelTable, Settings, read_file

FOLDS = 5  # at most, where a design does not say
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
    def series(self) -> str:
        """Say what its number counts."""
        return f"{self.design}-ood" if OOD in self.scenario.values() else self.design

    @property
    def name(self) -> str:
        """Name it for files."""
        return f"{self.series}-fold{self.number}"


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
    left_out: list[str] = field(default_factory=list)  # samples that are in the file for nothing, and why


def read_benchmark(path: Path, split_by: str = "") -> Benchmark:
    """Read and check a benchmark file; `split_by` overrules the file's, and is part of the names of what it makes.

    Paths are as seen from its folder. Raises InputError or UsageError that names what is wrong in it.
    """
    file = read_file(path)
    geometry = _geometry(path, file)
    tables, requests, left_out = _samples(path, file.sample, geometry)
    chosen = split_by or file.split_by
    if chosen not in typing.get_args(SplitBy):
        raise UsageError(f"split_by is donor, patient or sample, not {chosen!r}", f"Correct {path}.")
    other_split = "" if chosen == file.split_by else f"-by-{chosen}"
    group = {request.name: _group(request, table, chosen) for request, table in zip(requests, tables, strict=True)}
    cohort = {request.name: request.cohort or "cohort" for request in requests}
    folds = list(_numbered(_folds(path, file.design, group=group, cohort=cohort, suffix=other_split)))
    models, encoders = _models(path, file), _encoders(path, file)
    _all_different(path, "fold", [fold.name for fold in folds])
    _all_different(path, "network", [f"{encoder.name}-{model.name}" for encoder in encoders for model in models])
    names = [model.name for model in models]
    reference = file.reference
    if reference is None:
        reference = "additive" if "additive" in names else names[0]
    if reference not in names:
        raise InputError(f"{path}: the reference {reference!r} is none of its models", "Name one of them.")
    _check_seeds(path, file.seeds)
    return Benchmark(
        name=(path.stem if file.name is None else file.name) + other_split,
        requests=requests,
        geometry=geometry,
        folds=folds,
        models=models,
        encoders=encoders,
        seeds=file.seeds,
        reference=reference,
        ensemble=file.ensemble,
        gene=file.gene,
        designs=list(dict.fromkeys(fold.design for fold in folds)),
        left_out=left_out,
    )


def file_name(*words: str) -> str:
    """Join words to one name of a file."""
    return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in word) for word in words)


def _geometry(path: Path, file: BenchmarkFile) -> Geometry:
    if file.preset and file.preset not in PRESETS:
        raise InputError(f"{path}: there is no preset {file.preset!r}", f"Known: {', '.join(PRESETS)}.")
    return resolve(
        Geometry, {}, environment={}, table={**preset(file.preset), **file.geometry}, place=f"{path}, [geometry]"
    )


def _check_seeds(path: Path, seeds: Sequence[int]) -> None:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: seeds must be different numbers from 0, not {seeds}", "Write seeds = [0, 1, 2].")


def _samples(
    path: Path, tables: Sequence[Settings], geometry: Geometry
) -> tuple[list[Settings], list[Request], list[str]]:
    """Give the samples with counts as written and as requests, and the others, in sentences."""
    if not tables:
        raise InputError(f"{path} has no [[sample]]", "Write one per slide, with the columns of a manifest.")
    rows = []
    for number, table in enumerate(tables, 1):
        place = f"sample {table.get('sample', table.get('hest_id', number))}"
        if unknown := [key for key in table if key not in (*COLUMNS, "patient")]:
            raise InputError(f"{path}, {place}: {', '.join(unknown)} is not known", f"Keys are {', '.join(COLUMNS)}.")
        rows.append((place, {key: _text(value) for key, value in table.items() if key != "patient"}))
    requests = [_with_donor(request) for request in requests_of(rows, path=path, geometry=geometry)]
    counted = [(table, request) for table, request in zip(tables, requests, strict=True) if _has_counts(request)]
    left_out = [
        f"{request.name}: no counts to learn from or to score against"
        for request in requests
        if not _has_counts(request)
    ]
    if not counted:
        raise InputError(f"{path}: no sample has counts", "Add counts = FILE to a [[sample]].")
    return [table for table, _ in counted], [request for _, request in counted], left_out


def _has_counts(request: Request) -> bool:
    sources = request.sources
    return any(source is not None for source in (sources.counts, sources.visium, sources.xenium, sources.hest))


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _group(request: Request, table: Settings, split_by: str) -> str:
    """Name what a fold keeps whole. HEST's patient may split what is one donor: pieces of a lung."""
    if split_by == "sample":
        return request.name
    donor = request.donor or request.name
    if split_by == "donor":
        return donor
    return str(table.get("patient", "")) or _patient(request) or donor


def _with_donor(request: Request) -> Request:
    """Say of a HEST sample without a donor that it is of the patient that HEST names."""
    return request if request.donor else replace(request, donor=_patient(request))


def _patient(request: Request) -> str:
    """Name the patient as HEST does, with the study within which the name holds; empty where it does not say."""
    if request.sources.hest is None:
        return ""
    hest = open_hest(request.sources.hest, request.sources.hest_id)
    study = str(hest.metadata.get("dataset_title", ""))
    return f"{study}: {hest.donor}" if study and hest.donor else hest.donor


def _folds(
    path: Path,
    designs: Sequence[DesignTable],
    *,
    group: dict[str, str],
    cohort: dict[str, str],
    suffix: str,
) -> Iterator[Fold]:
    """Give every design's folds, not numbered yet; without designs, one per cohort.

    A design with `ood` trains on all samples of its cohorts, and is scored on those cohorts alone.
    """
    for design in designs or [DesignTable(cohorts=[name]) for name in dict.fromkeys(cohort.values())]:
        _check_design(path, design, cohort.values())
        inside = [name for name, of in cohort.items() if of in design.cohorts]
        name = ("+".join(design.cohorts) if design.name is None else design.name) + suffix
        if design.ood:
            apart = {sample: OOD for sample, of in cohort.items() if of in design.ood}
            yield Fold(name, 0, tuple(inside), apart)
            continue
        groups = {group[sample] for sample in inside}
        most = FOLDS if design.folds is None else design.folds
        if min(most, len(groups)) < 2:
            yield Fold(name, 0, tuple(inside), dict.fromkeys(inside, IS))
            continue
        for left_out in folds_of(groups, most=most):
            out = [sample for sample in inside if group[sample] in left_out]
            kept = [sample for sample in inside if sample not in out]
            yield Fold(name, 0, tuple(kept), dict.fromkeys(kept, IS) | dict.fromkeys(out, OOS))


def _check_design(path: Path, design: DesignTable, cohorts: Iterable[str]) -> None:
    if not design.cohorts:
        raise InputError(f"{path}: a design has no cohorts to train on", 'Write cohorts = ["..."].')
    if design.folds is not None and design.folds < 1:
        raise InputError(f"{path}: a design has {design.folds} folds", "Write 1 to hold nothing out.")
    for each in (*design.cohorts, *design.ood):
        if each not in cohorts:
            raise InputError(f"{path}: a design names the cohort {each!r}", "No sample with counts is of it.")
    if both := [each for each in design.ood if each in design.cohorts]:
        raise InputError(
            f"{path}: a design trains on the cohort {both[0]!r}, which is therefore not out of distribution",
            "Leave it out of cohorts or of ood.",
        )


def _numbered(folds: Iterable[Fold]) -> Iterator[Fold]:
    """Count folds over all designs of one name."""
    count: Counter[str] = Counter()
    for fold in folds:
        count[fold.series] += 1
        yield replace(fold, number=count[fold.series])


def _models(path: Path, file: BenchmarkFile) -> list[ModelEntry]:
    resolve(Training, {}, environment={}, table=file.training, place=f"{path}, [training]")
    entries = [*map(_of_model, file.models), *file.model] or [_of_model("paper"), _of_model("additive")]
    models = []
    for entry in entries:
        place = f"{path}, model {entry.own.get('model', '') if entry.name is None else entry.name}"
        training = resolve(Training, {}, environment={}, table={**file.training, **entry.own}, place=place)
        _check_model(path, place, training)
        name = training.model if entry.name is None else entry.name
        models.append(ModelEntry(name, training, ablation=entry.ablation))
    _all_different(path, "model", [model.name for model in models])
    for model in models:
        if SEES_SPOT in model.name or model.name in BASELINES or ENSEMBLE in model.name:
            words = ", ".join((*BASELINES, SEES_SPOT, ENSEMBLE))
            raise InputError(
                f"{path}: a model is called {model.name!r}", f"Tables use {words} for other things: rename it."
            )
    return models


def _of_model(name: str) -> ModelTable:
    return ModelTable.model_validate({"model": name})


def _check_model(path: Path, place: str, training: Training) -> None:
    if training.model not in MODELS:
        raise UsageError(f"{path}: there is no model {training.model!r}", f"Known: {', '.join(MODELS)}.")
    for name in ("context", "pooling"):
        if name not in MODELS[training.model].options and getattr(training, name) != getattr(Training(), name):
            raise InputError(
                f"{place}: {training.model} has no {name}",
                f"Write {name} in the [[model]] that it is for, not in [training].",
            )


def _encoders(path: Path, file: BenchmarkFile) -> list[EncoderEntry]:
    encoders = []
    for entry in [*(EncoderTable.model_validate({"encoder": name}) for name in file.encoders), *file.encoder]:
        settings = dict(entry.own)
        place = f"{path}, encoder {settings.get('encoder', '') if entry.name is None else entry.name}"
        if settings.get("weights"):
            settings["weights"] = str(path.parent / str(settings["weights"]))
        embedding = resolve(Embedding, {}, environment={}, table=settings, place=place)
        try:
            recipe_of(embedding.encoder or DEFAULT_ENCODER)
        except UsageError as error:
            raise InputError(f"{path}: {error.message}", error.hint) from error
        name = (embedding.encoder or DEFAULT_ENCODER) if entry.name is None else entry.name
        encoders.append(EncoderEntry(name, embedding))
    if not encoders:
        encoders.append(EncoderEntry(DEFAULT_ENCODER, Embedding()))
    _all_different(path, "encoder", [encoder.name for encoder in encoders])
    return encoders


def _all_different(path: Path, what: str, names: list[str]) -> None:
    """Raise InputError for two that would have the same files."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(file_name(name), name)) != name:
            raise InputError(f"{path}: files of the {what}s {other} and {name} would have one name", "Rename one.")
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise InputError(f"{path} has the {what} {twice[0]} twice", "Give each its own name.")
