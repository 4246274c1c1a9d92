"""What ds2c needs on this machine, looked at one by one: ok, warn or fail, what was found, and a remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from ..errors import Ds2cError
from . import installation, machine, places, weights
from .answers import Answer, Asked, Finding, one_line

# Everything heavy, of ours too, is imported in the checks: a broken package is a line of the answer, not its end.

__all__ = ["Answer", "Asked", "Finding", "examine"]


def examine(asked: Asked) -> list[Finding]:
    """Make every check; one that raises is itself a failure, and one that has nothing to say here is left out.

    Leaves no file behind, and needs no network unless `asked.hub`.
    """
    findings = []
    for name, check in CHECKS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answer = check(asked)
            except Exception as error:  # whatever it is, it is what stands in the user's way
                answer = _failed(error)
        if answer is not None:
            findings.append(Finding(name, *answer))
    return findings


def _failed(error: Exception) -> Answer:
    if isinstance(error, Ds2cError):
        return Answer("fail", error.message, error.hint or "See above.")
    if isinstance(error, ImportError):
        return Answer("fail", one_line(error), "Install ds2c anew, in an environment of its own.")
    if isinstance(error, OSError):
        return Answer("fail", one_line(error), "Look at the path, its permissions and the space left on its disk.")
    return Answer("fail", one_line(error), "If nothing here explains it, report it with this whole table.")


CHECKS: tuple[tuple[str, Callable[[Asked], Answer | None]], ...] = (
    ("python", installation.python),
    ("packages", installation.packages),
    ("torch", installation.torch_build),
    ("devices", machine.devices),
    ("CPU and memory", machine.cpu_and_memory),
    ("slide reading", installation.slide_reading),
    ("cache directory", places.cache_directory),
    ("scratch directory", places.scratch_directory),
    ("project", places.project),
    ("weights folder", weights.weights_folder),
    ("hub", weights.hub),
    ("gated encoders", weights.gated_encoders),
    ("encoders", weights.encoders),
    ("open files", machine.open_files),
    ("encoding", machine.encoding),
    ("SLURM", machine.slurm),
)
