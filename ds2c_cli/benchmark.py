"""The benchmark: prepare, embed, train over folds and seeds, and score; each step leaves alone what it has done."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import schema
from .benchmark_file import ENSEMBLE, Benchmark, EncoderEntry, Fold, ModelEntry
from .checkpoint import Checkpoint, load_checkpoint
from .embed import embed
from .errors import InputError, UsageError
from .evaluate import Painted, Piece, Scored, pieces_of, score
from .manifest import prepare_all
from .metering import Cost, measured
from .models import MODELS
from .progress import Progress, silent
from .project import Project, Sample, recipe_hash, replacing, write_json
from .train import CELL_SUPERVISED, train

PREDICTED = ("share", "spot_log", "rates")  # what of a piece a network says


@dataclass(frozen=True)
class Job:
    """One network of the benchmark: trained on a fold, with a seed; without one, the mean of all its seeds."""

    fold: Fold
    encoder: EncoderEntry
    model: ModelEntry
    seed: int | None

    @property
    def name(self) -> str:
        """For files."""
        words = (self.fold.name, self.encoder.name, self.model.name, ENSEMBLE if self.seed is None else f"s{self.seed}")
        return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in word) for word in words)

    @property
    def label(self) -> str:
        """In tables; the encoder is a column of its own."""
        return f"{self.model.name}, {ENSEMBLE}" if self.seed is None else self.model.name


@dataclass
class Results:
    """What has been scored so far.

    `rows` are tidy, as of an evaluation, with design, fold, encoder and label; row i has resampled values
    `resamples[i]` (10000,). `missing` are jobs without a score yet, `left_out` those that cannot be: reasons.
    """

    folder: Path
    rows: pd.DataFrame
    resamples: np.ndarray
    per_gene: pd.DataFrame
    painted: list[Painted]
    steps: pd.DataFrame
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def folder_of(project: Project, plan: Benchmark) -> Path:
    """Where a benchmark's scores, steps and report are."""
    return project.root / "benchmark" / plan.name


def run(
    project: Project,
    plan: Benchmark,
    cache_root: Path,
    device: str = "auto",
    progress: Progress = silent,
    seeds: Sequence[int] = (),
) -> Iterator[int]:
    """Do what is not done yet, a seed at a time over all folds, encoders and models: yields how many seeds are done.

    A benchmark that was killed goes on where it was. `seeds` are those of the plan to do, by default all: jobs with
    different seeds may run side by side in one project once it is embedded, and the last to end scores the ensembles.
    Raises UsageError for a seed that the plan has not, InputError where samples have different geometries, and what the
    steps raise.
    """
    if unknown := [seed for seed in seeds if seed not in plan.seeds]:
        raise UsageError(
            f"the benchmark {plan.name} has no seed {unknown[0]}", f"Its seeds are {', '.join(map(str, plan.seeds))}."
        )
    meter = _Meter(folder_of(project, plan) / "steps")
    for request in plan.requests:
        with meter.step("prepare", request.name) as report:
            (done,) = prepare_all(project, [request], plan.geometry, progress=progress)
            report(not done.unchanged, f"{done.n_cells:,} cells")
    names = [request.name for request in plan.requests]
    check_one_geometry(project.samples(names))
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for encoder in plan.encoders:
        for features in dict.fromkeys(MODELS[model.settings.model].features for model in plan.models):
            settings = replace(encoder.settings, features=features)
            with meter.step("embed", f"{features} by {encoder.name}") as report:
                embedded = embed(project, settings, cache_root, names, device, progress=progress)
                report(embedded.encoded > 0, f"{embedded.encoded:,} tiles")
            entry = next(e for e in project.embeddings() if e["fingerprint"] == embedded.fingerprint)
            entries[encoder.name, features] = entry

    def learn(job: Job) -> Path:
        path = project.checkpoint(job.name)
        settings = replace(job.model.settings, seed=job.seed or 0)
        entry = entries[job.encoder.name, MODELS[settings.model].features]
        with meter.step("train", job.name) as report:
            trained = train(
                project, settings, entry, cache_root, path, job.fold.train, device=device, progress=progress
            )
            report(not trained.unchanged, f"{trained.epochs} epochs")
        return path

    def rate(job: Job, checkpoints: Sequence[Path], baselines: bool) -> None:
        sources = [load_checkpoint(path) for path in checkpoints]
        for sample in project.samples(list(job.fold.scenario)):
            if not sample.has_spot_counts:
                continue
            with meter.step("score", f"{job.name} on {sample.name}") as report:
                report(_score(project, plan, cache_root, job, sources, sample, baselines, device, progress), "")

    for number, seed in enumerate(seeds or plan.seeds):
        for job in jobs(project, plan, [seed]):
            rate(job, [learn(job)], job.name == _with_baselines(project, plan, job.fold))
        yield number + 1
    if plan.ensemble and len(plan.seeds) > 1:
        for job in jobs(project, plan, [None]):
            checkpoints = [project.checkpoint(replace(job, seed=seed).name) for seed in plan.seeds]
            if all(path.exists() for path in checkpoints):
                rate(job, checkpoints, False)


