"""Measure what a step costs, its wall time and the most memory it held, and keep it."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import torch

from ..files import write_json
from .plan import file_name


@dataclass
class Cost:
    """Seconds, and megabytes at their highest: of this process, and on the CUDA device where one was used."""

    seconds: float = 0.0
    memory_mb: float = 0.0
    device_mb: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the cost of what is done inside, filled in at its end.

    The peak of memory is the step's own on Linux, which can forget an earlier one; elsewhere it is the process's.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    cost = Cost()
    began = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - began
    cost.memory_mb = _peak_kb() / 1024
    if torch.cuda.is_available():
        cost.device_mb = torch.cuda.max_memory_allocated() / 2**20


def _peak_kb() -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


class Step(TypedDict):
    """A step that was done, what it cost, a fact about it and what was warned of."""

    step: str
    what: str
    seconds: float
    memory_mb: float
    device_mb: float
    facts: str
    warnings: NotRequired[list[str]]


class StepCosts:
    """Costs of the steps that were done, a file each; a step left alone keeps what it cost when it was done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[Step]:
        """Read all steps, in the order they were done."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"), key=_modified)]

    @contextmanager
    def step(self, step: str, what: str) -> Iterator[Callable[..., None]]:
        """Measure what is done inside; the call it gives says whether there was work to do, a fact about it, and what
        was warned of."""
        told: list[tuple[str, list[str]]] = []

        def report(worked: bool, facts: str, warnings: Sequence[str] = ()) -> None:
            if worked:
                told.append((facts, list(warnings)))

        with measured() as cost:
            yield report
        if told:
            facts, warnings = told[0]
            about = {"step": step, "what": what, **asdict(cost), "facts": facts, "warnings": warnings}
            write_json(self.folder / f"{file_name(step, what)}.json", about)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
