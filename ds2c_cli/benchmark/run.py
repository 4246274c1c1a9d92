"""Run a benchmark: prepare, embed, train over folds and seeds, and score; each step leaves alone what it has done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..embeddings.embed import embed
from ..errors import Ds2cError, InputError, UsageError
from ..evaluation.evaluate import predicted
from ..evaluation.scoring import Row, Scored, score
from ..files import write_json
from ..prediction.inference import MeanOfNetworks
from ..project import Sample, Workspace
from ..records import EmbeddingRecord
from ..samples.manifest import prepare_all
from ..training.checkpoint import Checkpoint, load_checkpoint
from ..training.train import Trained, train
from .costs import StepCosts
from .jobs import Job, Recipes, embedding_name, encoders_file, fingerprints_in, folder_of, has_ensembles, jobs
from .plan import Benchmark
from .scores import MadeFrom, read_score, score_file, write_score


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
    if has_ensembles(plan):
        for job in jobs(workspace.project, plan, [None]):
            steps.do(job)
        yield "ensembles", steps.failed


class _Steps:
    """The steps of a benchmark, and what went wrong in them."""

    def __init__(self, workspace: Workspace, plan: Benchmark, force: bool) -> None:
        self.workspace, self.project, self.plan, self.force = workspace, workspace.project, plan, force
        self.meter = StepCosts(folder_of(self.project, plan) / "steps")
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
            name = embedding_name(encoder, features)
            try:
                with self.meter.step("embed", name) as report:
                    embedded = embed(self.workspace, settings, samples=names)
                    report(embedded.encoded > 0, f"{embedded.encoded:,} tiles")
            except Ds2cError as error:
                self._fail(name, error)
                continue
            entries = self.project.embeddings()
            self._entries[name] = next(each for each in entries if each.fingerprint == embedded.fingerprint)
        folder = folder_of(self.project, self.plan)
        now = {name: entry.fingerprint for name, entry in self._entries.items()}
        write_json(encoders_file(folder), {**fingerprints_in(folder), **now})
        self._recipes = Recipes(self.project, self.plan)

    def do(self, job: Job) -> None:
        """Train a network and score it; an ensemble only once all its networks are there: others may be at them."""
        if embedding_name(job.encoder, job.features) not in self._entries:
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
            encoder=self._entries[embedding_name(job.encoder, job.features)],
            path=self.project.checkpoint(job.name),
            train_samples=job.fold.train,
            force=force,
        )

    def _score(self, job: Job, sources: Sequence[Checkpoint], sample: Sample) -> None:
        """Score a network on a sample unless that is done."""
        path = score_file(folder_of(self.project, self.plan), job, sample.name)
        made_from = MadeFrom(self._recipes.of(job, sample.name), [source.hash for source in sources])
        held = read_score(path)
        if held is not None and held[0] == made_from:
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
            write_score(path, _by_encoder(scored, job.encoder.name), made_from)
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


def check_one_geometry(samples: Sequence[Sample]) -> None:
    """Raise InputError where samples have different geometries: their scores belong in no one table, and no network
    learns from both.
    """
    first = samples[0]
    for sample in samples[1:]:
        first.geometry.must_fit(
            sample.geometry,
            here=f"sample {first.name}",
            there=f"sample {sample.name}",
            hint="Write a benchmark file for each.",
            exactly=True,
        )


def _by_encoder(scored: Scored, name: str) -> Scored:
    """Give the same with the encoder called as in the plan, in what is of a network."""
    rows: list[Row] = [{**row, "encoder": name if row["encoder"] else ""} for row in scored.rows]
    per_gene = scored.per_gene
    if rows:
        per_gene = per_gene.assign(encoder=per_gene["encoder"].where(per_gene["encoder"] == "", name))
    return replace(scored, rows=rows, per_gene=per_gene, painted=[replace(one, encoder=name) for one in scored.painted])
