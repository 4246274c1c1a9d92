"""What a cache holds, as the files beside its segments say: encoders, segments and slides."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import lmdb

from ..errors import Ds2cError, InputError
from .segments import Pack, SlideName, shared_segment
from .store import VERSION, Cache, listing

NOBODY = SlideName("", "")


class SlideTiles(TypedDict):
    """How many tiles of a slide a segment holds."""

    fingerprint: str
    path: str
    tiles: int


class SegmentAbout(TypedDict):
    """What the file beside a segment says of it."""

    tiles: int
    bytes: int
    sha256: str
    created: str  # ISO 8601
    slides: list[SlideTiles]


@dataclass(frozen=True)
class Stored:
    """A published segment, as the file beside it says; `about` is None where that is gone or damaged."""

    path: Path
    bytes: int
    about: SegmentAbout | None

    @property
    def tiles(self) -> int:
        return int(self.about.get("tiles", 0)) if self.about else 0

    @property
    def created(self) -> float:
        """Say when it was published, in seconds since the epoch."""
        return datetime.fromisoformat(self.about["created"]).timestamp() if self.about else self.path.stat().st_mtime

    @property
    def slides(self) -> Counter[SlideName]:
        """Count the tiles of each slide; all are nobody's where that is unknown."""
        if not self.about:
            return Counter({NOBODY: 0})
        return Counter({SlideName(one["fingerprint"], one["path"]): one["tiles"] for one in self.about["slides"]})


@dataclass(frozen=True)
class Encoder:
    """One encoder's folder of a cache."""

    folder: Path

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @cached_property
    def description(self) -> dict[str, object]:
        """Read its encoder.json, whatever else it says; raises Ds2cError where that is damaged."""
        path = self.folder / "encoder.json"
        try:
            about = json.loads(path.read_text())
            return {**about, "encoder": str(about.get("encoder", "unknown")), "dimension": int(about["dimension"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Ds2cError(f"{path} is damaged ({error})", "Delete it; the next embed writes it.") from error

    @property
    def name(self) -> str:
        return str(self.description["encoder"])

    @property
    def dimension(self) -> int:
        dimension = self.description["dimension"]
        assert isinstance(dimension, int)
        return dimension

    def cache(self) -> Cache:
        """Open its embeddings."""
        return Cache(self.folder.parents[1], self.fingerprint, self.dimension)

    def segments(self) -> list[Stored]:
        """List its published segments that no other replaces, oldest first."""
        _, replaced, published = listing(self.folder)
        return [_stored(self.folder / name) for name in sorted(published - replaced)]

    def replaced(self) -> dict[Path, float]:
        """List the segments that others replace, and since when (seconds since the epoch)."""
        _, replaced, published = listing(self.folder)
        return {self.folder / name: mark_of(self.folder / name).stat().st_mtime for name in published & replaced}


@dataclass(frozen=True)
class Holding:
    """Tiles of one slide that an encoder's segments hold, and their share of the bytes on disk."""

    encoder: str
    fingerprint: str
    dimension: int
    slide: str
    path: str
    tiles: int  # one that two segments hold counts twice, until they are merged
    bytes: int


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


def encoders(root: Path, wanted: str = "") -> list[Encoder]:
    """List the encoders that a cache holds; with `wanted` those of this name, or whose fingerprint begins so.

    Raises InputError when there is none of them.
    """
    found = [Encoder(path.parent) for path in sorted((root / VERSION).glob("*/encoder.json"))]
    chosen = [one for one in found if wanted in ("", one.name) or one.fingerprint.startswith(wanted)]
    if wanted and not chosen:
        held = ", ".join(sorted({one.name for one in found})) or "nothing"
        raise InputError(f"{root} has no embeddings of {wanted} (it has: {held})", "Look with `ds2c cache info`.")
    return chosen


def holdings(root: Path, wanted: str = "") -> list[Holding]:
    """Sum up what the cache holds by encoder and slide, as the files beside the segments say, without opening these."""
    found = []
    for encoder in encoders(root, wanted):
        tiles, size = Counter[SlideName](), Counter[SlideName]()
        for segment in encoder.segments():
            slides = segment.slides
            tiles += slides
            for slide, count in slides.items():
                size[slide] += round(segment.bytes * count / slides.total()) if segment.tiles else segment.bytes
        found += [
            Holding(
                encoder=encoder.name,
                fingerprint=encoder.fingerprint,
                dimension=encoder.dimension,
                slide=slide.fingerprint,
                path=slide.path,
                tiles=tiles[slide],
                bytes=size[slide],
            )
            for slide in sorted(size)
        ]
    return found


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


def packs_of(encoder: Encoder, slide: str) -> Iterable[Pack]:
    """Read the packs of one slide (its fingerprint) in all sound segments, newest first; a tile may come twice."""
    for segment in reversed(encoder.segments()):
        if not segment.about or any(name.fingerprint == slide for name in segment.slides):
            with suppress(lmdb.Error, ValueError):
                for _, pack in shared_segment(segment.path).packs(encoder.dimension):
                    if pack.slide.fingerprint == slide:
                        yield pack


def mark_of(path: Path) -> Path:
    """Name the empty file that says that newer segments hold all of this one."""
    return path.with_name(f"{path.name}.replaced")


def _stored(path: Path) -> Stored:
    """Look up a segment and what the file beside it says."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        if not isinstance(about, dict) or "slides" not in about:
            about = None
    except (OSError, ValueError):
        about = None
    return Stored(path, size_of(path), about)


def size_of(path: Path) -> int:
    """Give a segment's bytes; 0 where it is gone."""
    with suppress(OSError):  # deleted by another's merge
        return path.stat().st_size
    return 0
