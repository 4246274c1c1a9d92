"""ds2c plot: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .console import console
from .options import Session, listed, shared


@shared("project")
def command(
    session: Session,
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help="A sample of the project.")],
    genes: Annotated[list[str], typer.Argument(metavar="GENE...", help="Genes to paint, a figure each.")],
    prediction: Annotated[
        str, typer.Option(metavar="NAME", help="A prediction of the project, or its h5ad; the latest by default.")
    ] = "",
    window: Annotated[
        str, typer.Option(metavar="X,Y,W,H", help="The part to enlarge, in microns; by default in the middle.")
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The PNG, where one gene is named.")] = None,
) -> None:
    """Paint genes on a slide: measured and predicted."""
    from ..errors import UsageError
    from ..plotting.plot import Window, plot

    place: Window | None = None
    if window:
        try:
            x, y, width, height = (float(value) for value in window.split(","))
        except ValueError:
            raise UsageError(f"--window is {window!r}", "Write X,Y,WIDTH,HEIGHT in microns: 0,0,400,400.") from None
        place = x, y, width, height
    with session.workspace() as workspace:
        done = plot(
            workspace,
            sample,
            genes=listed(genes),
            prediction=prediction,
            window_um=place,
            output=output,
        )
    for one in done:
        fit = "" if one.pearson is None else f"; r = {one.pearson:.2f}"
        console.note(f"{one.gene}: {one.prediction or 'no prediction'}{fit}")
    console.result([one.path for one in done], {"figures": [asdict(one) for one in done]})
