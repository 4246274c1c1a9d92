"""ds2c predict: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Mode
from .console import console
from .options import ForceOption, SamplesArgument, Session, shared


@shared("device", "project", "cache")
def command(
    session: Session,
    checkpoint: Annotated[str, typer.Option(help="A file, or a name in the project's checkpoints.", metavar="NAME")],
    samples: SamplesArgument = None,
    mode: Annotated[Mode, typer.Option(help="predict from the image, or deconvolve measured spots.")] = "predict",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The h5ad, where one sample is named.")] = None,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Add a layer with the SD of spot_share.")] = False,
    force: ForceOption = False,
) -> None:
    """Predict the expression of every cell."""
    from ..prediction.predict import predict

    with session.workspace() as workspace:
        runs = predict(
            workspace,
            session.project.checkpoint_named(checkpoint),
            samples=samples or (),
            mode=mode,
            output=output,
            force=force,
            uncertainty=uncertainty,
        )
    for done in runs:
        state = "is up to date" if done.unchanged else f"{done.cells:,} cells"
        console.note(f"{done.path}: {state}" + (f", {done.deconvolved:,} deconvolved" if done.deconvolved else ""))
    console.result([done.path for done in runs], {"predictions": [asdict(done) for done in runs]})
