"""What a step costs: its wall time, and the most memory it held."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """Seconds, and megabytes at their highest: of this process, and on the CUDA device where one was used."""

    seconds: float = 0.0
    memory_mb: float = 0.0
    device_mb: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of what is done inside, filled in at its end.

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
