"""How a step tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, facts): `total` is 0 where it is unknown; `facts` is short free text."""


def silent(stage: str, done: int, total: int, facts: str = "") -> None:
    """Tell nobody: the default of every library function."""
