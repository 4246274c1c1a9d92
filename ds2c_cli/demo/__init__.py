"""The demo: the whole chain on two generated slides, with an encoder whose weights come with the install."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..embeddings.embed import embed
from ..evaluation.evaluate import Evaluated, evaluate
from ..evaluation.report import write_report
from ..prediction.predict import predict
from ..progress import Progress, silent
from ..project import Project, Workspace
from ..samples.prepare import prepare
from ..samples.sources import Sources
from ..settings import Embedding, Geometry, Training
from ..training.train import train
from .tissue import SLIDE_FILE, paint_sample

DONORS = {"donor_a": 1, "donor_b": 2}  # the seed each slide is painted from
MODELS = ("mlp", "paper", "additive", "cell-supervised")


@dataclass(frozen=True)
class Shown:
    """What the demo leaves to look at."""

    found: Evaluated
    report: Path
    prediction: Path


def demo(folder: Path, *, cache_root: Path, size_px: int = 2560, progress: Progress = silent) -> Shown:
    """Paint two slides of two donors, learn from the spots of the first, predict and score the cells of the second.

    Running it again redoes only what is missing.
    """
    project = Project(folder)
    workspace = Workspace(project, cache=cache_root, progress=progress)
    for name, seed in DONORS.items():
        source = folder / "slides" / name
        if not (source / SLIDE_FILE).exists():
            progress(f"paint {name}", 0, 1, "")
            paint_sample(source, seed=seed, size_px=size_px)
            progress(f"paint {name}", 1, 1, "")
        sources = Sources(source / SLIDE_FILE, str(source / "cells.parquet"), source / "cell_counts.h5ad")
        prepare(workspace, sources, geometry=Geometry(membership="centroid"), sample=name, donor=name, cohort="demo")
    train_on, test_on = DONORS
    embed(workspace, Embedding(encoder="imagenet-lite0"))
    embedding = project.embedding(Embedding(encoder="imagenet-lite0"))
    for model in MODELS:
        settings = Training(model=model)
        train(workspace, settings, encoder=embedding, path=project.checkpoint(model), train_samples=[train_on])
    checkpoints = [project.checkpoint(model) for model in MODELS]
    found = evaluate(workspace, checkpoints=checkpoints, name="demo")
    (prediction,) = predict(workspace, project.checkpoint("additive"), samples=[test_on])
    return Shown(found, write_report(project, found), prediction.path)
