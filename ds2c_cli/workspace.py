"""What every step works in: a project, the cache, the devices, and who is told how far it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from .progress import Progress, silent
from .project import Project


def default_cache() -> Path:
    """Name the cache's folder: `DS2C_CACHE`, else ds2c in the user's cache directory."""
    if root := os.environ.get("DS2C_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ds2c"


@dataclass(frozen=True)
class Workspace:
    """Everything that steps share and pass on.

    Args:
        project: The project directory.
        cache: The folder of embeddings, for every run and project.
        device: auto, cpu, cuda, or CUDA devices with commas between them: cuda:0,cuda:1.
        progress: Called with how far a step is.
    """

    project: Project
    cache: Path = field(default_factory=default_cache)
    device: str = "auto"
    progress: Progress = silent

    @classmethod
    def of(cls, subject: Project | Workspace) -> Workspace:
        """Make a workspace of a project with the defaults of all else; a workspace stays as it is."""
        return subject if isinstance(subject, Workspace) else cls(subject)
