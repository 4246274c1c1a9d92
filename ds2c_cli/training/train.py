"""Step 3: a model learns from spots."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from .. import __version__
from ..cache.store import Cache
from ..device import device_of
from ..embeddings.tiles import check_shards
from ..errors import InputError, UsageError
from ..expression import MIN_SEEN, log_share, order_by_variability, seen_in, select_genes, shared_panel
from ..files import recipe_hash
from ..geometry import hold_out_blocks
from ..io.counts import Counts
from ..models import MODELS
from ..models.base import Measured
from ..project import Project, Sample, must_run
from ..records import CheckpointInfo, EmbeddingRecord, EncoderUsed
from ..settings import Training
from ..workspace import Workspace
from .checkpoint import Checkpoint, build_model, load_checkpoint, standardisation
from .dataset import Bags, load_bags
from .fit import Labels, draw_loss, fit, uses_mixed_precision
from .folds import folds_of

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
    project = workspace.project
    if settings.model not in MODELS:
        raise UsageError(f"there is no model {settings.model!r}", f"Known: {', '.join(MODELS)}.")
    reads = MODELS[settings.model].features
    if encoder.description.features != reads:
        raise InputError(
            f"{settings.model} reads {reads}, which is not what the encoder entry is of",
            f"Run `ds2c embed --encoder {encoder.description.encoder} --features {reads}`.",
        )
    settings = with_own_defaults(settings)
    held = project.samples(val_samples) if val_samples else []
    learned = [s for s in _learnable(project, train_samples) if s.name not in {h.name for h in held}]
    if not learned:
        raise UsageError("no sample is left to train on", "Prepare samples with --counts, or name fewer with --val.")
    samples = learned + held
    where = device_of(workspace.device)
    _check_samples(samples, settings)
    made_from: dict[str, Any] = {
        "settings": settings.document(),
        "encoder": encoder.fingerprint,
        "train": {s.name: s.record.recipe for s in learned},
        "val": {s.name: s.record.recipe for s in held},
    }
    recipe = recipe_hash(made_from)
    recorded = _recipe_of(path) if path.exists() else None
    if not must_run(f"checkpoint {path}", recorded, recipe, force or dry_run):
        return Trained(path, unchanged=True)

    began = time.perf_counter()
    cache = Cache(workspace.cache, encoder.fingerprint, encoder.description.dimension)
    check_shards(project, samples, cache, encoder)
    bags = load_bags(samples, cache, encoder.description, outside=False)
    genes, counts, lost = _panel(samples, len(learned), settings.genes)
    usable = _usable(samples, counts)
    labels = _labels(counts, genes, samples, bags, settings, usable)
    learn, stop = _split(samples, len(learned), bags, settings, usable)
    if dry_run:
        return Trained(path, spots=len(learn), held_out=len(stop), genes=len(genes))
    scale = standardisation(bags, learn)
    torch.manual_seed(settings.seed)
    model = build_model(settings, scale.dimension, len(genes))
    history = fit(model, scale.of(bags), labels, learn, stop, settings, where, workspace.progress)
    best = int(np.argmin(history[:, 1]))
    info = CheckpointInfo(
        name=path.stem,
        recipe=recipe,
        ds2c=__version__,
        training=settings,
        genes=genes,
        geometry=learned[0].geometry,
        encoder=EncoderUsed(
            settings=encoder.settings, fingerprint=encoder.fingerprint, description=encoder.description
        ),
        train=[s.name for s in learned],
        val=[s.name for s in held],
        cohorts=sorted({s.cohort for s in learned}),
        donors=sorted({s.donor for s in learned}),
        slides=sorted({s.slide_fingerprint for s in samples}),
        mixed_precision=uses_mixed_precision(settings, where),
        epochs=len(history),
        best_epoch=best + 1,
        best_loss=float(history[best, 1]),
    )
    Checkpoint(model, scale, info).save(path)
    draw_loss(path.with_suffix(".png"), history, best, path.stem)
    seconds = time.perf_counter() - began
    done = Trained(
        path, False, len(history), best + 1, float(history[best, 1]), len(learn), len(stop), len(genes), seconds
    )
    if lost:
        done.warnings.append(
            f"{lost:,} genes are left out, rare in a sample or not in all of them; {len(genes):,} are modelled"
        )
    return done


def _recipe_of(path: Path) -> str:
    """What a checkpoint was made from; none is like a file that cannot be read, such as one of an older version."""
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
    """Train one model a fold, on the samples of the other folds' donors: <path>-fold1.pt, ....

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
        if not sample.geometry.fits(first.geometry):
            raise InputError(
                f"samples {first.name} and {sample.name} have different geometries: {first.geometry} and "
                f"{sample.geometry}",
                "Prepare them alike.",
            )


