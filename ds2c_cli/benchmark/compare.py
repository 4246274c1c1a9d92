"""Run a benchmark and keep its report up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..project import Workspace
from .plan import Benchmark
from .report import write_benchmark
from .results import Results, collect
from .run import run


@dataclass(frozen=True)
class Compared:
    """How far a benchmark is."""

    done: str  # what was done last; empty where nothing was to be done
    failed: dict[str, str]  # reasons so far, by the step's name
    results: Results
    report: Path | None  # None while nothing has been scored


def compare(
    workspace: Workspace,
    plan: Benchmark,
    *,
    seeds: Sequence[int] = (),
    force: bool = False,
    report_only: bool = False,
    on_failure: Callable[[str, str], None],
) -> Iterator[Compared]:
    """Do what is not done yet, a seed at a time, and write the report after each.

    Args:
        workspace: Where the samples are and the results go.
        plan: What is compared.
        seeds: Those of the plan to do; all by default.
        force: Replace samples and checkpoints that were made from other inputs or settings.
        report_only: Do nothing, and write the report of what has been scored.
        on_failure: Called once with each step that failed and why, before the report is written.
    """
    nothing: list[tuple[str, dict[str, str]]] = [("", {})]
    steps: Iterable[tuple[str, dict[str, str]]] = (
        nothing if report_only else run(workspace, plan, seeds=seeds, force=force)
    )
    told: set[str] = set()
    for done, failed in steps:
        for what in [each for each in failed if each not in told]:
            on_failure(what, failed[what])
            told.add(what)
        results = collect(workspace.project, plan, failed)
        report = None if results.rows.empty else write_benchmark(workspace.project, plan, results)
        yield Compared(done, dict(failed), results, report)
