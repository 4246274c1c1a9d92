"""Collect what a benchmark has scored so far, whether it has ended or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.scoring import Painted
from ..project import Project
from .costs import Step, StepCosts
from .gathered import Gathered
from .jobs import Job, Recipes, folder_of, has_ensembles, jobs, obstacle
from .plan import Benchmark
from .scores import read_score, score_file


@dataclass
class Results:
    """What has been scored so far.

    `rows` are tidy, as of an evaluation, with design, fold, unit (a fold and a sample) and column (the paper's); those
    without a column are in no table. `means` holds the resampled means (10000,) of all rows of a key: model, encoder,
    design, column, metric, genes. `differences` holds those of a model less the reference, paired: the keys have the
    reference's encoder besides, after the model's. `curves` are scores per gene of the image-only models. `missing` are
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


def collect(project: Project, plan: Benchmark, failed: Mapping[str, str] | None = None) -> Results:
    """Collect all scores there are of what the plan says, whether the benchmark has ended or not.

    One sample of a fold is read at a time, by all networks: of resampled values only sums are kept.
    """
    folder = folder_of(project, plan)
    recipes = Recipes(project, plan)
    steps = StepCosts(folder / "steps").entries()
    seeds: list[int | None] = [*plan.seeds, *([None] if has_ensembles(plan) else [])]
    of_fold: dict[str, list[Job]] = {fold.name: [] for fold in plan.folds}
    for job in jobs(project, plan, seeds):
        of_fold[job.fold.name].append(job)
    gathered = Gathered(plan)
    missing = []
    for fold in plan.folds:
        for sample in fold.scenario:
            scores = []
            for job in of_fold[fold.name]:
                held = read_score(score_file(folder, job, sample))
                if held is None:
                    missing.append(f"{job.name} on {sample}")
                elif held[0].recipe != recipes.of(job, sample):
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
        rows=pd.concat(gathered.rows, ignore_index=True) if gathered.rows else pd.DataFrame(),
        means={key: drawn.mean() for key, drawn in gathered.means.items()},
        differences={key: drawn.mean() for key, drawn in gathered.differences.items()},
        curves=pd.concat(gathered.curves, ignore_index=True) if gathered.curves else pd.DataFrame(),
        painted=list(gathered.painted.values()),
        steps=pd.DataFrame(steps),
        missing=missing,
        left_out=[*plan.left_out, *_left_out(project, plan)],
        warnings=[*warnings, *_training_warnings(of_fold, steps), *gathered.warnings()],
        failed=dict(failed or {}),
    )


def _left_out(project: Project, plan: Benchmark) -> list[str]:
    found = [
        obstacle(fold, project.samples(fold.train), encoder=encoder, model=model)
        for fold in plan.folds
        for encoder in plan.encoders
        for model in plan.models
    ]
    return list(dict.fromkeys(reason for reason in found if reason))


def _training_warnings(of_fold: Mapping[str, Sequence[Job]], steps: Sequence[Step]) -> list[str]:
    """Say what trainings warned of, once per fold: it is the samples that most of them are about."""
    said = {step["what"]: step.get("warnings", []) for step in steps if step["step"] == "train"}
    found = [f"{fold}: {warning}" for fold, its in of_fold.items() for job in its for warning in said.get(job.name, [])]
    return list(dict.fromkeys(found))
