"""Where files are kept: the cache, scratch and the project, the file systems they lie on, and the room left there."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from .answers import GIB, Answer, Asked, State, gib, many, one_line

CACHE_WARN, CACHE_FAIL = 10 * GIB, GIB  # free bytes; 5 million tiles of dimension 1,024 are 10 GiB
SCRATCH_WARN = 4 * GIB  # free bytes; a segment is about 1 GB, and merged ones are 4
INODES = 100  # fewer left are as good as none

MOUNTS = Path("/proc/self/mountinfo")
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # writing is forbidden, rather than broken or out of room
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "smb3",
    "smbfs", "wekafs",
}  # fmt: skip
LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.squashfuse", "fuse.squashfuse_ll"}  # the roots of containers


class Place(NamedTuple):
    """A folder, or where it would be made, and the file system there."""

    path: Path
    exists: bool
    kind: str  # of file system, as the kernel names it
    free: int  # bytes
    inodes: int | None  # left; None where the file system has no such limit
    error: OSError | None  # why a file cannot be written there

    @property
    def network(self) -> bool:
        return self.kind in NETWORK or (self.kind.startswith("fuse.") and self.kind not in LOCAL_FUSE)

    @property
    def reason(self) -> str:
        """The error in words."""
        return (self.error.strerror or str(self.error)) if self.error else ""

    def __str__(self) -> str:
        kind = f"{self.kind}, a network file system" if self.network else self.kind
        return f"{self.path}{'' if self.exists else ' (not there yet)'} on {kind}, {gib(self.free)} free"


def place_of(path: Path) -> Place:
    """Look at a folder, or at the nearest one above it that exists, and write there for a moment."""
    path = path.expanduser().resolve()
    # Path.exists raises where it may not look.
    folder = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    disk = os.statvfs(folder)
    error = None
    try:
        _write(folder)
    except OSError as caught:
        error = caught
    inodes = disk.f_favail if disk.f_files else None
    return Place(
        path,
        exists=folder == path,
        kind=_file_system(folder),
        free=disk.f_bavail * disk.f_frsize,
        inodes=inodes,
        error=error,
    )


def _write(folder: Path) -> None:
    """Create, sync, rename, read back and delete a file; raises OSError where one of these does not work."""
    content = os.urandom(4096)
    descriptor, name = tempfile.mkstemp(prefix=".ds2c-doctor-", dir=folder)
    written, renamed = Path(name), Path(f"{name}.renamed")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.rename(renamed)
        if renamed.read_bytes() != content:
            raise OSError("a file reads back other than it was written")
    finally:
        written.unlink(missing_ok=True)
        renamed.unlink(missing_ok=True)


def _file_system(folder: Path) -> str:
    """Name the type of the file system a folder lies on.

    It is that of the longest mount point above the folder, the last mounted there. Fields as in proc(5): the mount
    point is the fifth, with \\040 for a space; the type follows a lone dash.
    """
    kind, depth = "unknown", 0
    for line in os.fsdecode(MOUNTS.read_bytes()).splitlines() if MOUNTS.exists() else ():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        if len(point.parts) >= depth and folder.is_relative_to(point):
            kind, depth = after.split()[0], len(point.parts)
    return kind


def cache_directory(asked: Asked) -> Answer:
    """Check that the cache can be written to, and has room; it takes no locks, so a network file system will do."""
    from ..project import default_cache

    place = place_of(asked.cache or default_cache())
    elsewhere = "choose another with --cache or DS2C_CACHE."
    if place.error:
        if place.exists and place.error.errno in REFUSED:
            found = f"{place}, read-only ({place.reason}): predict works, embed cannot"
            return Answer("warn", found, f"To embed, {elsewhere}")
        return Answer("fail", f"{place}, cannot be written ({place.reason})", f"Correct that, or {elsewhere}")
    if place.inodes is not None and place.inodes < INODES:
        return Answer("fail", f"{place}, but for {place.inodes} files only", f"Delete files there, or {elsewhere}")
    if place.free < CACHE_WARN:
        state: State = "fail" if place.free < CACHE_FAIL else "warn"
        return Answer(state, str(place), f"Make room (`ds2c cache prune`), or {elsewhere}")
    return Answer("ok", f"{place}{': the cache takes no locks' if place.network else ''}")


def scratch_directory(asked: Asked) -> Answer:
    """Local disk for the segments that `embed` builds before it publishes them (`Cache.writer`)."""
    place = place_of(Path(os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()))
    remedy = "Set TMPDIR to a folder with room on a local disk: segments of about 1 GB are built there."
    if place.error:
        return Answer("fail", f"{place}, cannot be written ({place.reason})", remedy)
    if place.network:
        return Answer("warn", f"{place}: LMDB wants a local disk", remedy)
    if place.free < SCRATCH_WARN:
        memory = ", which is memory of the job" if place.kind in ("tmpfs", "ramfs") else ""
        return Answer("warn", f"{place}{memory}", remedy)
    return Answer("ok", str(place))


def project(asked: Asked) -> Answer:
    """Check that the settings of the project are valid, and the slides of its samples still there."""
    from .. import schema
    from ..project import Project
    from ..settings import Embedding, Geometry, Training

    home, where = Project(asked.project), asked.project.resolve()
    if not home.sample_names() and not (home.root / schema.SETTINGS_FILE).exists():
        return Answer("ok", f"no project here ({where})")
    home.settings(Geometry, {})
    home.settings(Embedding, {})
    home.settings(Training, {})
    donors, lost = set(), []
    for name in home.sample_names():
        try:
            sample = home.sample(name)
            donors.add(sample.donor)
            if not os.path.isfile(sample.slide):
                lost.append(f"{sample.slide} of {name}")
        except (ValueError, KeyError, TypeError) as error:
            path = home.samples_folder / name / schema.SAMPLE_FILE
            found = f"{path} is damaged ({one_line(error)})"
            return Answer("fail", found, f"`ds2c prepare --force` sample {name} again.")
    found = f"{where}, {many(len(home.sample_names()), 'sample')} of {many(len(donors), 'donor')}"
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        return Answer(
            "warn",
            f"{found}; {many(len(lost), 'slide')} not there: {', '.join(lost[:3])}{more}",
            "Mount or move them back, or `ds2c prepare --force` from where they are now.",
        )
    return Answer("ok", found)
