"""ds2c export: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..choices import ExportFormat
from .console import console
from .options import ForceOption, Session, listed, shared


@shared("project")
def command(
    session: Session,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTION|SAMPLE",
            help="Files that `ds2c predict` wrote, their NAME/SAMPLE in the project, or samples.",
        ),
    ],
    to: Annotated[
        ExportFormat,
        typer.Option(
            help="geojson holds QuPath's detections, parquet and csv a row per cell and gene, zarr an AnnData."
        ),
    ],
    genes: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Only these genes: A,B or repeated; or all.")
    ] = None,
    class_by: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="geojson: classes in colour, by a column of the cells; or genes: which of them stands out most.",
        ),
    ] = "",
    image: Annotated[bool, typer.Option(help="spatialdata: with the slide's pixels.")] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PATH", help="By default in the project's exports/.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write predictions or samples for other software: SpatialData, QuPath, tables, Zarr."""
    from ..exporting.export import export

    with session.workspace() as workspace:
        exports = export(
            workspace,
            sources,
            to=to,
            genes=listed(genes),
            class_by=class_by,
            image=image,
            output=output,
            force=force,
        )
    for done in exports:
        state = "is up to date" if done.unchanged else f"{done.cells:,} cells, {done.genes:,} genes"
        console.note(f"{done.path}: {state}")
    console.result([done.path for done in exports], {"exports": [asdict(done) for done in exports]})
