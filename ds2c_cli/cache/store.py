"""The embedding cache: what is held, missing or damaged over all segments of an encoder, and who adds to it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import lmdb
import numpy as np

from ..errors import Ds2cError, InputError
from ..files import write_json
from .segments import CORRUPT, KEY, PACK, WHERE, PrivateSegment, Segment, SlideName, is_ours, shared_segment, writing_to

VERSION = "v1"
GROUP = 16 * PACK  # vectors per transaction at most
BEHIND_SECONDS = 5.0  # a slow encoder's vectors are committed after this long, full pack or not
SEGMENT_BYTES = 1 << 30  # a segment is published when it is this large, or this old:
SEGMENT_SECONDS = (10.0, 300.0)  # the first soon, so that others see it
# Empty files beside a segment: this pack is damaged; all of it stands in newer segments (`merge`).
MARK = re.compile(r"(seg-\w+\.mdb)\.(?:damaged-(\d+)|replaced)")


class MissingEmbeddings(InputError):  # noqa: N818
    """`count` tiles have no (undamaged) embedding in the cache."""

    def __init__(self, count: int, wanted: int, folder: Path) -> None:
        super().__init__(f"{count:,} of {wanted:,} tiles have no embedding in {folder}", "Run `ds2c embed`.")
        self.count = count


class Damage(NamedTuple):
    """A pack, or with `pack` None a whole segment, whose content cannot be trusted; `tiles` were asked of it."""

    segment: str
    pack: int | None
    tiles: int


def tile_keys(slide_fingerprint: str, boxes: np.ndarray, *, tile_px: int) -> list[bytes]:
    """Name each tile by a key of 16 bytes: blake2b-128 over slide fingerprint, level-0 box and target size.

    Args:
        slide_fingerprint: Names the slide by its content.
        boxes: (n, 3) whole numbers: x, y and side in level-0 pixels, negative over a border.
        tile_px: Side of the tile that the encoder is given.

    Raises:
        ValueError: Boxes are not whole numbers.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 3 or boxes.dtype.kind not in "iu":
        raise ValueError(f"boxes must be (n, 3) whole numbers, not {boxes.shape} {boxes.dtype}")
    start = hashlib.blake2b(f"{slide_fingerprint}\0{tile_px}\0".encode(), digest_size=KEY.itemsize)
    keys = []
    for box in np.ascontiguousarray(boxes, "<i8").view("V24").ravel().tolist():
        key = start.copy()
        key.update(box)
        keys.append(key.digest())
    return keys


