"""ds2c train: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Context, MixedPrecision, ModelName, SpotPooling
from .console import console
from .options import DryRunOption, EncoderOption, ForceOption, PrecisionOption, Session, listed, shared
from .panels import RUN

SAMPLES, MODEL, LEARNING = "Samples", "Model", "Learning"  # panels of the help


@shared("device", "project", "cache")
def command(
    session: Session,
    train: Annotated[
        list[str] | None,
        typer.Option(help="Samples to learn from: S1,S2 or repeated; all others.", rich_help_panel=SAMPLES),
    ] = None,
    val: Annotated[
        list[str] | None,
        typer.Option(
            help="Samples that stop the training; by default blocks of spots held out.", rich_help_panel=SAMPLES
        ),
    ] = None,
    model: Annotated[
        ModelName | None, typer.Option(help="What is trained; additive by default.", rich_help_panel=MODEL)
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Train once a fold of donors, leaving the fold out.", min=2, rich_help_panel=SAMPLES),
    ] = None,
    output: Annotated[
        str,
        typer.Option("-o", "--output", help="The checkpoint; a bare name goes to checkpoints/.", rich_help_panel=RUN),
    ] = "",
    seed: Annotated[
        int | None, typer.Option(help="Of initial weights, batches and held-out blocks.", rich_help_panel=LEARNING)
    ] = None,
    genes: Annotated[
        int | None, typer.Option(help="Model only the most variable genes; 0 for all.", rich_help_panel=MODEL)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most.", rich_help_panel=LEARNING)] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a better loss before stopping; 0: the model's own.", rich_help_panel=LEARNING
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam; 0: the model's own.", rich_help_panel=LEARNING)
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(help="Width of the layers; 0: the model's own.", rich_help_panel=MODEL)
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the two-layer MLPs.", rich_help_panel=MODEL)] = None,
    batch_spots: Annotated[
        int | None, typer.Option(help="Spots a step; 0: the model's own.", rich_help_panel=LEARNING)
    ] = None,
    context: Annotated[
        Context | None,
        typer.Option(
            help="What a cell sees beside itself: cell (nothing), spot, neighbours (both).", rich_help_panel=MODEL
        ),
    ] = None,
    pooling: Annotated[
        SpotPooling | None, typer.Option(help="Of --model paper over a spot's cells.", rich_help_panel=MODEL)
    ] = None,
    mixed_precision: Annotated[
        MixedPrecision | None,
        typer.Option(
            help="Learn with products of bfloat16: on, off, or auto where the device has them.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    encoder: EncoderOption = None,
    precision: PrecisionOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
) -> None:
    """Train a model on spots."""
    from ..errors import UsageError
    from ..models import MODELS
    from ..settings import Embedding, Training
    from ..training.train import train as train_model
    from ..training.train import train_folds

    if folds and val:
        raise UsageError("--folds leaves out samples by itself, --val names them", "Give one of the two.")
    flags = {
        "model": model, "seed": seed, "genes": genes, "epochs": epochs, "patience": patience,
        "learning_rate": learning_rate, "hidden": hidden, "dropout": dropout, "batch_spots": batch_spots,
        "context": context, "pooling": pooling, "mixed_precision": mixed_precision,
    }  # fmt: skip
    settings = session.project.settings(Training, flags)
    features = MODELS[settings.model].features if settings.model in MODELS else None
    embedding = session.project.embedding(
        session.project.settings(Embedding, {"encoder": encoder, "precision": precision, "features": features})
    )
    name = output or settings.model + (f"-seed{settings.seed}" if settings.seed else "")
    path = Path(name) if "/" in name else session.project.checkpoint(name.removesuffix(".pt"))
    with session.workspace() as workspace:
        if folds:
            runs = train_folds(
                workspace,
                settings,
                encoder=embedding,
                path=path,
                folds=folds,
                samples=listed(train),
                dry_run=dry_run,
                force=force,
            )
        else:
            runs = [
                train_model(
                    workspace,
                    settings,
                    encoder=embedding,
                    path=path,
                    train_samples=listed(train),
                    val_samples=listed(val),
                    dry_run=dry_run,
                    force=force,
                )
            ]
    for done in runs:
        for warning in done.warnings:
            console.warn(warning)
        by = embedding.description.encoder
        learnt = f"{by}, {done.spots:,} spots to learn from, {done.held_out:,} held out, {done.genes:,} genes"
        if done.unchanged:
            console.note(f"{done.path} is up to date")
        elif dry_run:
            console.note(f"{done.path}: {learnt}; nothing was trained")
        else:
            console.note(
                f"{done.path}: {learnt}; best of {done.epochs} epochs is {done.best_epoch}, "
                f"held-out loss {done.best_loss:.4f}, {done.seconds:.0f} s"
            )
    console.result(
        [done.path for done in runs], {"encoder": embedding.settings.document(), "runs": [asdict(r) for r in runs]}
    )
