"""What a check is asked and what it answers, in the words of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

State = Literal["ok", "warn", "fail"]

GIB = 1 << 30


class Asked(NamedTuple):
    """What the checks are about."""

    project: Path = Path()
    cache: Path | None = None  # None: the default one
    encoder: str = ""  # whose weights must be here; empty: none must
    device: str = "auto"
    hub: bool = False  # whether the hub may be contacted


class Answer(NamedTuple):
    """What a check says; whatever is not ok has a remedy."""

    state: State
    found: str
    remedy: str = ""


class Finding(NamedTuple):
    """The answer of a named check."""

    check: str
    state: State
    found: str
    remedy: str


def one_line(error: BaseException, longest: int = 300) -> str:
    """Put an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:longest]


def gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
