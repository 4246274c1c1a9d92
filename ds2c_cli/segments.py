"""Segments, the cache's format on disk: LMDB files of checked packs, built on scratch, published by rename."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import lmdb
import numpy as np

from .errors import Ds2cError
from .project import replacing, write_json

PACK = 256  # vectors a pack: large enough to read in one go, small enough to lose
MAP_SIZE = 1 << 34  # address space of a private segment, never reached: it is published long before
PACK_NUMBER = struct.Struct(">I")  # big-endian, so that packs lie in order
PACK_HEADER = struct.Struct("<III")  # crc32 of all that follows it, vectors, dimension
KEY = np.dtype("V16")
WHERE = np.dtype([("pack", "<u4"), ("row", "<u2")])
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # EIO: what LMDB makes of a short write
CORRUPT = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.CursorFullError,
    lmdb.NotFoundError,
)


class Segment:
    """A published segment, open in the process that reads it; damage found is an lmdb.Error or a ValueError."""

    _environment: lmdb.Environment

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = 0

    def find(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the sorted keys (n,) it holds (m,) as positions among them, and where (m,) WHERE.

        Raises FileNotFoundError when the segment was merged away.
        """
        environment = self._open()
        with environment.begin(db=self._index) as transaction, transaction.cursor() as cursor:
            held = cursor.getmulti(names.tolist())
        position = np.searchsorted(names, np.frombuffer(b"".join(key for key, _ in held), KEY))
        return position, np.frombuffer(b"".join(value for _, value in held), WHERE)

    def read(self, pack: int, names: np.ndarray, rows: np.ndarray, dimension: int) -> np.ndarray:
        """The vectors (n, dimension) in these rows of a pack; raises ValueError unless they are those of the keys."""
        environment = self._open()
        with environment.begin(db=self._packs) as transaction:
            stored, vectors = _unpack(transaction.get(PACK_NUMBER.pack(pack), b""), dimension)
        if rows.max() >= len(stored) or (stored[rows] != names).any():
            raise ValueError("the index points to other vectors")
        return vectors[rows]

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
    """The one Segment of this path in the process; its file is opened when it is first read."""
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
        """A new segment in this folder on scratch; raises Ds2cError where it cannot be written."""
        path = home / f"seg-{_ulid()}.mdb"
        new = path.with_suffix(".new")
        with writing_to(home):
            lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(path)  # others see it only when it is locked
            return cls(path, lock)

    @classmethod
    def adopt(cls, path: Path) -> PrivateSegment | None:
        """The segment a dead writer left; None when its writer lives, or another process was faster."""
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
        """Seconds since it was begun."""
        return time.monotonic() - self._began

    def put(self, names: np.ndarray, vectors: np.ndarray) -> None:
        """Commit keys (n,) and float16 vectors (n, dimension) in one transaction, after the packs already full.

        Raises Ds2cError when the disk is full; what was committed before stays.
        """
        packs = [_pack(names[i : i + PACK], vectors[i : i + PACK]) for i in range(0, len(names), PACK)]
        with writing_to(self.path.parent), self._environment.begin(db=self._packs, write=True) as transaction:
            for number, pack in enumerate(packs, self._full):
                transaction.put(PACK_NUMBER.pack(number), pack)
        self._full += len(names) // PACK
        self.bytes += sum(map(len, packs))

    def publish(self, folder: Path, dimension: int) -> int:
        """Copy it into the cache under its own name, so that twice is harmless, and delete it; how many tiles.

        Raises Ds2cError for want of room; the segment then stays on scratch, for `recover`.
        """
        try:
            final = folder / self.path.name
            with writing_to(self.path.parent):
                tiles = 0 if final.exists() else self._write_index(dimension)
            if tiles:
                with writing_to(folder), replacing(final) as part:
                    with part.open("wb") as file:
                        self._environment.copyfd(file.fileno(), compact=True)
                    with part.open("rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
                    created = datetime.now(UTC).isoformat(timespec="seconds")
                    about = {"tiles": tiles, "bytes": part.stat().st_size, "sha256": digest, "created": created}
                    write_json(final.with_suffix(".json"), about)
                with suppress(OSError):  # a filesystem without modes
                    final.chmod(0o444)
            self.path.unlink()
            return tiles
        finally:
            self._environment.close()
            os.close(self._lock)

    def _write_index(self, dimension: int) -> int:
        """Index the sound packs, once and sorted, which fills its pages; how many tiles."""
        with self._environment.begin(write=True) as transaction:
            names, places = [np.empty(0, KEY)], [np.empty(0, WHERE)]
            for number, value in transaction.cursor(self._packs):
                with suppress(ValueError):
                    stored, _ = _unpack(value, dimension)
                    place = np.empty(len(stored), WHERE)
                    place["pack"], place["row"] = PACK_NUMBER.unpack(number)[0], np.arange(len(stored))
                    names.append(stored)
                    places.append(place)
            unique, first = np.unique(np.concatenate(names), return_index=True)
            where = np.concatenate(places)[first].view("V6")
            transaction.drop(self._index, delete=False)  # of a writer killed after this and before the copy
            transaction.cursor(self._index).putmulti(zip(unique.tolist(), where.tolist(), strict=True), append=True)
        return len(unique)


def _environment(path: Path, readonly: bool) -> lmdb.Environment:
    """An LMDB environment of one file without locks; raises FileNotFoundError, and an error of CORRUPT when damaged."""
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


def _pack(names: np.ndarray, vectors: np.ndarray) -> bytes:
    """A checked pack: header, keys (n,), float16 vectors (n, dimension)."""
    body = PACK_HEADER.pack(0, *vectors.shape)[4:] + names.tobytes() + vectors.tobytes()
    return zlib.crc32(body).to_bytes(4, "little") + body


def _unpack(value: bytes, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n,) and vectors (n, dimension) of a pack; raises ValueError when it is damaged."""
    if len(value) < PACK_HEADER.size:
        raise ValueError("a pack is cut off")
    checksum, count, wide = PACK_HEADER.unpack_from(value)
    if wide != dimension or zlib.crc32(memoryview(value)[4:]) != checksum:
        raise ValueError("a pack does not match its checksum")
    names = np.frombuffer(value, KEY, count, PACK_HEADER.size)
    vectors = np.frombuffer(value, "<f2", count * wide, PACK_HEADER.size + names.nbytes)
    return names, vectors.reshape(count, wide)


def _ulid() -> str:
    """A name that sorts by time and is not given twice (github.com/ulid/spec): 48 bits of ms, 80 random ones."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def is_ours(home: Path) -> bool:
    """Whether a cache's folder on scratch is there, in a folder of this user: in /tmp anybody can make one so named."""
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