def _panel(samples: Sequence[Sample], n_learned: int, most: int) -> tuple[list[str], list[sparse.csr_matrix], int]:
    """Genes that all samples share and that are not rare in a training sample, the most variable of the training spots
    first; the spots' counts of them; how many were left out.
    """
    tables: list[Counts] = [sample.spot_counts() for sample in samples]
    panels = [list(table.genes) for table in tables]
    for i, sample in enumerate(samples[:n_learned]):
        counted = sample.cell_counts() if sample.has_cell_truth else tables[i]
        matrix = counted.matrix if sample.has_cell_truth else counted.matrix[_on_cells(sample)]
        panels[i] = list(counted.genes[seen_in(matrix) >= MIN_SEEN])
        if not panels[i]:
            raise InputError(
                f"no gene of sample {sample.name} is seen in {MIN_SEEN} of its {matrix.shape[0]:,} cells or spots",
                "Give the counts of a whole sample.",
            )
    shared = shared_panel(panels)
    lost = max(len(table.genes) for table in tables) - len(shared)
    counts = [select_genes(table.matrix, table.genes, shared) for table in tables]
    learned = [matrix[_on_cells(sample)] for matrix, sample in zip(counts, samples[:n_learned], strict=False)]
    order = order_by_variability(learned)[: most or None]
    return [shared[i] for i in order], [matrix[:, order] for matrix in counts], lost


def _on_cells(sample: Sample) -> np.ndarray:
    """(S,) which spots lie on tissue and have cells."""
    return (sample.spots["in_tissue"] & (sample.spots["n_cells"] > 0)).to_numpy()


def _usable(samples: Sequence[Sample], counts: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """(S,) of all samples' spots those to learn from or to stop on: they have cells, counts (S, G) and tissue."""
    counted = [np.asarray(matrix.sum(1)).ravel() > 0 for matrix in counts]
    return np.concatenate([_on_cells(sample) & some for sample, some in zip(samples, counted, strict=True)])


def _labels(
    counts: list[sparse.csr_matrix],
    genes: list[str],
    samples: Sequence[Sample],
    bags: Bags,
    settings: Training,
    usable: np.ndarray,
) -> Labels:
    matrix = sparse.vstack(counts).tocsr()
    totals = np.asarray(matrix.sum(1)).ravel()
    depth = np.ones_like(totals, float)
    for i in range(len(samples)):
        of_sample = (bags.sample == i) & usable
        depth[of_sample] = np.median(totals[of_sample]) if of_sample.any() else 1.0
    spots = Measured(
        torch.from_numpy(log_share(matrix.toarray(), totals)),
        torch.from_numpy(totals.astype(np.float32)).unsqueeze(1),
        torch.from_numpy(depth.astype(np.float32)).unsqueeze(1),
    )
    if settings.model != CELL_SUPERVISED:
        return Labels(spots)
    cells, first = [], 0
    for i, sample in enumerate(samples):
        truth = sample.cell_counts()
        last = int(bags.start[np.flatnonzero(bags.sample == i)[-1] + 1])
        cells.append(select_genes(truth.matrix, truth.genes, genes)[bags.cell_row[first:last]])
        first = last
    return Labels(spots, sparse.vstack(cells).tocsr())


def _split(
    samples: Sequence[Sample], n_learned: int, bags: Bags, settings: Training, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spots (rows) to learn from and to stop early on, of those that are usable (S,)."""
    learn, stop = [], []
    for i, sample in enumerate(samples):
        rows = np.flatnonzero(bags.sample == i)
        if i >= n_learned:
            stop.append(rows)
        elif n_learned < len(samples):
            learn.append(rows)
        else:
            places = sample.spots[["x", "y"]].to_numpy()
            apart, held = hold_out_blocks(places, sample.neighbours, settings.seed, usable[rows])
            learn.append(rows[apart])
            stop.append(rows[held])
    chosen = [np.concatenate(part) for part in (learn, stop)]
    learned, stopped = (rows[usable[rows]] for rows in chosen)
    if not len(learned) or not len(stopped):
        raise InputError(
            f"{len(learned)} spots to learn from and {len(stopped)} to stop early on are not enough",
            "Give larger samples, or another --membership so that spots have cells.",
        )
    return learned, stopped