class Cache:
    """The embeddings of one encoder: `root`/v1/`fingerprint`. Reading takes no locks and never waits.

    `damaged` lists what was found damaged so far; such vectors are never returned, and count as missing from then on,
    in later runs too, until a segment holds them again.
    """

    def __init__(self, root: Path, fingerprint: str, dimension: int) -> None:
        """Open a cache that need not exist yet; raises Ds2cError where its encoder.json has another dimension."""
        self.folder = root.resolve() / VERSION / fingerprint
        self.dimension = dimension
        self.damaged: list[Damage] = []
        self._segments: dict[str, Segment] = {}
        self._bad_packs: dict[str, set[int]] = {}
        self._bad_segments: set[str] = set()
        self._check_dimension()
        self.refresh()
        with suppress(Ds2cError):  # reading needs no room on the disk; writer() tries again and says so
            self.recover()

    def missing(self, keys: Sequence[bytes]) -> np.ndarray:
        """Say which of the keys no segment holds: (n,) bool."""
        return self._find(_named(keys))[1]["segment"] < 0

    def get(self, keys: Sequence[bytes]) -> np.ndarray:
        """Read (n, dimension) float16 vectors in the order of the keys; each pack is read and checked once.

        Raises MissingEmbeddings where any is absent or every copy of it is damaged.
        """
        names = _named(keys)
        vectors = np.empty((len(names), self.dimension), np.float16)
        todo = np.arange(len(names))
        while len(todo):  # once, and again for what turns out to be damaged
            segments, found = self._find(names[todo])
            absent = found["segment"] < 0
            if absent.any():
                raise MissingEmbeddings(len(np.unique(names[todo[absent]])), len(np.unique(names)), self.folder)
            order = np.lexsort((found["pack"], found["segment"]))
            turn = np.diff(found["segment"][order]).astype(bool) | np.diff(found["pack"][order]).astype(bool)
            again = []
            for group in np.split(order, np.flatnonzero(turn) + 1):
                segment, pack, rows = segments[found["segment"][group[0]]], int(found["pack"][group[0]]), todo[group]
                try:
                    vectors[rows] = segment.read(pack, names[rows], found["row"][group], self.dimension)
                except (lmdb.Error, ValueError):
                    self._distrust(segment.path.name, pack, len(rows))
                    again.append(rows)
            todo = np.concatenate(again) if again else todo[:0]
        return vectors

    def refresh(self) -> None:
        """See the segments, and the damage others found, published since the last look."""
        damaged, replaced, published = listing(self.folder)
        for name, packs in damaged.items():
            self._bad_packs.setdefault(name, set()).update(packs)
        # Newest first: what was encoded again stands before what it replaces.
        self._segments = {
            name: shared_segment(self.folder / name)
            for name in sorted(published - replaced - self._bad_segments, reverse=True)
        }

    def recover(self, scratch: Path | None = None) -> int:
        """Publish what killed writers of this machine had committed; how many tiles. A live writer's is left alone."""
        tiles = 0
        home = self._home(scratch)
        for path in sorted(home.glob("seg-*.mdb")) if is_ours(home) else ():
            orphan = PrivateSegment.adopt(path)
            if orphan is None:
                continue
            for part in self.folder.glob(f".{path.name}.*.part"):  # its writer was killed while publishing
                with suppress(OSError):
                    part.unlink()
            try:
                tiles += orphan.publish(self.folder, self.dimension)
            except CORRUPT:
                self.damaged.append(Damage(path.name, None, 0))
                path.unlink()
        if tiles:
            self.refresh()
        return tiles

    def writer(
        self,
        description: Mapping[str, object],
        *,
        scratch: Path | None = None,
        most_bytes: int = SEGMENT_BYTES,
        most_seconds: tuple[float, float] = SEGMENT_SECONDS,
    ) -> Writer:
        """Open a writer of this encoder's embeddings; `description`, in JSON's types, is kept in encoder.json.

        It publishes a segment when it has so many bytes or is so old: the first at the first of `most_seconds`, each
        later one at twice the age, up to the second.
        Segments are built in `scratch`, else `SLURM_TMPDIR`, else `TMPDIR`, else the system's temporary folder, which
        should be a local disk. Raises Ds2cError where either place cannot be written to.
        """
        home = self._home(scratch)
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if not (self.folder / "encoder.json").exists():
                write_json(self.folder / "encoder.json", {**description, "dimension": self.dimension})
        self._check_dimension()
        with writing_to(home):
            home.mkdir(parents=True, exist_ok=True)
            if not is_ours(home):
                raise PermissionError(errno.EACCES, "it belongs to another user")
        self.recover(scratch)
        return Writer(self, home, most_bytes, most_seconds)

    def _check_dimension(self) -> None:
        path = self.folder / "encoder.json"
        try:
            dimension = json.loads(path.read_text())["dimension"]
        except FileNotFoundError:
            return
        except OSError as error:
            raise Ds2cError(f"{path} cannot be read ({error.strerror})", "Choose another --cache.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Ds2cError(f"{path} is damaged ({error})", "Delete it; the next embed writes it.") from error
        if dimension != self.dimension:
            raise Ds2cError(
                f"{path} is of embeddings with {dimension} dimensions, the encoder gives {self.dimension}",
                "Choose another cache with --cache.",
            )

    def _home(self, scratch: Path | None) -> Path:
        """Say where this user's private segments of this cache lie on local scratch."""
        base = scratch or os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
        cache = hashlib.blake2b(os.fsencode(self.folder.parents[1]), digest_size=8).hexdigest()
        return Path(base) / f"ds2c-{os.getuid()}" / self.folder.name / cache

    def _find(self, names: np.ndarray) -> tuple[list[Segment], np.ndarray]:
        """Find segment (-1: none), pack and row of each of the (n,) keys, after the segments looked through."""
        segments, found, vanished = self._look(names)
        if vanished:  # merged into another since the last look
            self.refresh()
            segments, found, _ = self._look(names)
        return segments, found

    def _look(self, names: np.ndarray) -> tuple[list[Segment], np.ndarray, bool]:
        """Find keys as `_find` does in the segments known, and say whether one of them is gone."""
        unique, inverse = np.unique(names, return_inverse=True)
        found = np.zeros(len(unique), [("segment", "i4"), *WHERE.descr])
        found["segment"] = -1
        absent = np.arange(len(unique))
        segments, vanished = list(self._segments.values()), False
        for number, segment in enumerate(segments):
            if not len(absent):
                break
            try:
                position, where = segment.find(unique[absent])
            except FileNotFoundError:
                self._segments.pop(segment.path.name)
                vanished = True
                continue
            except (lmdb.Error, ValueError, OSError):
                self._distrust(segment.path.name, None, len(absent))
                continue
            sound = ~np.isin(where["pack"], list(self._bad_packs.get(segment.path.name, ())))
            position, where = absent[position[sound]], where[sound]
            found["segment"][position] = number
            found["pack"][position], found["row"][position] = where["pack"], where["row"]
            absent = absent[found["segment"][absent] < 0]
        return segments, found[inverse], vanished

    def _distrust(self, segment: str, pack: int | None, tiles: int) -> None:
        """Record damage; a pack's is also left beside its segment, so that the next `missing` of any run knows."""
        self.damaged.append(Damage(segment, pack, tiles))
        if pack is None:
            self._bad_segments.add(segment)
            self._segments.pop(segment)
        else:
            self._bad_packs.setdefault(segment, set()).add(pack)
            with suppress(OSError):  # a cache that is only read: this run knows, and the next finds out again
                (self.folder / f"{segment}.damaged-{pack}").touch()


class Writer:
    """Appends vectors to private segments and publishes them; `tiles` counts the vectors appended.

    A context manager: on the way out, after an error or a signal too, what was appended is published.
    """

    def __init__(self, cache: Cache, home: Path, most_bytes: int, most_seconds: tuple[float, float]) -> None:
        self.tiles = 0
        self._cache, self._home = cache, home
        self._most_bytes, (self._seconds, self._most_seconds) = most_bytes, most_seconds
        self._segment: PrivateSegment | None = None
        self._slide = SlideName("", "")
        self._committed = time.monotonic()
        # Keys and vectors in one list, so that no signal parts them.
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.publish()
        except Ds2cError:
            if kind is None:  # else the first error is the one to tell
                raise

    def append(self, slide: SlideName, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Take n keys of a slide's tiles and their (n, dimension) vectors of any float type, stored as float16.

        They are committed, and safe from a kill, with their pack or within seconds. A pack is of one slide, so slides
        had better come one after the other. Raises InputError for vectors that are not finite in float16, and Ds2cError
        when a disk is full; what was committed stays.
        """
        names = _named(keys)
        if vectors.shape != (len(names), self._cache.dimension):
            raise ValueError(f"{len(names)} keys and vectors {vectors.shape}, dimension {self._cache.dimension}")
        with np.errstate(over="ignore"):
            stored = vectors.astype("<f2")
        if broken := int((~np.isfinite(stored).all(axis=1)).sum()):
            raise InputError(
                f"{broken:,} of {len(names):,} embeddings hold values that are NaN or too large for float16",
                "Check the encoder's weights, or embed with `--precision fp32`.",
            )
        if slide != self._slide:
            if self._waiting:
                self._commit(close=True)
            self._slide = slide
        for start in range(0, len(names), GROUP):
            part = slice(start, start + GROUP)
            self._waiting.append((names[part], stored[part]))
            self.tiles += len(names[part])
            behind = time.monotonic() - self._committed
            if sum(len(waiting) for waiting, _ in self._waiting) >= PACK or behind >= BEHIND_SECONDS:
                self._commit()
            segment = self._segment
            if segment and (segment.bytes >= self._most_bytes or segment.age >= self._seconds):
                self.publish()
                self._seconds = min(2 * self._seconds, self._most_seconds)

    def publish(self) -> None:
        """Make all that was appended visible to every reader; without anything to publish, there is no segment."""
        try:
            if self._waiting:
                self._commit()
        finally:  # without room for the last vectors, those before them are published all the same
            segment, self._segment = self._segment, None
            self._waiting = []
            if segment:
                segment.publish(self._cache.folder, self._cache.dimension)
                self._cache.refresh()

    def _commit(self, close: bool = False) -> None:
        """Write what waits in one transaction; a last pack that is not full is written again when it has grown, unless
        it is closed."""
        names, vectors = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        if self._segment is None:
            self._segment = PrivateSegment.create(self._home)
        self._segment.put(self._slide, names, vectors=vectors, close=close)
        full = len(names) if close else len(names) // PACK * PACK
        self._waiting = [(names[full:], vectors[full:])] if full < len(names) else []
        self._committed = time.monotonic()


def listing(folder: Path) -> tuple[dict[str, set[int]], set[str], set[str]]:
    """Name an encoder's segments: the packs marked damaged of each, those marked replaced, and all published."""
    damaged: dict[str, set[int]] = {}
    replaced: set[str] = set()
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if mark := MARK.fullmatch(name):
                if mark[2]:
                    damaged.setdefault(mark[1], set()).add(int(mark[2]))
                else:
                    replaced.add(mark[1])
    published: set[str] = set()
    # Listed after the marks: whoever replaces a segment publishes the new one before the mark.
    with suppress(FileNotFoundError):
        published = {name for name in os.listdir(folder) if name.startswith("seg-") and name.endswith(".mdb")}
    return damaged, replaced, published


def _named(keys: Sequence[bytes]) -> np.ndarray:
    """Put keys into an array (n,) of 16 bytes each; raises ValueError for one of another length."""
    if any(len(key) != KEY.itemsize for key in keys):
        raise ValueError(f"a key has {KEY.itemsize} bytes")
    return np.frombuffer(b"".join(keys), KEY)
