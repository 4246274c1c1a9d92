"""Step 3: a model learns from spots: samples are read, labels made, the model fitted and saved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..cache.store import Cache
from ..device import device_of
from ..embeddings.tiles import check_shards
from ..errors import InputError, UsageError
from ..files import recipe_hash
from ..models import MODELS
from ..project import Project, Sample, Workspace, must_run
from ..records import CheckpointInfo, EmbeddingRecord
from ..settings import Training
from ..version import __version__
from .checkpoint import Checkpoint, build_model, load_checkpoint, standardisation
from .dataset import load_dataset
from .fit import fit, uses_mixed_precision
from .folds import folds_of, split_spots
from .labels import gene_panel, labels_of, usable_spots
from .loss_figure import draw_loss

CELL_SUPERVISED = "cell-supervised"


@dataclass
class Trained:
    """What `train` did."""

    path: Path
    unchanged: bool = False
    epochs: int = 0
    best_epoch: int = 0
    best_loss: float = float("nan")
    spots: int = 0
    held_out: int = 0
    genes: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def train(
    workspace: Workspace | Project,
    settings: Training = Training(),  # noqa: B008  (frozen)
    *,
    encoder: EmbeddingRecord,
    path: Path,
    train_samples: Sequence[str] = (),
    val_samples: Sequence[str] = (),
    dry_run: bool = False,
    force: bool = False,
) -> Trained:
    """Train one model on the spots of the samples and write its checkpoint and loss curve.

    `encoder` is an entry of `Project.embeddings`. Stops early on the held-out samples or, without any, on blocks of
    spots of the training samples that lie apart from the others. Raises InputError when samples lack counts or
    embeddings, or were prepared with different geometries.
    """
    workspace = Workspace.of(workspace)
    settings = _complete(settings, encoder)
    learned, held = _chosen(workspace.project, train_samples=train_samples, val_samples=val_samples)
    samples = learned + held
    where = device_of(workspace.device)
    _check_samples(samples, settings)
    recipe = _recipe(settings, encoder, learned=learned, held=held)
    if not must_run(f"checkpoint {path}", _recipe_of(path), wanted=recipe, force=force or dry_run):
        return Trained(path, unchanged=True)
    began = time.perf_counter()
    cache = Cache(workspace.cache, encoder.fingerprint, encoder.description.dimension)
    check_shards(workspace.project, samples, cache=cache, encoder=encoder)
    dataset = load_dataset(samples, cache, encoder=encoder.description, outside=False)
    panel = gene_panel(learned, held, most=settings.genes)
    usable = usable_spots(samples, panel.counts)
    labels = labels_of(samples, panel, dataset=dataset, usable=usable, of_cells=settings.model == CELL_SUPERVISED)
    learn, stop = split_spots(learned, held, seed=settings.seed, usable=usable)
    done = Trained(path, spots=len(learn), held_out=len(stop), genes=len(panel.genes))
    if dry_run:
        return done
    scale = standardisation(dataset, learn)
    torch.manual_seed(settings.seed)
    model = build_model(settings, dimension=scale.dimension, genes=len(panel.genes))
    history = fit(
        model, scale.of(dataset), labels=labels, learn=learn, stop=stop, settings=settings, device=where,
        progress=workspace.progress,
    )  # fmt: skip
    best = int(np.argmin(history[:, 1]))
    info = CheckpointInfo(
        name=path.stem, recipe=recipe, ds2c=__version__, training=settings, genes=panel.genes,
        geometry=learned[0].geometry, encoder=encoder.used,
        train=[s.name for s in learned], val=[s.name for s in held], cohorts=sorted({s.cohort for s in learned}),
        donors=sorted({s.donor for s in learned}), slides=sorted({s.slide_fingerprint for s in samples}),
        mixed_precision=uses_mixed_precision(settings, where), epochs=len(history), best_epoch=best + 1,
        best_loss=float(history[best, 1]),
    )  # fmt: skip
    Checkpoint(model, scale, info).save(path)
    draw_loss(path.with_suffix(".png"), history, best=best, title=path.stem)
    done.epochs, done.best_epoch, done.best_loss = info.epochs, info.best_epoch, info.best_loss
    done.seconds = time.perf_counter() - began
    done.warnings += panel.warnings
    return done


def _complete(settings: Training, encoder: EmbeddingRecord) -> Training:
    """Complete the settings by the model's own, once it is known and reads what the encoder gives."""
    if settings.model not in MODELS:
        raise UsageError(f"there is no model {settings.model!r}", f"Known: {', '.join(MODELS)}.")
    reads = MODELS[settings.model].features
    if encoder.description.features != reads:
        raise InputError(
            f"{settings.model} reads {reads}, which is not what the encoder entry is of",
            f"Run `ds2c embed --encoder {encoder.description.encoder} --features {reads}`.",
        )
    return with_own_defaults(settings)


