"""ds2c predict: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Mode
from .console import console
from .options import CacheOption, DebugOption, DeviceOption, ForceOption, JsonOption, ProjectOption, SamplesArgument


def command(
    checkpoint: Annotated[str, typer.Option(help="A file, or a name in the project's checkpoints.", metavar="NAME")],
    samples: SamplesArgument = None,
    mode: Annotated[Mode, typer.Option(help="predict from the image, or deconvolve measured spots.")] = "predict",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The h5ad, where one sample is named.")] = None,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Add a layer with the SD of spot_share.")] = False,
    device: DeviceOption = "auto",
    project: ProjectOption = Path(),
    cache: CacheOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Predict the expression of every cell."""
    console.configure(json=json, debug=debug)
    from ..prediction.predict import predict
    from ..project import Project
    from ..workspace import Workspace, default_cache

    home = Project(project)
    with console.progress() as tell:
        runs = predict(
            Workspace(home, cache=cache or default_cache(), device=device, progress=tell),
            home.checkpoint_named(checkpoint),
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
