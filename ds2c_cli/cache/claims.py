"""Claims: how jobs that fill one cache at once divide the work among them, without locks and without waiting."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from .segments import writing_to

FOLDER = "claims"
ASKED = "asked"  # touched by who has run out of work of its own: others then publish what they have
STALE_SECONDS = 3600.0  # whoever claimed a block and has not published it by now is taken for dead
LOOK_SECONDS = 1.0  # between two looks at whether somebody asked


class Claims:
    """One job's claims to blocks of tiles, as empty files in an encoder's folder of the cache.

    A claim only says who goes first. It is made when a block is about to be read, and again when it is begun: what
    somebody else has claimed is left for the end, then taken over if it has not been begun, and encoded all the same if
    it is not there a moment later. So a dead job's claims cost nothing but order.
    """

    def __init__(self, folder: Path) -> None:
        """Begin without claims in an encoder's folder; raises Ds2cError where it cannot be written to."""
        self._folder = folder / FOLDER
        self._mine: list[Path] = []
        with writing_to(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._answered = self._last_asked()
        self._looked = time.monotonic()

    def take(self, name: str) -> bool:
        """Claim a block; False where another job has."""
        return self._mark(self._folder / name)

    def begin(self, name: str) -> bool:
        """Say that a block is encoded now; False where another job has begun it."""
        return self._mark(self._folder / f"{name}.begun")

    def _mark(self, path: Path) -> bool:
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            try:
                fresh = time.time() - path.stat().st_mtime < STALE_SECONDS
            except FileNotFoundError:
                fresh = True  # just released: published
            if fresh:
                return False
            with suppress(OSError):
                os.utime(path)
        except OSError:
            return True  # a folder that fails is told when the vectors are written
        self._mine.append(path)
        return True

    def ask(self) -> None:
        """Ask the other jobs to publish what they have."""
        with suppress(OSError):
            (self._folder / ASKED).touch()
            self._answered = self._last_asked()

    def asked(self) -> bool:
        """Say whether another job has asked since this was last true."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        before, self._answered = self._answered, self._last_asked()
        return self._answered > before

    def close(self) -> None:
        """Withdraw the claims of this job."""
        for path in self._mine:
            with suppress(OSError):
                path.unlink()
        self._mine = []

    def _last_asked(self) -> int:
        """Look when somebody asked, by the clock of the disk, as all times that are compared."""
        with suppress(OSError):
            return (self._folder / ASKED).stat().st_mtime_ns
        return 0
