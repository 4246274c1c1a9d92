"""JSON of a million objects: read one by one, with their long arrays of numbers kept apart as numpy arrays."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from ..errors import InputError
from .tables import listed, readable

CHUNK_BYTES = 1 << 24
ARRAY = re.compile(rb'"(?:coordinates|contour)"\s*:\s*\[')
LIST = re.compile(r'"(features|cells)"\s*:\s*\[')
LONGEST_KEY = 64  # bytes of the end of a chunk that may hold the beginning of ARRAY
SPACE = re.compile(r"[\s,]*")
BRACKETS = bytes.maketrans(b"[]", b"  ")


@dataclass(frozen=True)
class Positions:
    """The innermost lists, [x, y], of all arrays of a file, in file order."""

    xy: np.ndarray  # (n, 2) float64; NaN where the list is empty
    depth: np.ndarray  # (n,) int8: in how many lists of its array it stands, itself among them
    level: (
        np.ndarray
    )  # (n,) int8: how many lists are open on both sides of what parts it from the one before; 0 begins an array

    def array(self) -> np.ndarray:
        """Number the array (n,) of each position, counted from 0."""
        return np.cumsum(self.level == 0, dtype=np.int32) - 1


class JsonObjects:
    """The objects of the list `features` or `cells` of a document, of a bare list, or the document as the only one.

    Iterate over them once. In each the value of every key `coordinates` or `contour` is the number of its array, whose
    content is in `positions()` after the last object. Raises InputError for what is no such JSON, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces = self._without_arrays()
        self._positions = _PositionReader(path)
        self._text = ""
        self._more = True
        found = None
        while found is None and self._more and not self._text.lstrip().startswith("["):
            self._read_on()
            found = LIST.search(self._text)
        self.list_name = found[1] if found else ""
        self._single = found is None and not self._text.lstrip().startswith("[")
        self._text = self._text[found.end() :] if found else self._text.lstrip().removeprefix("[")
        self._closing = "}" if found else "]"

    def __iter__(self) -> Iterator[object]:
        if self._single:
            with readable(self._path, "JSON"):
                yield json.loads(self._text)
            return
        decoder = json.JSONDecoder()
        at = 0
        while True:
            at = _after(SPACE, self._text, at=at)
            if at < len(self._text) and self._text[at] == "]":
                break
            try:
                found, at = decoder.raw_decode(self._text, at)
            except json.JSONDecodeError as error:
                if not self._more:
                    raise InputError(
                        f"{self._path} cannot be read as JSON: {error.msg}",
                        "The file may be cut short; copy or export it again.",
                    ) from error
                self._text, at = self._text[at:], 0
                self._read_on()
            else:
                yield found
        self._text = self._text[at:]
        while self._more:
            self._read_on()
            self._text = self._text[-LONGEST_KEY:]
        if not self._text.rstrip().endswith(self._closing):
            raise InputError(f"{self._path} is cut short: its list has no end", "Copy or export it again.")

    def positions(self) -> Positions:
        """Give the content of all arrays."""
        return self._positions.finish()

    def _read_on(self) -> None:
        piece = next(self._pieces, None)
        self._more = piece is not None
        self._text += piece or ""

    def _without_arrays(self) -> Iterator[str]:
        """Read the document chunk by chunk; each array goes to the reader of positions and leaves its number."""
        decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        rest, inside, number = b"", False, -1
        with readable(self._path, "JSON"), _opened(self._path) as file:
            while True:
                chunk = file.read(CHUNK_BYTES)
                text, rest = rest + chunk, b""
                kept: list[bytes] = []
                at = 0
                while True:
                    if inside:
                        brace = text.find(b"}", at)
                        end = text.find(b'"', at, brace if brace >= 0 else len(text))
                        end = end if end >= 0 else brace
                        stop = text.rfind(b"]", at, end if end >= 0 else len(text)) + 1
                        if stop > at:
                            self._positions.add(text[at:stop])
                        if end < 0:
                            rest = text[max(stop, at) :]
                            break
                        self._positions.end()
                        inside, at = False, max(stop, at)
                    key = ARRAY.search(text, at)
                    if key is None:
                        held = max(len(text) - LONGEST_KEY, at) if chunk else len(text)
                        kept.append(text[at:held])
                        rest = text[held:]
                        break
                    number += 1
                    kept += (text[at : key.end() - 1], b"%d" % number)
                    inside, at = True, key.end() - 1
                yield decode(b"".join(kept), final=not chunk)
                if not chunk:
                    return


