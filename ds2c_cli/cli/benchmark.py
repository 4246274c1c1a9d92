"""ds2c benchmark: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import console
from .options import CacheOption, DebugOption, DeviceOption, DryRunOption, JsonOption, ProjectOption


def command(
    file: Annotated[Path, typer.Argument(help="What to compare; see examples/benchmark/.", metavar="BENCHMARK.TOML")],
    split_by: Annotated[
        str, typer.Option(help="What a fold keeps whole: donor, patient (as HEST names them) or sample.")
    ] = "",
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Do only this of the file's seeds; may be repeated. For jobs side by side, once embedded."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what has been scored so far.")
    ] = False,
    device: DeviceOption = "auto",
    project: ProjectOption = Path(),
    cache: CacheOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare models over folds and seeds: prepare, embed, train, score, and one report."""
    console.configure(json=json, debug=debug)
    from ..benchmark import collect, run
    from ..benchmark_file import read_benchmark
    from ..benchmark_report import Board, tables_of, write_benchmark
    from ..cache import default_root
    from ..project import Project

    home = Project(project)
    plan = read_benchmark(file, split_by)
    if dry_run:
        for fold in plan.folds:
            others = ", ".join(f"{name} {scenario}" for name, scenario in fold.scenario.items() if scenario != "IS")
            console.note(f"{fold.name}: train on {', '.join(fold.train)}; held out: {others or 'none'}")
        count = len(plan.folds) * len(plan.models) * len(plan.encoders) * len(plan.seeds)
        console.note(f"{len(plan.requests)} samples, {len(plan.encoders)} encoders, {count} networks; nothing was done")
        console.result([], {"folds": [{"name": fold.name, "train": fold.train, "scored": fold.scenario}
                                      for fold in plan.folds], "networks": count})  # fmt: skip
        return
    if not report_only:
        with console.progress() as tell:
            for done in run(home, plan, cache or default_root(), device, tell, seed or ()):
                report = write_benchmark(home, plan, collect(home, plan))
                console.note(f"{done} of {len(seed or plan.seeds)} seeds done; {report}")
    results = collect(home, plan)
    report = write_benchmark(home, plan, results)
    for table in tables_of(plan, Board(results), brief=True):
        console.table(table.title, table.columns, table.rows)
    for reason in results.left_out:
        console.note(f"left out: {reason}")
    if results.missing:
        console.warn(f"{len(results.missing)} scores are not there yet, the first of them {results.missing[0]}")
    console.result([report], {"report": report, "folder": results.folder, "missing": results.missing,
                              "rows": results.rows.to_dict("records")})  # fmt: skip
