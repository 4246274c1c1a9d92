"""ds2c benchmark: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import SplitBy
from .console import console
from .options import DryRunOption, Session, shared
from .panels import RUN


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
    from ..benchmark.board import Board
    from ..benchmark.plan import read_benchmark
    from ..benchmark.report import tables_of, write_benchmark
    from ..benchmark.results import collect
    from ..benchmark.run import run
    from ..errors import Ds2cError, InputError
    from ..evaluation.page import legend

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
    told: set[str] = set()
    with session.workspace() as workspace:
        nothing: list[tuple[str, dict[str, str]]] = [("", {})]
        steps = run(workspace, plan, seeds=seed or (), force=force)
        for done, failed in nothing if report_only else steps:
            for what in [each for each in failed if each not in told]:
                console.warn(f"{what} failed: {failed[what]}")
                told.add(what)
            results = collect(session.project, plan, failed)
            if results.rows.empty:
                continue
            report = write_benchmark(session.project, plan, results)
            if done:
                console.note(f"{done} done; {report}")
    failure = Ds2cError(
        f"{len(failed)} steps of {plan.name} failed, for the reasons above",
        "Deal with them and run it again: what is done stays. --force replaces what was made from other inputs.",
    )
    if results.rows.empty and failed:
        raise failure
    if results.rows.empty:
        raise InputError(f"nothing has been scored yet in {results.folder}", "Run `ds2c benchmark` on the file.")
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
                              "failed": failed, "warnings": results.warnings,
                              "rows": results.rows.to_dict("records")})  # fmt: skip
    if failed:
        raise failure
