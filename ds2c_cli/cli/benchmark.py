"""ds2c benchmark: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import SplitBy
from .console import console
from .options import DryRunOption, Session, shared
from .panels import RUN

if TYPE_CHECKING:
    from ..benchmark.compare import Compared
    from ..benchmark.plan import Benchmark


@shared("device", "project", "cache")
def command(
    session: Session,
    file: Annotated[Path, typer.Argument(help="What to compare; see examples/benchmark/.", metavar="BENCHMARK.TOML")],
    split_by: Annotated[
        SplitBy | None, typer.Option(help="What a fold keeps whole; patients are as HEST names them.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Do only this of the file's seeds; may be repeated. For jobs side by side, once embedded."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what has been scored so far.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace what was made from other inputs or settings; leave the rest alone.",
            rich_help_panel=RUN,
        ),
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Compare models over folds and seeds: prepare, embed, train, score, and one report."""
    from ..benchmark.compare import compare
    from ..benchmark.plan import read_benchmark
    from ..errors import Ds2cError, InputError

    plan = read_benchmark(file, split_by or "")
    if dry_run:
        for fold in plan.folds:
            others = ", ".join(f"{name} {scenario}" for name, scenario in fold.scenario.items() if scenario != "IS")
            console.note(f"{fold.name}: train on {', '.join(fold.train)}; held out: {others or 'none'}")
        count = len(plan.folds) * len(plan.models) * len(plan.encoders) * len(plan.seeds)
        console.note(f"{len(plan.requests)} samples, {len(plan.encoders)} encoders, {count} networks; nothing was done")
        console.result([], {"folds": [{"name": fold.name, "train": fold.train, "scored": fold.scenario}
                                      for fold in plan.folds], "networks": count})  # fmt: skip
        return
    with session.workspace() as workspace:
        for now in compare(
            workspace,
            plan,
            seeds=seed or (),
            force=force,
            report_only=report_only,
            on_failure=lambda what, why: console.warn(f"{what} failed: {why}"),
        ):
            if now.done and now.report:
                console.note(f"{now.done} done; {now.report}")
    failure = Ds2cError(
        f"{len(now.failed)} steps of {plan.name} failed, for the reasons above",
        "Deal with them and run it again: what is done stays. --force replaces what was made from other inputs.",
    )
    if now.report is None and now.failed:
        raise failure
    if now.report is None:
        raise InputError(f"nothing has been scored yet in {now.results.folder}", "Run `ds2c benchmark` on the file.")
    _show(plan, now, report=now.report)
    if now.failed:
        raise failure


def _show(plan: Benchmark, now: Compared, *, report: Path) -> None:
    """Print the tables of a benchmark, and what is not in them."""
    from ..benchmark.board import Board
    from ..benchmark.report import tables_of
    from ..evaluation.page import legend

    results = now.results
    for table in tables_of(plan, Board(results), brief=True):
        console.table(table.title, table.columns, table.rows)
    console.note(legend(results.rows["scenario"].unique()))
    for reason in results.left_out:
        console.note(f"left out: {reason}")
    for sentence in results.warnings:
        console.warn(sentence)
    if results.missing:
        console.warn(f"{len(results.missing)} scores are not there yet, the first of them {results.missing[0]}")
    console.result([report], {"report": report, "folder": results.folder, "missing": results.missing,
                                  "failed": now.failed, "warnings": results.warnings,
                                  "rows": results.rows.to_dict("records")})  # fmt: skip
