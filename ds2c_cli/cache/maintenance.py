"""The cache's upkeep: whether it is sound, folding small segments into large ones, making room."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import TypedDict

import lmdb
import numpy as np

from ..errors import UsageError
from ..progress import Progress, silent
from . import claims
from .inventory import Encoder, Stored, encoders, mark_of, size_of
from .segments import CORRUPT, SlideName, salvage, shared_segment, writing_to

MERGED_BYTES = 4 << 30  # of a merged segment
GRACE_HOURS = 24.0  # merged segments are deleted after this, when no job reads them any more
LITTER_SECONDS = 86_400.0  # what a killed job left half copied, or claimed, is litter after a day
QUARANTINE = "quarantine"


class Lost(TypedDict):
    """How many tiles of a slide (its fingerprint, and its path for people) went with a damaged segment."""

    slide: str
    path: str
    tiles: int


@dataclass
class Verified:
    """What `verify` found of a segment."""

    encoder: str
    fingerprint: str
    segment: str
    tiles: int
    damage: str = ""  # empty: it is sound
    rescued: int = 0
    lost: list[Lost] = field(default_factory=list)  # what its sound packs lack


@dataclass
class Changed:
    """What `merge` or `prune` did, or would do, to the segments of an encoder."""

    encoder: str
    fingerprint: str
    segments_before: int
    segments_after: int
    bytes_before: int
    bytes_after: int
    tiles_removed: int = 0
    bytes_waiting: int = 0  # of replaced segments, until their grace period is over
    skipped: list[str] = field(default_factory=list)  # segments that are damaged and were left alone


def verify(root: Path, wanted: str = "", *, dry_run: bool = False, progress: Progress = silent) -> list[Verified]:
    """Check every segment against its sha256, and every pack of one that fails against the pack's checksum.

    The sound packs of a damaged segment are published anew and its file is moved to `quarantine`, unless `dry_run`.
    """
    work = [(encoder, segment) for encoder in encoders(root, wanted) for segment in encoder.segments()]
    total, done, results = sum(segment.bytes for _, segment in work), 0, []
    for encoder, segment in work:
        progress("verify", done, total, segment.path.name)
        done += segment.bytes
        results.append(_verify_one(encoder, segment, dry_run=dry_run))
    progress("verify", done, total, "bytes")
    return results


def merge(
    root: Path,
    wanted: str = "",
    *,
    grace_hours: float = GRACE_HOURS,
    dry_run: bool = False,
    progress: Progress = silent,
) -> list[Changed]:
    """Fold every encoder's small segments into large ones of full packs, each tile once.

    Jobs that are at work go on reading the segments they know: these are deleted, by this call or a later one, when
    they have been replaced for `grace_hours`. Damaged segments are left alone. Raises Ds2cError when a disk is full.
    """
    results = []
    for encoder in encoders(root, wanted):
        before = encoder.segments()
        small = [segment for segment in before if segment.bytes < MERGED_BYTES // 2]
        skipped: list[str] = []
        if len(small) > 1 and not dry_run:
            skipped = _rewrite(encoder, small, leave_out=(), progress=progress)
            for segment in small:
                if segment.path.name not in skipped:
                    with writing_to(encoder.folder):
                        mark_of(segment.path).touch()
        if not dry_run:
            _sweep(encoder, grace_hours)
        results.append(_changed(encoder, before, skipped=skipped))
        if dry_run and len(small) > 1:  # at most so many bytes: what tiles they share is not known before
            results[-1].segments_after -= len(small) - math.ceil(sum(one.bytes for one in small) / MERGED_BYTES)
    return results


def prune(
    root: Path,
    wanted: str,
    *,
    doomed: Callable[[Stored, SlideName], bool],
    dry_run: bool = False,
    progress: Progress = silent,
) -> list[Changed]:
    """Delete, of each encoder `wanted`, the tiles of every slide that is `doomed` in a segment.

    It is done at once, so no job should be reading them. An encoder of which nothing is left goes whole.
    """
    results = []
    for encoder in encoders(root, wanted):
        before = encoder.segments()
        out = {s.path: {slide for slide in s.slides if doomed(s, slide)} for s in before}
        whole = [segment for segment in before if len(out[segment.path]) == len(segment.slides)]
        part = [segment for segment in before if out[segment.path] and segment not in whole]
        going = set().union(*(out[segment.path] for segment in part))
        removed = {s.path: sum(s.slides[slide] for slide in out[s.path]) for s in before}
        skipped: list[str] = []
        if not dry_run:
            if part:
                skipped = _rewrite(encoder, part, leave_out=going, progress=progress)
            for segment in [*whole, *part]:
                if segment.path.name not in skipped:
                    delete(segment.path)
            if before and not encoder.segments():
                with writing_to(encoder.folder):
                    shutil.rmtree(encoder.folder)
            else:
                _sweep(encoder, 0.0)
        done = _changed(encoder, before, skipped=skipped)
        done.tiles_removed = sum(count for path, count in removed.items() if path.name not in skipped)
        if dry_run:
            done.segments_after -= len(whole)
            done.bytes_after -= sum(s.bytes * removed[s.path] // max(s.tiles, 1) for s in part)
            done.bytes_after -= sum(s.bytes for s in whole)
        results.append(done)
    return results


def selection(
    root: Path,
    wanted: str,
    *,
    slides: Sequence[str] = (),
    known: Collection[str] | None = None,
    older_than_days: float | None = None,
    most_gb: float | None = None,
) -> Callable[[Stored, SlideName], bool]:
    """Choose what to `prune`: slides whose fingerprint begins so, slides not among those `known`, old segments, or the
    oldest until the encoders `wanted` take at most so many GB; with none of these, all of the encoder `wanted`.

    Raises UsageError unless one of them is given.
    """
    given = [bool(slides) and all(slides), known is not None, older_than_days is not None, most_gb is not None]
    if sum(given) > 1 or not (any(given) or wanted):
        raise UsageError(
            "prune takes one of --slide, --not-in, --older-than and --size, or --encoder alone",
            "See ds2c cache prune --help.",
        )
    if slides:
        return lambda segment, slide: slide.fingerprint.startswith(tuple(slides))
    if known is not None:
        return lambda segment, slide: bool(slide.fingerprint) and slide.fingerprint not in known
    if older_than_days is not None:
        limit = time.time() - 86_400 * older_than_days
        return lambda segment, slide: segment.created < limit
    if most_gb is not None:
        over = _oldest_over(root, wanted, most_bytes=int(most_gb * 1e9))
        return lambda segment, slide: segment.path in over
    return lambda segment, slide: True


def _oldest_over(root: Path, wanted: str, *, most_bytes: int) -> set[Path]:
    """Choose the oldest segments without which the encoders `wanted` take at most so many bytes."""
    segments = [segment for encoder in encoders(root, wanted) for segment in encoder.segments()]
    size, over = sum(segment.bytes for segment in segments), set()
    for segment in sorted(segments, key=lambda one: one.created):
        if size <= most_bytes:
            break
        over.add(segment.path)
        size -= segment.bytes
    return over


def delete(path: Path) -> None:
    """Delete a segment with all that stands beside it; raises Ds2cError where that cannot be done."""
    with writing_to(path.parent):
        path.unlink(missing_ok=True)  # first: what stands beside it is nothing without it
        path.with_suffix(".json").unlink(missing_ok=True)
        for mark in path.parent.glob(f"{path.name}.*"):
            mark.unlink(missing_ok=True)


def _verify_one(encoder: Encoder, segment: Stored, *, dry_run: bool) -> Verified:
    """Check one segment; unless `dry_run`, publish what is sound of a damaged one anew and move it aside."""
    found = Verified(encoder.name, encoder.fingerprint, segment.path.name, segment.tiles)
    with segment.path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    if segment.about and digest == segment.about.get("sha256"):
        for mark in [] if dry_run else encoder.folder.glob(f"{segment.path.name}.damaged-*"):
            mark.unlink(missing_ok=True)  # it could not be read once, and can now
        return found
    found.damage = "its bytes are not those of its sha256" if segment.about else "the file that describes it is gone"
    held = Counter[SlideName]()
    if dry_run:
        for pack in salvage(segment.path, encoder.dimension):
            held[pack.slide] += len(pack.names)
    else:
        with encoder.cache().writer(encoder.description) as writer:
            for pack in salvage(segment.path, encoder.dimension):
                held[pack.slide] += len(pack.names)
                writer.append(pack.slide, pack.names.tolist(), pack.vectors)
        aside = encoder.folder / QUARANTINE
        with writing_to(aside):
            aside.mkdir(exist_ok=True)
            segment.path.replace(aside / segment.path.name)
        delete(segment.path)
    found.rescued = held.total()
    lost = segment.slides - held
    found.lost = [{"slide": name.fingerprint, "path": name.path, "tiles": lost[name]} for name in sorted(lost)]
    return found


def _rewrite(
    encoder: Encoder, segments: Sequence[Stored], *, leave_out: Collection[SlideName], progress: Progress
) -> list[str]:
    """Publish the tiles of these segments anew, each once and a slide's together, but for those of some slides.

    Returns the names of damaged segments, of which nothing is published. Keys are held in memory (16 bytes per tile),
    vectors are not.
    """
    dimension = encoder.dimension
    entries: list[tuple[SlideName, int, int]] = []  # slide, segment, pack
    names: list[np.ndarray] = []
    damaged = []
    for number in reversed(range(len(segments))):  # newest first: its copy of a tile is the one that stays
        found: list[tuple[SlideName, int, int]] = []
        its: list[np.ndarray] = []
        try:
            for place, pack in shared_segment(segments[number].path).packs(dimension):
                found.append((pack.slide, number, place))
                its.append(pack.names)
        except (*CORRUPT, lmdb.Error, ValueError):
            damaged.append(segments[number].path.name)
            continue
        entries += found
        names += its
    if not names:
        return damaged
    together = np.concatenate(names)
    fresh = np.zeros(len(together), bool)
    fresh[np.unique(together, return_index=True)[1]] = True
    chosen = dict(zip(entries, np.split(fresh, np.cumsum([len(one) for one in names])[:-1]), strict=True))
    done, forever = 0, (math.inf, math.inf)
    with encoder.cache().writer(encoder.description, most_bytes=MERGED_BYTES, most_seconds=forever) as writer:
        for entry in sorted(entries):
            slide, number, place = entry
            rows = chosen[entry]
            if slide not in leave_out and rows.any():
                pack = shared_segment(segments[number].path).pack(place, dimension)
                writer.append(slide, pack.names[rows].tolist(), pack.vectors[rows])
            done += len(rows)
            progress("merge", done, len(together), "tiles")
    return damaged


def _changed(encoder: Encoder, before: Sequence[Stored], *, skipped: list[str]) -> Changed:
    """Compare an encoder's segments as they were with those it has now."""
    after = encoder.segments()
    return Changed(
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        segments_before=len(before),
        segments_after=len(after),
        bytes_before=sum(segment.bytes for segment in before),
        bytes_after=sum(segment.bytes for segment in after),
        bytes_waiting=sum(size_of(path) for path in encoder.replaced()),
        skipped=skipped,
    )


def _sweep(encoder: Encoder, grace_hours: float) -> None:
    """Delete the segments that have been replaced for long enough, and the litter of killed jobs."""
    now = time.time()
    for path, since in encoder.replaced().items():
        if now - since >= 3600 * grace_hours:
            delete(path)
    for litter in (*encoder.folder.glob(".*.part"), *encoder.folder.glob(f"{claims.FOLDER}/*")):
        with suppress(OSError):
            if now - litter.stat().st_mtime >= LITTER_SECONDS:
                litter.unlink()
