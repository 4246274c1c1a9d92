"""Sum up what a cache holds per encoder, and find the one slide of one encoder that a user means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .maintenance import Encoder, encoders, holdings


@dataclass(frozen=True)
class Total:
    """All of one encoder's segments together."""

    encoder: str
    segments: int
    tiles: int
    bytes: int
    bytes_waiting: int  # of segments that a merge has replaced, and that a later one deletes


@dataclass(frozen=True)
class Choice:
    """One slide of one encoder."""

    encoder: Encoder
    slide: str  # its fingerprint
    path: str  # where it was last seen
    tiles: int
    bytes: int


def totals(root: Path, wanted: str = "") -> dict[str, Total]:
    """Sum up every encoder, or those `wanted`, by fingerprint.

    Raises InputError when there is none of those wanted.
    """
    found = {}
    for encoder in encoders(root, wanted):
        segments = encoder.segments()
        found[encoder.fingerprint] = Total(
            encoder=encoder.name,
            segments=len(segments),
            tiles=sum(segment.tiles for segment in segments),
            bytes=sum(segment.bytes for segment in segments),
            bytes_waiting=sum(path.stat().st_size for path in encoder.replaced()),
        )
    return found


def choose(root: Path, wanted: str, *, slide: str, named: str) -> Choice:
    """Find the slide whose fingerprint begins with `slide`, of the encoder `wanted`; `named` is what the user wrote.

    Raises InputError where that is not one slide of one encoder.
    """
    held = [one for one in holdings(root, wanted) if one.slide.startswith(slide)]
    if len({(one.fingerprint, one.slide) for one in held}) != 1:
        what = ", ".join(f"{one.encoder} of {one.path}" for one in held) or "none"
        raise InputError(
            f"SLIDE and --encoder should choose one slide of one encoder; {named} chooses {what}",
            "Look with `ds2c cache info`, and name more of the fingerprint or the --encoder.",
        )
    (encoder,) = encoders(root, held[0].fingerprint)
    return Choice(
        encoder,
        held[0].slide,
        path=held[0].path,
        tiles=sum(one.tiles for one in held),
        bytes=sum(one.bytes for one in held),
    )
