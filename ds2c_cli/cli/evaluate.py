"""ds2c evaluate: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import console
from .options import SamplesArgument, Session, listed, shared


@shared("device", "project", "cache")
def command(
    session: Session,
    samples: SamplesArgument = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Files or names: A,B or repeated; by default all of the project's.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="Score written predictions instead.", metavar="DIR")] = None,
    name: Annotated[str, typer.Option(help="Of the folder in evaluation/.")] = "",
    baselines: Annotated[bool, typer.Option(help="Score the trivial baselines too.")] = True,
) -> None:
    """Score predictions against single-cell truth and write a report."""
    from ..evaluation.evaluate import evaluate
    from ..evaluation.page import legend
    from ..evaluation.report import tables_of, write_report

    names = listed(checkpoint) or ([] if predictions else session.project.checkpoint_names())
    with session.workspace() as workspace:
        found = evaluate(
            workspace,
            checkpoints=[session.project.checkpoint_named(each) for each in names],
            predictions=predictions,
            samples=samples or (),
            name=name,
            baselines=baselines,
        )
    report = write_report(session.project, found)
    for table in tables_of(found):
        console.table(table.title, table.columns, table.rows)
    console.note(legend(found.rows["scenario"].unique()))
    for sentence in found.warnings:
        console.warn(sentence)
    console.result([report], {"report": report, "metrics": found.folder / "metrics.json",
                              "rows": found.rows.to_dict("records")})  # fmt: skip
