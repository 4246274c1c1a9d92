"""Segments, the cache's format on disk: LMDB files of checked packs, built on scratch, published by rename."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import threading
import time
import weakref
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np

from ..errors import Ds2cError
from ..files import replacing, write_json

PACK = 256  # vectors per pack: large enough to read in one go, small enough to lose
MAP_SIZE = 1 << 34  # address space of a private segment, never reached: it is published long before
PACK_NUMBER = struct.Struct(">I")  # big-endian, so that packs lie in order
PACK_HEADER = struct.Struct("<IIII")  # crc32 of all that follows it, vectors, dimension, bytes of the slide's name
PAGE = 4096  # LMDB's smallest page; larger ones begin at its multiples too
PAGE_HEADER = struct.Struct("<QHHI")  # of an overflow page: number, padding, flags, pages
OVERFLOW = 0x04
KEY = np.dtype("V16")
WHERE = np.dtype([("pack", "<u4"), ("row", "<u2")])
OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # EIO: what LMDB makes of a short write
CORRUPT = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.CursorFullError,
    lmdb.NotFoundError,
)


class SlideName(NamedTuple):
    """Whose tiles a pack holds: the slide's fingerprint, and its path when they were embedded, for people."""

    fingerprint: str
    path: str


class Pack(NamedTuple):
    """A sound pack of one slide: keys (n,) and float16 vectors (n, dimension)."""

    slide: SlideName
    names: np.ndarray
    vectors: np.ndarray


