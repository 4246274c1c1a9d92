"""The embedding cache: float16 vectors in immutable LMDB segments, built privately and published by rename."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import struct
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import lmdb
import numpy as np

from .errors import Ds2cError, InputError
from .project import replacing, write_json

VERSION = "v1"
PACK = 256  # vectors a pack: large enough to read in one go, small enough to lose
GROUP = 16 * PACK  # vectors a transaction at most
BEHIND_SECONDS = 5.0  # a slow encoder's vectors are committed after this long, full pack or not
SEGMENT_BYTES, SEGMENT_SECONDS = 1 << 30, 300.0  # a segment is published when it is this large or this old
MAP_SIZE = 1 << 34  # address space of a private segment, never reached: it is published long before
PACK_NUMBER = struct.Struct(">I")  # big-endian, so that packs lie in order
PACK_HEADER = struct.Struct("<III")  # crc32 of all that follows it, vectors, dimension
KEY = np.dtype("V16")
WHERE = np.dtype([("pack", "<u4"), ("row", "<u2")])
MARK = re.compile(r"(seg-\w+\.mdb)\.damaged-(\d+)")  # an empty file beside the segment: this pack is damaged
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


def default_root() -> Path:
    """`DS2C_CACHE`, else ds2c in the user's cache directory."""
    if root := os.environ.get("DS2C_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ds2c"


def tile_keys(slide_fingerprint: str, boxes: np.ndarray, tile_px: int) -> list[bytes]:
    """The 16-byte key of each tile: blake2b-128 over slide fingerprint, level-0 box and target size (DESIGN 10).

    `boxes` (n, 3) whole numbers: x, y and side in level-0 pixels, negative over a border; `tile_px` is the side the
    encoder is given. Raises ValueError for boxes that are not whole numbers.
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
    """The embeddings of one encoder: `root`/v1/`fingerprint`. Reading takes no locks and never waits (DESIGN 10).

    `damaged` lists what was found damaged so far; such vectors are never returned, and count as missing from then on,
    in later runs too, until a segment holds them again.
    """

    def __init__(self, root: Path, fingerprint: str, dimension: int) -> None:
        """Open a cache that need not exist yet; raises Ds2cError where its encoder.json has another dimension."""
        self.folder = root.resolve() / VERSION / fingerprint
        self.dimension = dimension
        self.damaged: list[Damage] = []
        self._segments: dict[str, _Segment] = {}
        self._bad_packs: dict[str, set[int]] = {}
        self._bad_segments: set[str] = set()
        self._check_dimension()
        self.refresh()
        with suppress(Ds2cError):  # reading needs no room on the disk; writer() tries again and says so
            self.recover()

    def missing(self, keys: Sequence[bytes]) -> np.ndarray:
        """(n,) bool: which of the keys no segment holds."""
        return self._find(_named(keys))[1]["segment"] < 0

    def get(self, keys: Sequence[bytes]) -> np.ndarray:
        """(n, dimension) float16 vectors in the order of the keys; each pack is read and checked once.

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
        published = {}
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                if entry.name.startswith("seg-") and entry.name.endswith(".mdb"):
                    published[entry.name] = Path(entry.path)
                elif mark := MARK.fullmatch(entry.name):
                    self._bad_packs.setdefault(mark[1], set()).add(int(mark[2]))
        # Newest first: what was encoded again stands before what it replaces.
        self._segments = {
            name: _segment(published[name])
            for name in sorted(published, reverse=True)
            if name not in self._bad_segments
        }

    def recover(self, scratch: Path | None = None) -> int:
        """Publish what killed writers of this machine had committed; how many tiles. A live writer's is left alone."""
        tiles = 0
        home = self._home(scratch)
        for path in sorted(home.glob("seg-*.mdb")) if _is_ours(home) else ():
            orphan = _Private.adopt(path)
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

    def writer(self, description: Mapping[str, Any], scratch: Path | None = None) -> Writer:
        """A writer of this encoder's embeddings; `description` is what the fingerprint means, kept in encoder.json.

        Segments are built in `scratch`, else `SLURM_TMPDIR`, else `TMPDIR`, else the system's temporary folder, which
        should be a local disk. Raises Ds2cError where either place cannot be written to.
        """
        home = self._home(scratch)
        with _writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if not (self.folder / "encoder.json").exists():
                write_json(self.folder / "encoder.json", {**description, "dimension": self.dimension})
        self._check_dimension()
        with _writing_to(home):
            home.mkdir(parents=True, exist_ok=True)
            if not _is_ours(home):
                raise PermissionError(errno.EACCES, "it belongs to another user")
        self.recover(scratch)
        return Writer(self, home)

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
        """Where this user's private segments of this cache lie on local scratch."""
        base = scratch or os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
        cache = hashlib.blake2b(os.fsencode(self.folder.parents[1]), digest_size=8).hexdigest()
        return Path(base) / f"ds2c-{os.getuid()}" / self.folder.name / cache

    def _find(self, names: np.ndarray) -> tuple[list[_Segment], np.ndarray]:
        """The segments looked through, and segment (-1: none), pack and row of each of the (n,) keys."""
        unique, inverse = np.unique(names, return_inverse=True)
        found = np.zeros(len(unique), [("segment", "i4"), *WHERE.descr])
        found["segment"] = -1
        absent = np.arange(len(unique))
        segments = list(self._segments.values())
        for number, segment in enumerate(segments):
            if not len(absent):
                break
            try:
                position, where = segment.find(unique[absent])
            except FileNotFoundError:  # merged into another since the last look
                self._segments.pop(segment.path.name)
                continue
            except (lmdb.Error, ValueError, OSError):
                self._distrust(segment.path.name, None, len(absent))
                continue
            sound = ~np.isin(where["pack"], list(self._bad_packs.get(segment.path.name, ())))
            position, where = absent[position[sound]], where[sound]
            found["segment"][position] = number
            found["pack"][position], found["row"][position] = where["pack"], where["row"]
            absent = absent[found["segment"][absent] < 0]
        return segments, found[inverse]

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

    def __init__(self, cache: Cache, home: Path) -> None:
        self.tiles = 0
        self._cache, self._home = cache, home
        self._segment: _Private | None = None
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

    def append(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Take n keys and their (n, dimension) vectors of any float type, stored as float16.

        They are committed, and safe from a kill, with their pack or within seconds. Raises InputError for vectors that
        are not finite in float16, and Ds2cError when a disk is full; what was committed stays.
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
        for start in range(0, len(names), GROUP):
            part = slice(start, start + GROUP)
            self._waiting.append((names[part], stored[part]))
            self.tiles += len(names[part])
            behind = time.monotonic() - self._committed
            if sum(len(waiting) for waiting, _ in self._waiting) >= PACK or behind >= BEHIND_SECONDS:
                self._commit()
            if self._segment and (self._segment.bytes >= SEGMENT_BYTES or self._segment.age >= SEGMENT_SECONDS):
                self.publish()

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

    def _commit(self) -> None:
        """Write what waits in one transaction; a last pack that is not full is written again when it has grown."""
        names, vectors = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        if self._segment is None:
            self._segment = _Private.create(self._home)
        self._segment.put(names, vectors)
        full = len(names) // PACK * PACK
        self._waiting = [(names[full:], vectors[full:])] if full < len(names) else []
        self._committed = time.monotonic()


class _Segment:
    """A published segment, open in the process that reads it."""

    _environment: lmdb.Environment

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = 0

    def find(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the sorted keys it holds (m,), and where (m,)."""
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
_SHARED: weakref.WeakValueDictionary[Path, _Segment] = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def _segment(path: Path) -> _Segment:
    with _OPENING:
        return _SHARED.setdefault(path, _Segment(path))


class _Private:
    """A segment being built on local scratch; its file is held by flock as long as its writer lives."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path, self._lock = path, lock
        self.bytes, self._full, self._began = 0, 0, time.monotonic()
        # Nobody else opens it, and what is published is a copy that is synced: so neither locks nor syncs.
        self._environment = _environment(path, readonly=False)
        self._packs = self._environment.open_db(b"packs")
        self._index = self._environment.open_db(b"index")

    @classmethod
    def create(cls, home: Path) -> _Private:
        """A new segment."""
        path = home / f"seg-{_ulid()}.mdb"
        new = path.with_suffix(".new")
        with _writing_to(home):
            lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(path)  # others see it only when it is locked
            return cls(path, lock)

    @classmethod
    def adopt(cls, path: Path) -> _Private | None:
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
        """Commit packs in one transaction, after those that are full already."""
        packs = [_pack(names[i : i + PACK], vectors[i : i + PACK]) for i in range(0, len(names), PACK)]
        with _writing_to(self.path.parent), self._environment.begin(db=self._packs, write=True) as transaction:
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
            with _writing_to(self.path.parent):
                tiles = 0 if final.exists() else self._write_index(dimension)
            if tiles:
                with _writing_to(folder), replacing(final) as part:
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


def _named(keys: Sequence[bytes]) -> np.ndarray:
    """Keys as an array (n,) of 16 bytes each; raises ValueError for one of another length."""
    if any(len(key) != KEY.itemsize for key in keys):
        raise ValueError(f"a key has {KEY.itemsize} bytes")
    return np.frombuffer(b"".join(keys), KEY)


def _ulid() -> str:
    """A name that sorts by time and is not given twice (github.com/ulid/spec): 48 bits of ms, 80 random ones."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _is_ours(home: Path) -> bool:
    """Whether the user's folder on scratch is a folder and the user's: in /tmp anybody can make one of that name."""
    with suppress(OSError):
        return home.is_dir() and home.parents[1].lstat().st_uid == os.getuid()
    return False


@contextmanager
def _writing_to(place: Path) -> Iterator[None]:
    """Say a failure to write as Ds2cError; damage of what is there passes through."""
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