def jobs(project: Project, plan: Benchmark, seeds: Sequence[int | None]) -> Iterator[Job]:
    """Every network of these seeds that can be trained."""
    for seed in seeds:
        for fold in plan.folds:
            truth = all(sample.has_cell_truth for sample in project.samples(fold.train))
            for encoder in plan.encoders:
                for model in plan.models:
                    if truth or model.settings.model != CELL_SUPERVISED:
                        yield Job(fold, encoder, model, seed)


def collect(project: Project, plan: Benchmark) -> Results:
    """All scores there are, whether the benchmark has ended or not."""
    folder = folder_of(project, plan)
    rows: list[dict[str, Any]] = []
    resamples, genes, painted, missing = [], [], [], []
    seeds: list[int | None] = [*plan.seeds, *([None] if plan.ensemble and len(plan.seeds) > 1 else [])]
    for job in jobs(project, plan, seeds):
        for sample in job.fold.scenario:
            path = _score_file(folder, job, sample)
            if not path.exists():
                missing.append(f"{job.name} on {sample}")
                continue
            scored = _read(path)
            where = {"design": job.fold.design, "fold": job.fold.number}
            rows += [{**row, **where} for row in scored.rows]
            resamples.append(scored.resamples)
            genes.append(scored.per_gene.assign(design=job.fold.design, fold=job.fold.number))
            if job.seed == plan.seeds[0]:
                painted += [replace(one, scenario=job.fold.scenario[sample]) for one in scored.painted]
    if not rows:
        raise InputError(f"nothing has been scored yet in {folder}", "Run `ds2c benchmark` on the file first.")
    left_out = [
        f"{model.name} on {fold.name}: no single-cell counts to learn from"
        for fold in plan.folds
        for model in plan.models
        if model.settings.model == CELL_SUPERVISED
        and not all(sample.has_cell_truth for sample in project.samples(fold.train))
    ]
    return Results(
        folder,
        pd.DataFrame(rows),
        np.concatenate(resamples),
        pd.concat(genes, ignore_index=True),
        painted,
        pd.DataFrame(_Meter(folder / "steps").entries()),
        missing,
        left_out,
    )


def check_one_geometry(samples: Sequence[Sample]) -> None:
    """Raise InputError where samples were prepared differently: their scores belong in no one table.

    Measured spots have the array's layout, which nobody chose; it may differ.
    """
    first = samples[0]
    for sample in samples[1:]:
        mine, other = (replace(s.geometry, layout="grid" if s.measured else s.geometry.layout) for s in (first, sample))
        if mine != other or first.geometry.pseudospot != sample.geometry.pseudospot:
            raise InputError(
                f"samples {first.name} and {sample.name} have different geometries, which one report must not mix: "
                f"{first.geometry} and {sample.geometry}",
                "Prepare them alike, or write a benchmark file for each.",
            )


def _with_baselines(project: Project, plan: Benchmark, fold: Fold) -> str:
    """The name of the fold's first job, with which the trivial baselines are scored."""
    return next(job.name for job in jobs(project, plan, plan.seeds[:1]) if job.fold == fold)


