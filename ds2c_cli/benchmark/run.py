"""The benchmark: prepare, embed, train over folds and seeds, and score; each step leaves alone what it has done."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from .. import schema
from ..choices import Features
from ..embeddings.embed import embed
from ..encoders import recipe_of
from ..errors import Ds2cError, InputError, UsageError
from ..evaluation.evaluate import predicted
from ..evaluation.figures import MOST_GENES
from ..evaluation.scoring import SEES_SPOT, Painted, Row, Scored, given_spot, not_scored, score
from ..files import recipe_hash, replacing, write_json
from ..models import MODELS
from ..prediction.inference import MeanOfNetworks
from ..project import Project, Sample
from ..records import EmbeddingRecord
from ..samples.manifest import prepare_all
from ..settings import DEFAULT_ENCODER
from ..training.checkpoint import Checkpoint, load_checkpoint
from ..training.train import CELL_SUPERVISED, Trained, train, with_own_defaults
from ..workspace import Workspace
from .costs import Cost, measured
from .plan import ENSEMBLE, IS, Benchmark, EncoderEntry, Fold, ModelEntry, file_name


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
        of_seed = ENSEMBLE if self.seed is None else f"s{self.seed}"
        return file_name(self.fold.name, self.encoder.name, self.model.name, of_seed)

    @property
    def label(self) -> str:
        """In tables; the encoder is a column of its own."""
        return f"{self.model.name}, {ENSEMBLE}" if self.seed is None else self.model.name

    @property
    def features(self) -> Features:
        """What of the encoder it reads."""
        return MODELS[self.model.settings.model].features


@dataclass
class Results:
    """What has been scored so far.

    `rows` are tidy, as of an evaluation, with design, fold, unit (a fold and a sample) and column (the paper's); those
    without a column are in no table. `means` holds the resampled means (10000,) of all rows of a key: model, encoder,
    design, column, metric, genes. `differences` holds those of a model less the reference, paired: the keys have the
    reference's encoder besides, after the model's. `curves` are scores a gene of the image-only models. `missing` are
    jobs without a score of what the plan says, `left_out` those that cannot be, `failed` those that went wrong in this
    run: reasons.
    """

    folder: Path
    rows: pd.DataFrame
    means: dict[tuple[Any, ...], np.ndarray]
    differences: dict[tuple[Any, ...], np.ndarray]
    curves: pd.DataFrame
    painted: list[Painted]
    steps: pd.DataFrame
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def folder_of(project: Project, plan: Benchmark) -> Path:
    """Where a benchmark's scores, steps and report are."""
    return project.root / "benchmark" / plan.name


def run(
    workspace: Workspace,
    plan: Benchmark,
    *,
    seeds: Sequence[int] = (),
    force: bool = False,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Do what is not done yet, a seed at a time over all folds, encoders and models.

    Yields what is done, and what has failed so far: reasons by the step's name; a step that fails stops no other. A
    benchmark that was killed goes on where it was. With `force` samples and checkpoints that were made from other
    inputs or settings are replaced, and only those. `seeds` are those of the plan to do, by default all: jobs with
    different seeds may run side by side in one project once it is embedded, and the last to end scores the ensembles.
    Raises UsageError for a seed that the plan has not, InputError where samples have different geometries, and what
    preparing raises.
    """
    if unknown := [seed for seed in seeds if seed not in plan.seeds]:
        raise UsageError(
            f"the benchmark {plan.name} has no seed {unknown[0]}", f"Its seeds are {', '.join(map(str, plan.seeds))}."
        )
    steps = _Steps(workspace, plan, force)
    steps.prepare()
    steps.embed()
    for seed in seeds or plan.seeds:
        for job in jobs(workspace.project, plan, [seed]):
            steps.do(job)
        yield f"seed {seed}", steps.failed
    if _has_ensembles(plan):
        for job in jobs(workspace.project, plan, [None]):
            steps.do(job)
        yield "ensembles", steps.failed


def jobs(project: Project, plan: Benchmark, seeds: Sequence[int | None]) -> Iterator[Job]:
    """Every network of these seeds that can be trained."""
    for seed in seeds:
        for fold in plan.folds:
            learned = project.samples(fold.train)
            for encoder in plan.encoders:
                for model in plan.models:
                    if not _obstacle(fold, learned, encoder, model):
                        yield Job(fold, encoder, model, seed)


def _obstacle(fold: Fold, learned: Sequence[Sample], encoder: EncoderEntry, model: ModelEntry) -> str:
    """Why a model cannot be trained on these samples by an encoder; empty where it can."""
    if model.settings.model == CELL_SUPERVISED and not all(sample.has_cell_truth for sample in learned):
        return f"{model.name} on {fold.name}: no single-cell counts to learn from"
    maps = MODELS[model.settings.model].features == Features.SUPERPIXELS
    if maps and recipe_of(encoder.settings.encoder or DEFAULT_ENCODER).format == "colour":
        return f"{model.name} by {encoder.name}: it has no map of features to make superpixels of"
    return ""


def _has_ensembles(plan: Benchmark) -> bool:
    return plan.ensemble and len(plan.seeds) > 1


class _Steps:
    """The steps of a benchmark, and what went wrong in them."""

    def __init__(self, workspace: Workspace, plan: Benchmark, force: bool) -> None:
        self.workspace, self.project, self.plan, self.force = workspace, workspace.project, plan, force
        self.meter = _Meter(folder_of(self.project, plan) / "steps")
        self.failed: dict[str, str] = {}
        self._entries: dict[str, EmbeddingRecord] = {}  # of the project's embeddings

    def prepare(self) -> None:
        """All samples; without one of them no fold is what it should be."""
        for request in self.plan.requests:
            step = partial(prepare_all, self.workspace, [request], geometry=self.plan.geometry)
            with self.meter.step("prepare", request.name) as report:
                (done,) = _replacing_others(step, self.force)
                report(not done.unchanged, f"{done.n_cells:,} cells")
        check_one_geometry(self.project.samples([request.name for request in self.plan.requests]))

    def embed(self) -> None:
        """By every encoder, what of it the models read."""
        names = [request.name for request in self.plan.requests]
        wanted = [(job.encoder, job.features) for job in jobs(self.project, self.plan, self.plan.seeds[:1])]
        for encoder, features in dict.fromkeys(wanted):
            settings = encoder.settings.changed(features=features)
            name = _embedding_name(encoder, features)
            try:
                with self.meter.step("embed", name) as report:
                    embedded = embed(self.workspace, settings, samples=names)
                    report(embedded.encoded > 0, f"{embedded.encoded:,} tiles")
            except Ds2cError as error:
                self._fail(name, error)
                continue
            entries = self.project.embeddings()
            self._entries[name] = next(each for each in entries if each.fingerprint == embedded.fingerprint)
        path = _encoders_file(folder_of(self.project, self.plan))
        fingerprints = {name: entry.fingerprint for name, entry in self._entries.items()}
        write_json(path, {**_read_json(path), **fingerprints})
        self._recipes = _Recipes(self.project, self.plan)

    def do(self, job: Job) -> None:
        """Train a network and score it; an ensemble only once all its networks are there: others may be at them."""
        if _embedding_name(job.encoder, job.features) not in self._entries:
            return
        try:
            if job.seed is None:
                paths = [self._checkpoint(replace(job, seed=seed)) for seed in self.plan.seeds]
            else:
                paths = [self._learn(job)]
        except Ds2cError as error:
            if job.seed is not None:
                self._fail(job.name, error)
            return
        sources = [load_checkpoint(path) for path in paths]
        for sample in self.project.samples(list(job.fold.scenario)):
            try:
                self._score(job, sources, sample)
            except Ds2cError as error:
                self._fail(f"{job.name} on {sample.name}", error)

    def _checkpoint(self, job: Job) -> Path:
        """The checkpoint of a network that is trained already; raises a Ds2cError where it is not."""
        path = self.project.checkpoint(job.name)
        if not path.exists():
            raise InputError(f"there is no checkpoint {path} yet")
        self._train(job)
        return path

    def _learn(self, job: Job) -> Path:
        with self.meter.step("train", job.name) as report:
            trained = _replacing_others(partial(self._train, job), self.force)
            report(not trained.unchanged, f"{trained.epochs} epochs", trained.warnings)
        return trained.path

    def _train(self, job: Job, force: bool = False) -> Trained:
        settings = job.model.settings.changed(seed=job.seed or 0)
        return train(
            self.workspace,
            settings,
            encoder=self._entries[_embedding_name(job.encoder, job.features)],
            path=self.project.checkpoint(job.name),
            train_samples=job.fold.train,
            force=force,
        )

    def _score(self, job: Job, sources: Sequence[Checkpoint], sample: Sample) -> None:
        """Score a network on a sample unless that is done."""
        path = _score_file(folder_of(self.project, self.plan), job, sample.name)
        made_from = {
            "recipe": self._recipes.of(job, sample.name),
            "checkpoints": [source.hash for source in sources],
        }
        held = _read(path)
        if held is not None and all(held[0].get(key) == value for key, value in made_from.items()):
            return
        with self.meter.step("score", f"{job.name} on {sample.name}") as report:
            scored = score(
                sources[0].info if job.seed is not None else sources[0].info.changed(name=job.name),
                MeanOfNetworks([predicted(self.workspace, source, sample) for source in sources]),
                sample=sample,
                scenario=job.fold.scenario[sample.name],
                label=job.label,
                baselines=self._recipes.with_baselines(job),
                gene=self.plan.gene,
                ensemble=job.seed is None,
            )
            _write(path, made_from, _by_encoder(scored, job.encoder.name))
            report(True, "")

    def _fail(self, what: str, error: Ds2cError) -> None:
        self.failed[what] = f"{error.message}. {error.hint}".strip()


Done = TypeVar("Done")


def _replacing_others(step: Callable[..., Done], force: bool) -> Done:
    """What a step gives; with `force` also where something made from other inputs stands in its way.

    The step's own force would do again what is up to date.
    """
    try:
        return step(force=False)
    except Ds2cError:
        if not force:
            raise
        return step(force=True)


class _Recipes:
    """What each score of a plan is made from, so that one of other samples, settings or encoders is told from it."""

    def __init__(self, project: Project, plan: Benchmark) -> None:
        self.plan = plan
        self._made = {request.name: project.sample(request.name).record.recipe for request in plan.requests}
        self._fingerprints = _read_json(_encoders_file(folder_of(project, plan)))
        first = {job.fold.name: job.name for job in reversed(list(jobs(project, plan, plan.seeds[:1])))}
        self._with_baselines = set(first.values())

    def with_baselines(self, job: Job) -> bool:
        """Whether the trivial baselines are scored with it: once a fold."""
        return job.name in self._with_baselines

    def of(self, job: Job, sample: str) -> str:
        """Of a job's score on a sample."""
        seeds = self.plan.seeds if job.seed is None else [job.seed]
        return recipe_hash(
            {
                "settings": [with_own_defaults(job.model.settings.changed(seed=seed)).document() for seed in seeds],
                "encoder": self._fingerprints.get(_embedding_name(job.encoder, job.features), ""),
                "train": {name: self._made[name] for name in job.fold.train},
                "sample": self._made[sample],
                "scenario": job.fold.scenario[sample],
                "label": job.label,
                "gene": self.plan.gene,
                "baselines": self.with_baselines(job),
                "versions": (schema.CHECKPOINT_VERSION, schema.METRICS_VERSION),
            }
        )


def _encoders_file(folder: Path) -> Path:
    """The fingerprints of what the benchmark was embedded with last."""
    return folder / "encoders.json"


def _embedding_name(encoder: EncoderEntry, features: str) -> str:
    return f"{features} by {encoder.name}"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def check_one_geometry(samples: Sequence[Sample]) -> None:
    """Raise InputError where samples have different geometries: their scores belong in no one table, and no network
    learns from both.
    """
    first = samples[0]
    for sample in samples[1:]:
        if (first.geometry, first.geometry.pseudospot) != (sample.geometry, sample.geometry.pseudospot):
            raise InputError(
                f"samples {first.name} and {sample.name} have different geometries, which one report must not mix: "
                f"{first.geometry} and {sample.geometry}",
                "Write a benchmark file for each.",
            )


def _by_encoder(scored: Scored, name: str) -> Scored:
    """The same with the encoder called as in the plan, in what is of a network."""
    rows: list[Row] = [{**row, "encoder": name if row["encoder"] else ""} for row in scored.rows]
    per_gene = scored.per_gene
    if rows:
        per_gene = per_gene.assign(encoder=per_gene["encoder"].where(per_gene["encoder"] == "", name))
    return replace(scored, rows=rows, per_gene=per_gene, painted=[replace(one, encoder=name) for one in scored.painted])


# A score on disk: one file, without pickles

DAMAGED = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def _score_file(folder: Path, job: Job, sample: str) -> Path:
    return folder / "scores" / job.name / f"{sample}.npz"


def _write(path: Path, made_from: Mapping[str, Any], scored: Scored) -> None:
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
        **made_from, "rows": scored.rows, "painted": pictures, "left_out": scored.left_out,
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


def _read(path: Path) -> tuple[dict[str, Any], Scored] | None:
    """A score, and what was written of it; None where there is none or the file is damaged."""
    try:
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
            resamples = held["resamples"]
            return about, Scored(about["rows"], resamples, per_gene, painted, about["left_out"], about["constant"])
    except DAMAGED:
        return None


# What there is


def collect(project: Project, plan: Benchmark, failed: Mapping[str, str] | None = None) -> Results:
    """All scores there are of what the plan says, whether the benchmark has ended or not; `failed` are the run's.

    One sample of a fold is read at a time, by all networks: of resampled values only sums are kept.
    """
    folder = folder_of(project, plan)
    recipes = _Recipes(project, plan)
    steps = _Meter(folder / "steps").entries()
    seeds: list[int | None] = [*plan.seeds, *([None] if _has_ensembles(plan) else [])]
    of_fold: dict[str, list[Job]] = {fold.name: [] for fold in plan.folds}
    for job in jobs(project, plan, seeds):
        of_fold[job.fold.name].append(job)
    gathered = _Gathered(plan)
    missing = []
    for fold in plan.folds:
        for sample in fold.scenario:
            scores = []
            for job in of_fold[fold.name]:
                held = _read(_score_file(folder, job, sample))
                if held is None:
                    missing.append(f"{job.name} on {sample}")
                elif held[0]["recipe"] != recipes.of(job, sample):
                    missing.append(f"{job.name} on {sample} (made from other inputs or settings)")
                else:
                    scores.append((job, held[1]))
            gathered.add(fold, sample, scores)
    warnings = [
        f"{sample.name}: {warning}"
        for sample in project.samples([request.name for request in plan.requests])
        for warning in sample.record.warnings
    ]
    return Results(
        folder,
        pd.concat(gathered.rows, ignore_index=True) if gathered.rows else pd.DataFrame(),
        {key: drawn.mean() for key, drawn in gathered.means.items()},
        {key: drawn.mean() for key, drawn in gathered.differences.items()},
        pd.concat(gathered.curves, ignore_index=True) if gathered.curves else pd.DataFrame(),
        list(gathered.painted.values()),
        pd.DataFrame(steps),
        missing,
        [*plan.left_out, *_left_out(project, plan)],
        [*warnings, *_training_warnings(of_fold, steps), *gathered.warnings()],
        dict(failed or {}),
    )


def _left_out(project: Project, plan: Benchmark) -> list[str]:
    found = [
        _obstacle(fold, project.samples(fold.train), encoder, model)
        for fold in plan.folds
        for encoder in plan.encoders
        for model in plan.models
    ]
    return list(dict.fromkeys(reason for reason in found if reason))


def _training_warnings(of_fold: Mapping[str, Sequence[Job]], steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the trainings, once a fold: it is the samples that most of them are about."""
    said = {step["what"]: step.get("warnings", []) for step in steps if step["step"] == "train"}
    found = [f"{fold}: {warning}" for fold, its in of_fold.items() for job in its for warning in said.get(job.name, [])]
    return list(dict.fromkeys(found))


class _Drawn:
    """The mean of resampled values (10000,), of which only sums are kept; NaN are left out."""

    def __init__(self) -> None:
        self._total = np.zeros(0, np.float32)
        self._number = np.zeros(0, np.int16)

    def add(self, values: np.ndarray) -> None:
        """Add (10000,)."""
        if not len(self._total):
            self._total, self._number = np.zeros(len(values), np.float32), np.zeros(len(values), np.int16)
        known = np.isfinite(values)
        self._total += np.where(known, values, 0)
        self._number += known

    def mean(self) -> np.ndarray:
        """(10000,); NaN where nothing was added that is known."""
        with np.errstate(invalid="ignore"):
            return self._total / self._number


CURVES = ("model", "encoder", "scenario", "sample", "checkpoint", "seed", "metric", "value")


class _Gathered:
    """What a report needs of scores, added up one sample of a fold at a time."""

    def __init__(self, plan: Benchmark) -> None:
        self.reference = plan.reference
        self.first_seed = plan.seeds[0]
        self.rows: list[pd.DataFrame] = []
        self.curves: list[pd.DataFrame] = []
        self.painted: dict[tuple[str, str, str], Painted] = {}
        self.means: dict[tuple[Any, ...], _Drawn] = {}
        self.differences: dict[tuple[Any, ...], _Drawn] = {}
        self._left_out: dict[str, tuple[int, int]] = {}
        self._nothing: list[str] = []

    def add(self, fold: Fold, sample: str, scores: Sequence[tuple[Job, Scored]]) -> None:
        """Add all that was scored of a sample in a fold."""
        rows, drawn = [], []
        for job, scored in scores:
            self._note(fold, sample, scored)
            if not scored.rows:
                continue
            rows += scored.rows
            drawn.append(scored.resamples)
            self.curves.append(_curves(scored.per_gene).assign(design=fold.design, fold=fold.number))
            if job.seed == self.first_seed:
                self._paint(scored.painted, fold.scenario[sample])
        if not rows:
            return
        table = pd.DataFrame(rows).astype({"seed": float})
        table = table.assign(design=fold.design, fold=fold.number, unit=f"{fold.number}/{sample}")
        table["column"] = paper_columns(table)
        self.rows.append(table)
        self._draw(table[table["column"] != ""], np.concatenate(drawn))

    def warnings(self) -> list[str]:
        """What was not scored, of the fold where that was most."""
        said = [not_scored(name, left_out=cells, constant=genes) for name, (cells, genes) in self._left_out.items()]
        return [*self._nothing, *(sentence for its in said for sentence in its)]

    def _note(self, fold: Fold, sample: str, scored: Scored) -> None:
        if not scored.rows:
            sentence = f"{fold.name}: {' '.join(scored.warnings(sample))}"
            self._nothing += [] if sentence in self._nothing else [sentence]
            return
        left_out, constant = self._left_out.get(sample, (0, 0))
        self._left_out[sample] = max(left_out, scored.left_out), max(constant, scored.constant)

    def _paint(self, painted: Sequence[Painted], scenario: str) -> None:
        """One picture of a model on a slide, of a network that the slide was held out of where there is one."""
        for one in painted:
            key = (one.sample, one.model, one.encoder)
            if key not in self.painted or (self.painted[key].scenario == IS and scenario != IS):
                self.painted[key] = replace(one, scenario=scenario)

    def _draw(self, table: pd.DataFrame, drawn: np.ndarray) -> None:
        """Add resampled values, row i of the table being drawn[i] (10000,)."""
        keys = ["model", "encoder", "design", "column", "metric", "genes"]
        of_unit: dict[Any, np.ndarray] = {}
        for key, frame in table.groupby(keys, sort=False):
            of_seeds = _Drawn()
            for row in frame.index:
                self.means.setdefault(key, _Drawn()).add(drawn[row])
                of_seeds.add(drawn[row])
            of_unit[key] = of_seeds.mean()
        references: dict[tuple[Any, ...], list[tuple[str, np.ndarray]]] = {}
        for (model, encoder, *where), values in of_unit.items():
            if model == self.reference:
                references.setdefault(tuple(where), []).append((encoder, values))
        for (model, encoder, *where), values in of_unit.items():
            for its, reference in references.get(tuple(where), []):
                if model != self.reference and encoder in ("", its):
                    self.differences.setdefault((model, encoder, its, *where), _Drawn()).add(values - reference)


def _curves(per_gene: pd.DataFrame) -> pd.DataFrame:
    """Of a network's scores a gene those that are drawn: the best without the spots, of cells where it has such."""
    image = per_gene[(per_gene["checkpoint"] != "") & ~per_gene["model"].str.endswith(SEES_SPOT)]
    metric = "pearson" if (image["metric"] == "pearson").any() else "spot_pearson"
    ranked = image[image["metric"] == metric].dropna(subset="value").sort_values("value", ascending=False)
    return ranked.groupby("scenario").head(MOST_GENES)[list(CURVES)].astype({"seed": float})


def paper_columns(rows: pd.DataFrame) -> list[str]:
    """The paper's column of each row of a fold, empty where it has none: OOS is over all cells of a sample, and over
    its members where no cell is outside. What is given the spots has members and others apart everywhere."""
    whole = set(zip(rows["sample"], rows["scenario"], strict=True))
    found = []
    for model, sample, scenario, metric in rows[["model", "sample", "scenario", "metric"]].itertuples(index=False):
        base = scenario.removesuffix("_in").removesuffix("_out")
        if metric in ("spot_pearson", "within_spot"):
            found.append(base)
        elif given_spot(model):
            found.append(scenario if scenario != base else "")
        elif base == "IS":
            found.append(scenario)
        elif scenario == base or (scenario.endswith("_in") and (sample, base) not in whole):
            found.append(base)
        else:
            found.append("")
    return found


# What it cost


class _Meter:
    """Costs of the steps that were done, a file each; a step left alone keeps what it cost when it was done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[dict[str, Any]]:
        """Of all steps, in the order they were done."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"), key=_modified)]

    @contextmanager
    def step(self, step: str, what: str) -> Iterator[Callable[..., None]]:
        """Measures what is done inside; the call it gives says whether there was work to do, a fact about it, and what
        was warned of."""
        told: list[tuple[str, list[str]]] = []

        def report(worked: bool, facts: str, warnings: Sequence[str] = ()) -> None:
            if worked:
                told.append((facts, list(warnings)))

        with measured() as cost:
            yield report
        if told:
            self.record(step, what, cost, *told[0])

    def record(self, step: str, what: str, cost: Cost, facts: str, warnings: list[str]) -> None:
        about = {"step": step, "what": what, **asdict(cost), "facts": facts, "warnings": warnings}
        write_json(self.folder / f"{file_name(step, what)}.json", about)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
