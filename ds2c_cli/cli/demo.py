"""ds2c demo: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import console
from .options import Session, shared


@shared("cache")
def command(
    session: Session,
    folder: Annotated[Path, typer.Option("--project", metavar="DIR", help="The project to make.")] = Path("demo"),
    size_px: Annotated[int, typer.Option("--size", help="Side of the generated slides in pixels.", min=768)] = 2560,
) -> None:
    """Run the whole chain on two generated slides."""
    from ..demo import demo
    from ..evaluation.page import legend
    from ..evaluation.report import tables_of

    with console.progress() as tell:
        shown = demo(folder, cache_root=session.given_cache or folder / "cache", size_px=size_px, progress=tell)
    for table in tables_of(shown.found):
        console.table(table.title, table.columns, table.rows)
    console.note(legend(shown.found.rows["scenario"].unique()))
    console.note("Generated tissue: it shows that the chain works, not how good it is on H&E.")
    console.note(f"Virtual cells: {shown.prediction}")
    console.note(f"Open the report: {shown.report}")
    console.result(
        [shown.report],
        {"report": shown.report, "prediction": shown.prediction, "rows": shown.found.rows.to_dict("records")},
    )