def _score(
    project: Project,
    plan: Benchmark,
    cache_root: Path,
    job: Job,
    sources: Sequence[Checkpoint],
    sample: Sample,
    baselines: bool,
    device: str,
    progress: Progress,
) -> bool:
    """Score one network on one sample unless that is done: whether there was work to do."""
    path = _score_file(folder_of(project, plan), job, sample.name)
    recipe = recipe_hash(
        {
            "checkpoints": [source.hash for source in sources],
            "sample": sample.record["recipe"],
            "scenario": job.fold.scenario[sample.name],
            "label": job.label,
            "gene": plan.gene,
            "baselines": baselines,
            "version": schema.METRICS_VERSION,
        }
    )
    if path.exists() and _recipe_of(path) == recipe:
        return False
    parts = [pieces_of(project, cache_root, source, sample, device, progress) for source in sources]
    about = {**sources[0].about}
    if job.seed is None:
        about = {**about, "name": job.name, "training": {**about["training"], "seed": None}}
    scored = score(
        about, _mean_of(parts), sample, job.fold.scenario[sample.name], job.label, baselines,
        plan.gene,
    )  # fmt: skip
    for row in scored.rows:
        row["encoder"] = job.encoder.name if row["encoder"] else ""
    scored.per_gene["encoder"] = scored.per_gene["encoder"].where(scored.per_gene["encoder"] == "", job.encoder.name)
    scored = replace(scored, painted=[replace(one, encoder=job.encoder.name) for one in scored.painted])
    _write(path, recipe, scored)
    return True


def _mean_of(parts: Sequence[Callable[[], Iterator[Piece]]]) -> Callable[[], Iterator[Piece]]:
    """The mean of several networks' predictions, on the scale they are scored on: as the published code averages."""
    if len(parts) == 1:
        return parts[0]

    def run_all() -> Iterator[Piece]:
        for pieces in zip(*(part() for part in parts), strict=True):
            yield replace(pieces[0], **{name: _mean([getattr(each, name) for each in pieces]) for name in PREDICTED})

    return run_all


def _mean(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Of what every network says; None where they do not say it."""
    said = [value for value in values if value is not None]
    return np.mean(said, axis=0) if said else None


# A score on disk: one file, without pickles


def _score_file(folder: Path, job: Job, sample: str) -> Path:
    return folder / "scores" / job.name / f"{sample}.npz"


def _write(path: Path, recipe: str, scored: Scored) -> None:
    table = io.BytesIO()
    scored.per_gene.to_parquet(table, index=False)
    named = ("sample", "model", "encoder", "gene", "pearson")
    pictures = [{key: getattr(one, key) for key in named} for one in scored.painted]
    arrays = {
        f"{name}{i}": np.asarray(getattr(one, name), np.float32)
        for i, one in enumerate(scored.painted)
        for name in ("points", "truth", "prediction", "spot_points", "spots")
    }
    about = {
        "recipe": recipe, "rows": scored.rows, "painted": pictures, "left_out": scored.left_out,
        "constant": scored.constant,
    }  # fmt: skip
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            about=np.array(json.dumps(about)),
            resamples=scored.resamples.astype(np.float32),
            per_gene=np.frombuffer(table.getvalue(), np.uint8),
            **arrays,  # type: ignore[arg-type]
        )


def _read(path: Path) -> Scored:
    with np.load(path, allow_pickle=False) as held:
        about = json.loads(str(held["about"]))
        painted = [
            Painted(
                **picture,
                **{n: held[f"{n}{i}"] for n in ("points", "truth", "prediction", "spot_points", "spots")},
            )
            for i, picture in enumerate(about["painted"])
        ]
        per_gene = pd.read_parquet(io.BytesIO(held["per_gene"].tobytes()))
        return Scored(about["rows"], held["resamples"], per_gene, painted, about["left_out"], about["constant"])


def _recipe_of(path: Path) -> str:
    try:
        with np.load(path, allow_pickle=False) as held:
            return json.loads(str(held["about"]))["recipe"]
    except (OSError, KeyError, ValueError):
        return ""


class _Meter:
    """Costs of the steps that were done, a file each; a step left alone keeps what it cost when it was done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[dict[str, Any]]:
        """Of all steps, in the order they were done."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"), key=_modified)]

    @contextmanager
    def step(self, step: str, what: str) -> Iterator[Callable[[bool, str], None]]:
        """Measures what is done inside; the call it gives says whether there was work to do, and a fact about it."""
        told: list[str] = []

        def report(worked: bool, facts: str) -> None:
            if worked:
                told.append(facts)

        with measured() as cost:
            yield report
        if told:
            self.record(step, what, cost, told[0])

    def record(self, step: str, what: str, cost: Cost, facts: str) -> None:
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in f"{step}-{what}")
        write_json(self.folder / f"{name}.json", {"step": step, "what": what, **asdict(cost), "facts": facts})


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