class Segment:
    """A published segment, open in the process that reads it; damage found is an lmdb.Error or a ValueError."""

    _environment: lmdb.Environment

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = 0

    def find(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find which of the sorted keys (n,) it holds (m,) as positions among them, and where (m,) WHERE.

        Raises FileNotFoundError when the segment was merged away.
        """
        environment = self._open()
        with environment.begin(db=self._index) as transaction, transaction.cursor() as cursor:
            held = cursor.getmulti(names.tolist())
        position = np.searchsorted(names, np.frombuffer(b"".join(key for key, _ in held), KEY))
        return position, np.frombuffer(b"".join(value for _, value in held), WHERE)

    def read(self, pack: int, names: np.ndarray, rows: np.ndarray, dimension: int) -> np.ndarray:
        """Read the vectors (n, dimension) in these rows of a pack; raises ValueError unless they are the keys'."""
        _, stored, vectors = self.pack(pack, dimension)
        if rows.max() >= len(stored) or (stored[rows] != names).any():
            raise ValueError("the index points to other vectors")
        return vectors[rows]

    def pack(self, number: int, dimension: int) -> Pack:
        """Read one pack, checked."""
        environment = self._open()
        with environment.begin(db=self._packs) as transaction:
            return _unpack(transaction.get(PACK_NUMBER.pack(number), b""), dimension)

    def packs(self, dimension: int) -> Iterator[tuple[int, Pack]]:
        """Read every pack and its number, in order; a ValueError or lmdb.Error at the first that is damaged."""
        environment = self._open()
        with environment.begin(db=self._packs) as transaction:
            for number, value in transaction.cursor():
                yield PACK_NUMBER.unpack(number)[0], _unpack(value, dimension)

    def _open(self) -> lmdb.Environment:
        with _OPENING:
            if self._process == os.getpid():
                return self._environment
            if self._process:  # inherited through fork; LMDB wants one of this process
                self._environment.close()
                self._process = 0
            self._environment = _environment(self.path, readonly=True)
            self._index = self._environment.open_db(b"index", create=False)
            self._packs = self._environment.open_db(b"packs", create=False)
            self._process = os.getpid()
            return self._environment


# LMDB wants a file open once in a process, so caches that read the same segment share it.
_SHARED: weakref.WeakValueDictionary[Path, Segment] = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def shared_segment(path: Path) -> Segment:
    """Give the one Segment of this path in the process; its file is opened when it is first read."""
    with _OPENING:
        return _SHARED.setdefault(path, Segment(path))


class PrivateSegment:
    """A segment being built on local scratch; its file is held by flock as long as its writer lives."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path, self._lock = path, lock
        self.bytes, self._full, self._began = 0, 0, time.monotonic()
        # Nobody else opens it, and what is published is a copy that is synced: so neither locks nor syncs.
        self._environment = _environment(path, readonly=False)
        self._packs = self._environment.open_db(b"packs")
        self._index = self._environment.open_db(b"index")

    @classmethod
    def create(cls, home: Path) -> PrivateSegment:
        """Begin a new segment in this folder on scratch; raises Ds2cError where it cannot be written."""
        path = home / f"seg-{_new_name()}.mdb"
        new = path.with_suffix(".new")
        with writing_to(home):
            lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(path)  # others see it only when it is locked
            return cls(path, lock)

    @classmethod
    def adopt(cls, path: Path) -> PrivateSegment | None:
        """Take over the segment a dead writer left; None when its writer lives, or another process was faster."""
        try:
            lock = os.open(path, os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:
                return cls(path, lock)
        except CORRUPT:  # nothing in it was ever published, nothing in it can be read
            path.unlink()
        except (OSError, lmdb.Error):
            pass
        os.close(lock)
        return None

    @property
    def age(self) -> float:
        """Count the seconds since it was begun."""
        return time.monotonic() - self._began

    def put(self, slide: SlideName, names: np.ndarray, *, vectors: np.ndarray, close: bool = False) -> None:
        """Commit keys (n,) and float16 vectors (n, dimension) in one transaction, after the packs already full.

        A last pack that is not full is written anew by the next `put`, unless this one says `close`. Raises Ds2cError
        when the disk is full; what was committed before stays.
        """
        packs = [_pack(slide, names[i : i + PACK], vectors[i : i + PACK]) for i in range(0, len(names), PACK)]
        with writing_to(self.path.parent), self._environment.begin(db=self._packs, write=True) as transaction:
            for number, pack in enumerate(packs, self._full):
                transaction.put(PACK_NUMBER.pack(number), pack)
        self._full += len(packs) if close else len(names) // PACK
        self.bytes += sum(map(len, packs))

    def publish(self, folder: Path, dimension: int) -> int:
        """Copy it into the cache under its own name, so that twice is harmless, and delete it; how many tiles.

        Raises Ds2cError for want of room; the segment then stays on scratch, for `recover`.
        """
        try:
            final = folder / self.path.name
            with writing_to(self.path.parent):
                held = Counter[SlideName]() if final.exists() else self._write_index(dimension)
            if tiles := held.total():
                with writing_to(folder), replacing(final) as part:
                    with part.open("wb") as file:
                        self._environment.copyfd(file.fileno(), compact=True)
                    with part.open("rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
                    about = {
                        "tiles": tiles,
                        "bytes": part.stat().st_size,
                        "sha256": digest,
                        "created": datetime.now(UTC).isoformat(timespec="seconds"),
                        "slides": [{**slide._asdict(), "tiles": count} for slide, count in sorted(held.items())],
                    }
                    write_json(final.with_suffix(".json"), about)
                with suppress(OSError):  # a filesystem without modes
                    final.chmod(0o444)
            self.path.unlink()
            return tiles
        finally:
            self._environment.close()
            os.close(self._lock)

    def _write_index(self, dimension: int) -> Counter[SlideName]:
        """Index the sound packs, once and sorted, which fills its pages; how many tiles of each slide."""
        with self._environment.begin(write=True) as transaction:
            names, places = [np.empty(0, KEY)], [np.empty(0, WHERE)]
            slides: dict[int, SlideName] = {}
            for number, value in transaction.cursor(self._packs):
                with suppress(ValueError):
                    slide, stored, _ = _unpack(value, dimension)
                    place = np.empty(len(stored), WHERE)
                    place["pack"], place["row"] = PACK_NUMBER.unpack(number)[0], np.arange(len(stored))
                    names.append(stored)
                    places.append(place)
                    slides[int(place["pack"][0])] = slide
            unique, first = np.unique(np.concatenate(names), return_index=True)
            where = np.concatenate(places)[first]
            transaction.drop(self._index, delete=False)  # of a writer killed after this and before the copy
            pairs = zip(unique.tolist(), where.view("V6").tolist(), strict=True)
            transaction.cursor(self._index).putmulti(pairs, append=True)
        held = Counter[SlideName]()
        for pack, count in zip(*np.unique(where["pack"], return_counts=True), strict=True):
            held[slides[int(pack)]] += int(count)
        return held


def salvage(path: Path, dimension: int) -> Iterator[Pack]:
    """Find every pack in a damaged segment that its checksum proves sound, page by page, without LMDB's tree.

    LMDB lays a value of more than half a page on consecutive pages of their own, after one 16-byte header; so all but
    packs of a few small vectors are found (lmdb.h, MDB_page).
    """
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as held:
        for start in range(0, size - PAGE_HEADER.size - PACK_HEADER.size, PAGE):
            _, _, flags, _ = PAGE_HEADER.unpack_from(held, start)
            begin = start + PAGE_HEADER.size
            _, count, wide, named = PACK_HEADER.unpack_from(held, begin)
            if flags == OVERFLOW and wide == dimension and 0 < count <= PACK:
                length = PACK_HEADER.size + count * (KEY.itemsize + 2 * wide) + named
                with suppress(ValueError):
                    yield _unpack(held[begin : begin + length], dimension)


def _environment(path: Path, readonly: bool) -> lmdb.Environment:
    """Open an LMDB file without locks; raises FileNotFoundError, and an error of CORRUPT when it is damaged."""
    size = path.stat().st_size
    try:
        environment = lmdb.open(
            str(path), map_size=size if readonly else MAP_SIZE, subdir=False, readonly=readonly, lock=False,
            sync=False, max_dbs=2,
        )  # fmt: skip
    except lmdb.Error as error:
        if os.strerror(errno.EMFILE) in str(error):
            raise Ds2cError(
                f"{path.parent} has more segments than this process may open files",
                "Run `ds2c cache merge`, or raise `ulimit -n`.",
            ) from error
        raise
    # LMDB does not look: a page beyond the end of the file is a SIGBUS.
    if size and (environment.info()["last_pgno"] + 1) * environment.stat()["psize"] > size:
        environment.close()
        raise lmdb.CorruptedError(f"{path} is cut off")
    return environment


def _pack(slide: SlideName, names: np.ndarray, vectors: np.ndarray) -> bytes:
    """Pack a checked header, keys (n,), float16 vectors (n, dimension), the slide's fingerprint, a 0 and its path."""
    named = os.fsencode("\0".join(slide))
    body = PACK_HEADER.pack(0, *vectors.shape, len(named))[4:] + names.tobytes() + vectors.tobytes() + named
    return zlib.crc32(body).to_bytes(4, "little") + body


def _unpack(value: bytes, dimension: int) -> Pack:
    """Read what a pack holds; raises ValueError when it is damaged."""
    if len(value) < PACK_HEADER.size:
        raise ValueError("a pack is cut off")
    checksum, count, wide, named = PACK_HEADER.unpack_from(value)
    if wide != dimension or zlib.crc32(memoryview(value)[4:]) != checksum:
        raise ValueError("a pack does not match its checksum")
    names = np.frombuffer(value, KEY, count, PACK_HEADER.size)
    vectors = np.frombuffer(value, "<f2", count * wide, PACK_HEADER.size + names.nbytes)
    slide = SlideName(*os.fsdecode(value[len(value) - named :]).split("\0"))
    return Pack(slide, names, vectors.reshape(count, wide))


def _new_name() -> str:
    """Make a name that sorts by time and is not given twice: UTC in microseconds, and 64 random bits.

    It sorts after the names of earlier versions, which are ULIDs and begin with a 0.
    """
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}_{secrets.token_hex(8)}"


def is_ours(home: Path) -> bool:
    """Say whether a cache's folder on scratch is in a folder of this user: in /tmp anybody can make one so named."""
    with suppress(OSError):
        return home.is_dir() and home.parents[1].lstat().st_uid == os.getuid()
    return False


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Say a failure to write to this file or folder as Ds2cError; damage of what is there, CORRUPT, passes through."""
    try:
        yield
    except CORRUPT:
        raise
    except (OSError, lmdb.Error) as error:
        number = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
        if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or number in OUT_OF_ROOM:
            raise Ds2cError(
                f"the disk is full or failing: {place} ({error})",
                "Free some room and run the same command again; what was finished is kept.",
            ) from error
        raise Ds2cError(
            f"{place} cannot be written to ({error})",
            "Choose another cache with --cache, another scratch folder with TMPDIR.",
        ) from error