class _PositionReader:
    """Reads pieces of nested arrays of numbers, cut after a closing bracket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces: list[bytes] = []
        self._size = 0
        self._parts = [Positions(np.empty((0, 2)), np.empty(0, np.int8), np.empty(0, np.int8))]
        self._number = 0  # arrays that have ended
        self._balance: int | None = None  # opening less closing brackets of the one that has not
        self._open = 0  # lists that are open where the last piece was cut
        self._low = 0  # how few were since the last position

    def add(self, text: bytes) -> None:
        """Take a piece of the array that is being read."""
        self._balance = (self._balance or 0) + text.count(b"[") - text.count(b"]")
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= CHUNK_BYTES:
            self._parse()

    def end(self) -> None:
        """End the array; raises InputError if one of its lists has not ended."""
        self._number += 1
        if self._balance != 0:
            raise InputError(
                f"{self._path}: the coordinates of outline {self._number} are no lists of numbers", "Export it again."
            )
        self._balance = None
        self._pieces.append(b",")

    def finish(self) -> Positions:
        """All that was read; the reader is empty after it."""
        self._parse()
        parts, self._parts = self._parts, []
        return Positions(
            np.concatenate([part.xy for part in parts]),
            np.concatenate([part.depth for part in parts]),
            np.concatenate([part.level for part in parts]),
        )

    def _parse(self) -> None:
        text = b"".join(self._pieces).replace(b"[]", b"[nan,nan]")
        self._pieces, self._size = [], 0
        characters = np.frombuffer(text, np.uint8)
        at = np.flatnonzero((characters == ord("[")) | (characters == ord("]")))
        if not len(at):
            return
        step = np.where(characters[at] == ord("["), 1, -1).astype(np.int8)
        depth = self._open + np.cumsum(step, dtype=np.int32)
        innermost = np.flatnonzero((step[:-1] == 1) & (step[1:] == -1))
        low = np.minimum.reduceat(depth, np.append(0, innermost + 1))
        low[0] = min(low[0], self._low)
        self._open, self._low = int(depth[-1]), int(low[-1])
        commas = np.flatnonzero(characters == ord(","))
        begins, ends = at[innermost], at[innermost + 1]
        number = np.searchsorted(commas, ends) - np.searchsorted(commas, begins) + 1
        xy = _pairs(text, number)
        standing = depth[innermost]
        if xy is None:
            listed = [_pair(text[begin + 1 : end]) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
            standing = np.where([pair is None for pair in listed], 0, standing)
            xy = np.array([pair or (np.nan, np.nan) for pair in listed])
        self._parts.append(Positions(xy.reshape(-1, 2), standing.astype(np.int8), low[:-1].astype(np.int8)))


def _pairs(text: bytes, number: np.ndarray) -> np.ndarray | None:
    """Read the first two numbers (n, 2) of the innermost lists, which have so many (n,); None where some are none."""
    if (number < 2).any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy before 2.3, of text that is no number
        try:
            values = np.fromstring(text.translate(BRACKETS).strip(b", \t\r\n"), np.float64, sep=",")
        except ValueError:
            return None
    first = np.cumsum(number) - number
    return np.column_stack([values[first], values[first + 1]]) if len(values) == number.sum() else None


def _pair(text: bytes) -> tuple[float, float] | None:
    """Read the first two of some numbers, null as NaN; None where they are no numbers."""
    try:
        x, y, *_ = (float(part.replace(b"null", b"nan")) for part in text.split(b","))
    except ValueError:
        return None
    return x, y


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the bytes of a document: plain, gzipped, or the one file of a zip archive."""
    suffix = path.suffix.lower()
    if suffix != ".zip":
        with cast(IO[bytes], gzip.open(path) if suffix == ".gz" else path.open("rb")) as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise InputError(f"{path} holds {len(names)} files: {listed(names)}", "Unpack it and name one.")
        with archive.open(names[0]) as file:
            yield file


def _after(pattern: re.Pattern[str], text: str, *, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