def _chosen(
    project: Project, *, train_samples: Sequence[str], val_samples: Sequence[str]
) -> tuple[list[Sample], list[Sample]]:
    """Open the samples to learn from and those that stop the training."""
    held = project.samples(val_samples) if val_samples else []
    learned = [s for s in _learnable(project, train_samples) if s.name not in {h.name for h in held}]
    if not learned:
        raise UsageError("no sample is left to train on", "Prepare samples with --counts, or name fewer with --val.")
    return learned, held


def _recipe(settings: Training, encoder: EmbeddingRecord, *, learned: Sequence[Sample], held: Sequence[Sample]) -> str:
    """Hash all that a checkpoint is made from."""
    made_from: dict[str, object] = {
        "settings": settings.document(),
        "encoder": encoder.fingerprint,
        "train": {s.name: s.record.recipe for s in learned},
        "val": {s.name: s.record.recipe for s in held},
    }
    return recipe_hash(made_from)


def _recipe_of(path: Path) -> str | None:
    """Read what a checkpoint was made from: None without a file, "" of one that is none, such as an older version's."""
    if not path.exists():
        return None
    try:
        return load_checkpoint(path).info.recipe
    except InputError:
        return ""


def with_own_defaults(settings: Training) -> Training:
    """What the settings leave to the model, as the model has it."""
    names = ("learning_rate", "batch_spots", "hidden", "patience")
    own = {name: getattr(MODELS[settings.model], name) for name in names if not getattr(settings, name)}
    return settings.changed(**own)


def train_folds(
    workspace: Workspace | Project,
    settings: Training = Training(),  # noqa: B008  (frozen)
    *,
    encoder: EmbeddingRecord,
    path: Path,
    folds: int,
    samples: Sequence[str] = (),
    dry_run: bool = False,
    force: bool = False,
) -> list[Trained]:
    """Train one model per fold, on the samples of the other folds' donors: <path>-fold1.pt, ...

    A donor is never split; there are at most as many folds as donors. `evaluate` scores each model on what it left out.
    """
    workspace = Workspace.of(workspace)
    if folds < 2:
        raise UsageError(f"of {folds} folds none can be left out", "Ask for at least 2.")
    chosen = _learnable(workspace.project, samples)
    donors = {sample.donor for sample in chosen}
    if len(donors) < 2:
        raise InputError(
            f"folds keep a donor whole, and all samples are of {donors.pop()}", "Name donors with --donor."
        )
    done = []
    for number, left_out in enumerate(folds_of(donors, most=folds), 1):
        kept = [sample.name for sample in chosen if sample.donor not in left_out]
        at = path.with_name(f"{path.stem}-fold{number}.pt")
        done.append(
            train(workspace, settings, encoder=encoder, path=at, train_samples=kept, dry_run=dry_run, force=force)
        )
    return done


def _learnable(project: Project, names: Sequence[str]) -> list[Sample]:
    """The samples named, or all that have counts."""
    return [sample for sample in project.samples(names) if names or sample.has_spot_counts]


def _check_samples(samples: Sequence[Sample], settings: Training) -> None:
    for sample in samples:
        if not sample.has_spot_counts:
            raise InputError(f"sample {sample.name} has no counts to learn from", "Leave it out of --train and --val.")
        if settings.model == CELL_SUPERVISED and not sample.has_cell_truth:
            raise InputError(
                f"sample {sample.name} has no single-cell counts, which {CELL_SUPERVISED} learns from",
                "Choose another --model.",
            )
    first = samples[0]
    for sample in samples[1:]:
        first.geometry.must_fit(
            sample.geometry, here=f"sample {first.name}", there=f"sample {sample.name}", hint="Prepare them alike."
        )
