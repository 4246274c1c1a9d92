"""Name every network of a benchmark: what it is trained on, what its scores are made from, where they lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import schema
from ..choices import Features
from ..encoders import recipe_of
from ..files import recipe_hash
from ..models import MODELS
from ..project import Project, Sample
from ..settings import DEFAULT_ENCODER
from ..training.train import CELL_SUPERVISED, with_own_defaults
from .plan import ENSEMBLE, Benchmark, EncoderEntry, Fold, ModelEntry, file_name


@dataclass(frozen=True)
class Job:
    """One network of the benchmark: trained on a fold, with a seed; without one, the mean of all its seeds."""

    fold: Fold
    encoder: EncoderEntry
    model: ModelEntry
    seed: int | None

    @property
    def name(self) -> str:
        """Name it for files."""
        of_seed = ENSEMBLE if self.seed is None else f"s{self.seed}"
        return file_name(self.fold.name, self.encoder.name, self.model.name, of_seed)

    @property
    def label(self) -> str:
        """Name it in tables; the encoder is a column of its own."""
        return f"{self.model.name}, {ENSEMBLE}" if self.seed is None else self.model.name

    @property
    def features(self) -> Features:
        """Say what of the encoder it reads."""
        return MODELS[self.model.settings.model].features


def folder_of(project: Project, plan: Benchmark) -> Path:
    """Say where a benchmark's scores, steps and report are."""
    return project.root / "benchmark" / plan.name


def jobs(project: Project, plan: Benchmark, seeds: Sequence[int | None]) -> Iterator[Job]:
    """Go through every network of these seeds that can be trained."""
    for seed in seeds:
        for fold in plan.folds:
            learned = project.samples(fold.train)
            for encoder in plan.encoders:
                for model in plan.models:
                    if not obstacle(fold, learned, encoder=encoder, model=model):
                        yield Job(fold, encoder, model, seed)


def obstacle(fold: Fold, learned: Sequence[Sample], *, encoder: EncoderEntry, model: ModelEntry) -> str:
    """Say why a model cannot be trained on these samples by an encoder; empty where it can."""
    if model.settings.model == CELL_SUPERVISED and not all(sample.has_cell_truth for sample in learned):
        return f"{model.name} on {fold.name}: no single-cell counts to learn from"
    maps = MODELS[model.settings.model].features == Features.SUPERPIXELS
    if maps and recipe_of(encoder.settings.encoder or DEFAULT_ENCODER).format == "colour":
        return f"{model.name} by {encoder.name}: it has no map of features to make superpixels of"
    return ""


def has_ensembles(plan: Benchmark) -> bool:
    """Tell whether the seeds of a model are also averaged."""
    return plan.ensemble and len(plan.seeds) > 1


class Recipes:
    """What each score of a plan is made from, so that one of other samples, settings or encoders is told from it."""

    def __init__(self, project: Project, plan: Benchmark) -> None:
        self.plan = plan
        self._made = {request.name: project.sample(request.name).record.recipe for request in plan.requests}
        self._fingerprints = fingerprints_in(folder_of(project, plan))
        first = {job.fold.name: job.name for job in reversed(list(jobs(project, plan, plan.seeds[:1])))}
        self._with_baselines = set(first.values())

    def with_baselines(self, job: Job) -> bool:
        """Tell whether the trivial baselines are scored with it: once per fold."""
        return job.name in self._with_baselines

    def of(self, job: Job, sample: str) -> str:
        """Name what a job's score on a sample is made from."""
        seeds = self.plan.seeds if job.seed is None else [job.seed]
        return recipe_hash(
            {
                "settings": [with_own_defaults(job.model.settings.changed(seed=seed)).document() for seed in seeds],
                "encoder": self._fingerprints.get(embedding_name(job.encoder, job.features), ""),
                "train": {name: self._made[name] for name in job.fold.train},
                "sample": self._made[sample],
                "scenario": job.fold.scenario[sample],
                "label": job.label,
                "gene": self.plan.gene,
                "baselines": self.with_baselines(job),
                "versions": (schema.CHECKPOINT_VERSIONS_READ[0], schema.METRICS_VERSION),  # scores of all read hold
            }
        )


def encoders_file(folder: Path) -> Path:
    """Name the file of the fingerprints of what the benchmark was embedded with last."""
    return folder / "encoders.json"


def embedding_name(encoder: EncoderEntry, features: str) -> str:
    """Name what an encoder gives, in steps and fingerprints."""
    return f"{features} by {encoder.name}"


def fingerprints_in(folder: Path) -> dict[str, str]:
    """Read the fingerprints of what a benchmark's folder was embedded with last, by `embedding_name`."""
    path = encoders_file(folder)
    return json.loads(path.read_text()) if path.exists() else {}
