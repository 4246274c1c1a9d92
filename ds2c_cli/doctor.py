"""What ds2c needs on this machine, looked at one by one: ok, warn or fail, what was found, and a remedy."""

from __future__ import annotations

import errno
import importlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import __version__
from .errors import Ds2cError, UsageError

if TYPE_CHECKING:
    import torch

# Everything heavy, of ours too, is imported in the checks: a broken package is a line of the answer, not its end.

State = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)  # pyproject.toml
TORCH = (2, 6)
PACKAGES = (
    "numpy", "pandas", "anndata", "torch", "torchvision", "timm", "tifffile", "imagecodecs", "lmdb", "huggingface-hub",
)  # fmt: skip
GIB = 1 << 30
CACHE_WARN, CACHE_FAIL = 10 * GIB, GIB  # free bytes; 5 million tiles of dimension 1,024 are 10 GiB
SCRATCH_WARN = 4 * GIB  # free bytes; a segment is about 1 GB, and merged ones are 4
INODES = 100  # fewer left are as good as none
FILES = 1024  # every segment of the cache that is read is an open file
HUB_SECONDS = 3.0

MOUNTS = Path("/proc/self/mountinfo")
OWN_CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")
NVIDIA = Path("/dev/nvidia0")
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # writing is forbidden, rather than broken or out of room
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as the largest number it has
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "smb3",
    "smbfs", "wekafs",
}  # fmt: skip
LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.squashfuse", "fuse.squashfuse_ll"}  # the roots of containers


class Asked(NamedTuple):
    """What the checks are about."""

    project: Path = Path()
    cache: Path | None = None  # None: the default one
    encoder: str = ""  # whose weights must be here; empty: none must
    device: str = "auto"
    hub: bool = False  # whether the hub may be contacted


class Answer(NamedTuple):
    """What a check says; whatever is not ok has a remedy."""

    state: State
    found: str
    remedy: str = ""


class Finding(NamedTuple):
    """The answer of a named check."""

    check: str
    state: State
    found: str
    remedy: str


def examine(asked: Asked) -> list[Finding]:
    """Make every check; one that raises is itself a failure, and one that has nothing to say here is left out.

    Leaves no file behind, and needs no network unless `asked.hub`.
    """
    findings = []
    for name, check in CHECKS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answer = check(asked)
            except Exception as error:  # whatever it is, it is what stands in the user's way
                answer = _failed(error)
        if answer is not None:
            findings.append(Finding(name, *answer))
    return findings


def _failed(error: Exception) -> Answer:
    if isinstance(error, Ds2cError):
        return Answer("fail", error.message, error.hint or "See above.")
    if isinstance(error, ImportError):
        return Answer("fail", _line(error), "Install ds2c anew, in an environment of its own.")
    if isinstance(error, OSError):
        return Answer("fail", _line(error), "Look at the path, its permissions and the space left on its disk.")
    return Answer("fail", _line(error), "If nothing here explains it, report it with this whole table.")


def _line(error: BaseException, longest: int = 300) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:longest]


# The installation


def python(asked: Asked) -> Answer:
    """The interpreter, and this ds2c."""
    found = f"Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable}), ds2c {__version__}"
    if sys.version_info[:2] < PYTHON:
        needed = ".".join(map(str, PYTHON))
        return Answer("fail", found, f"Install ds2c in an environment with Python {needed} or newer.")
    return Answer("ok", found)


def packages(asked: Asked) -> Answer:
    """The packages that matter are here, and torchvision and timm can be imported beside this torch."""
    held, absent = [], []
    for name in PACKAGES:
        try:
            held.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        return Answer("fail", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    for name in ("torch", "torchvision", "timm"):
        try:
            importlib.import_module(name)
        except (FileNotFoundError, PermissionError):  # torch wants a temporary folder
            raise
        except Exception as error:
            # A torchvision of another torch: "operator torchvision::nms does not exist", as a RuntimeError.
            return Answer(
                "fail",
                f"import {name}: {_line(error)} (torch {version('torch')}, torchvision {version('torchvision')})",
                "torch and torchvision must be built for each other: `pip install --force-reinstall torch torchvision`,"
                " both from the same index.",
            )
    return Answer("ok", ", ".join(held))


def torch_build(asked: Asked) -> Answer:
    """The version of torch, and what it is built for."""
    import torch

    release = str(torch.__version__)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPUs only"
    found = f"torch {release}, built for {build}"
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < TORCH:
        return Answer("fail", found, f"pip install --upgrade 'torch>={'.'.join(map(str, TORCH))}' torchvision")
    return Answer("ok", found)


# What there is to compute with


def devices(asked: Asked) -> Answer:
    """Every device of `--device` multiplies a small matrix; a GPU that is here is not overlooked."""
    import torch

    from .device import devices_of

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        overlooked = asked.device != "cpu" and not torch.cuda.is_available() and _gpu_is_here()
    reason, remedy = _why_overlooked(told) if overlooked else ("", "")
    try:
        chosen = devices_of(asked.device)
    except UsageError as error:
        return Answer("fail", f"{error.message}{reason and ': '}{reason}", remedy or error.hint)
    found = []
    for device in chosen:
        try:
            found.append(_use(device))
        except RuntimeError as error:
            return Answer(
                "fail",
                f"{device} is here but does not compute: {_line(error)}",
                "Install a torch built for this GPU and its driver, ask for another GPU, or say --device cpu.",
            )
    if overlooked:
        return Answer("warn", f"cpu, though there seems to be a GPU: {reason}", remedy)
    no_gpu = chosen[0].type == "cpu" and asked.device != "cpu"
    return Answer("ok", "; ".join(found) + (": there is no GPU here" if no_gpu else ""))


def _gpu_is_here() -> bool:
    return shutil.which("nvidia-smi") is not None or NVIDIA.exists()


def _why_overlooked(told: list[warnings.WarningMessage]) -> tuple[str, str]:
    """Why torch does not use the GPU, and the remedy; `told` is what it warned of."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides it", "Ask SLURM for one (--gpus=1), or unset the variable."
    if not (torch.version.cuda or torch.version.hip):
        return "this torch is built for CPUs only", "Install one with CUDA: https://pytorch.org/get-started/locally"
    said = " ".join(str(told[0].message).split())[:300] if told else "torch finds none that it can use"
    return said, "Compare `nvidia-smi` with torch's CUDA: update the driver, or install a torch for an older CUDA."


def _use(device: torch.device) -> str:
    """Multiply on a device and wait for it; what the device is. Raises RuntimeError where that does not work."""
    import torch

    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones)[0, 0]) != 64:
        raise RuntimeError("a matrix product is wrong")
    if device.type != "cuda":
        return str(device)
    free, total = torch.cuda.mem_get_info(device)
    return f"{device} {torch.cuda.get_device_name(device)}, {_gib(free)} of {_gib(total)} free"


def cpu_and_memory(asked: Asked) -> Answer:
    """The cores and the memory this process may use."""
    cores = len(os.sched_getaffinity(0))
    limit = _memory_limit()
    found = f"{_many(cores, 'core')}, " + (
        f"memory limited to {_gib(limit)}" if limit else f"{_gib(_memory_available())} of memory available"
    )
    of_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if of_task.isdecimal():
        found += f", SLURM_CPUS_PER_TASK={of_task}"
        cores = min(cores, int(of_task))
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if threads.isdecimal() and int(threads) > cores:
        return Answer(
            "warn",
            f"{found}, but OMP_NUM_THREADS={threads}",
            f"export OMP_NUM_THREADS={cores}: more threads are slower.",
        )
    return Answer("ok", found)


def _memory_limit() -> int:
    """Bytes that the cgroups of this process allow, the tightest of them (v2 or v1); 0: no limit."""
    limits = []
    for line in OWN_CGROUP.read_text().splitlines() if OWN_CGROUP.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (CGROUPS, "memory.max")
        inner = Path(group.lstrip("/"))
        for folder in (inner, *inner.parents):  # seen from inside a container, only the topmost may exist
            file = top / folder / name
            if file.is_file() and (text := file.read_text().strip()).isdecimal() and int(text) < NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=0)


def _memory_available() -> int:
    match = re.search(r"MemAvailable:\s+(\d+) kB", MEMORY.read_text())
    return int(match[1]) * 1024 if match else 0


def slide_reading(asked: Asked) -> Answer:
    """A tiled JPEG TIFF, as scanners write them, is written, opened and read back."""
    import imagecodecs
    import numpy as np
    import tifffile

    from .io.slides import open_slide

    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
    with tempfile.TemporaryDirectory(prefix="ds2c-doctor-") as folder:
        path = Path(folder) / "slide.tif"
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), compression="jpeg")
        read = open_slide(path).read(0, 0, 256, 256)
    found = f"a tiled JPEG TIFF, by tifffile {tifffile.__version__} and imagecodecs {imagecodecs.__version__}"
    if np.abs(read.astype(int) - pixels).mean() > 4:  # JPEG changes these pixels by about one
        return Answer("fail", f"{found}: other pixels were read than written", "pip install -U imagecodecs tifffile")
    return Answer("ok", found)


# Where files are kept


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
        return f"{self.path}{'' if self.exists else ' (not there yet)'} on {kind}, {_gib(self.free)} free"


def _place(path: Path) -> Place:
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
    return Place(path, folder == path, _file_system(folder), disk.f_bavail * disk.f_frsize, inodes, error)


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
    """The type of the file system a folder lies on: that of the longest mount point above it, the last mounted there.

    Fields as in proc(5): the mount point is the fifth, with \\040 for a space; the type follows a lone dash.
    """
    kind, depth = "unknown", 0
    for line in os.fsdecode(MOUNTS.read_bytes()).splitlines() if MOUNTS.exists() else ():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        if len(point.parts) >= depth and folder.is_relative_to(point):
            kind, depth = after.split()[0], len(point.parts)
    return kind


def cache_directory(asked: Asked) -> Answer:
    """The cache can be written to, and has room; it takes no locks, so a network file system will do."""
    from .cache import default_root

    place = _place(asked.cache or default_root())
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
    place = _place(Path(os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()))
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
    """The settings of the project are valid, and the slides of its samples still there."""
    from . import schema
    from .project import Project
    from .settings import Embedding, Geometry, Training

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
            return Answer("fail", f"{path} is damaged ({_line(error)})", f"`ds2c prepare --force` sample {name} again.")
    found = f"{where}, {_many(len(home.sample_names()), 'sample')} of {_many(len(donors), 'donor')}"
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        return Answer(
            "warn",
            f"{found}; {_many(len(lost), 'slide')} not there: {', '.join(lost[:3])}{more}",
            "Mount or move them back, or `ds2c prepare --force` from where they are now.",
        )
    return Answer("ok", found)


# Encoders and their weights


def weights_folder(asked: Asked) -> Answer:
    """Where the hub's client keeps weights."""
    from huggingface_hub import constants

    place = _place(Path(constants.HF_HUB_CACHE))
    if place.error and not constants.HF_HUB_OFFLINE:
        found = f"{place}, cannot be written ({place.reason})"
        return Answer("warn", found, "Set HF_HOME to a folder that weights may be downloaded to.")
    return Answer("ok", str(place))


def hub(asked: Asked) -> Answer:
    """Whether the hub answers, and to whom; it is asked only with `--hub`, and never for long."""
    from huggingface_hub import HfApi, constants, get_session, get_token

    token = "a token is stored" if get_token() else "no token, so no gated encoder can be downloaded"
    if constants.HF_HUB_OFFLINE:
        return Answer("ok", f"offline as asked (HF_HUB_OFFLINE); {token}")
    if not asked.hub:
        return Answer("ok", f"not asked (`ds2c doctor --hub` asks); {token}")
    (reply,) = _within(HUB_SECONDS, lambda: get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS))
    said = _line(reply) if isinstance(reply, Exception) else f"answers {reply.status_code}"
    if isinstance(reply, Exception) or reply.status_code in (403, 407) or reply.status_code >= 500:
        return Answer(
            "warn",
            f"{constants.ENDPOINT} cannot be reached ({said}); {token}",
            "Without network set HF_HUB_OFFLINE=1, copy weights here and pass them with --weights; behind a proxy set "
            "HTTPS_PROXY, for a mirror HF_ENDPOINT.",
        )
    if not get_token():
        return Answer("ok", f"{constants.ENDPOINT} answers; {token}")
    (account,) = _within(HUB_SECONDS, lambda: HfApi().whoami())
    if isinstance(account, Exception):  # whose text might hold the token
        return Answer(
            "warn",
            f"{constants.ENDPOINT} answers, but not to the stored token ({type(account).__name__})",
            "Log in again with `hf auth login`, or correct HF_TOKEN.",
        )
    return Answer("ok", f"{constants.ENDPOINT} answers to {account.get('name', 'the stored token')}")


def gated_encoders(asked: Asked) -> Answer | None:
    """Of the gated encoders whose weights are not here yet, which ones the stored token may download."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError  # GatedRepoError is one of these

    from .encoders import RECIPES
    from .encoders.weights import here

    if not asked.hub or constants.HF_HUB_OFFLINE or not get_token():
        return None
    gated = [
        recipe
        for recipe in RECIPES.values()
        if recipe.access == "gated" and asked.encoder in ("", recipe.name) and not here(recipe)
    ]
    api = HfApi()
    replies = _within(HUB_SECONDS, *((lambda name=one.repository: api.auth_check(name)) for one in gated))
    answers = list(zip(gated, replies, strict=True))
    granted = [one.name for one, reply in answers if reply is None]
    refused = [one for one, reply in answers if isinstance(reply, RepositoryNotFoundError)]
    unknown = [one.name for one, reply in answers if reply is not None and one not in refused]
    parts = (("access", granted), ("no access", [one.name for one in refused]), ("no answer", unknown))
    found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    if refused:
        pages = ", ".join(f"{constants.ENDPOINT}/{one.repository}" for one in refused)
        return Answer("warn", found, f"To use one, accept its licence on its page: {pages}.")
    if unknown:
        return Answer("warn", found, "See the line above, or try again.")
    return Answer("ok", found) if gated else None


def _within(seconds: float, *calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, or the exception of each, all made at once; TimeoutError for one that is not back in time.

    In threads that nobody waits for: a name server that is silent keeps a call for longer than any timeout of its own.
    """
    results: list[Any] = [TimeoutError(f"no answer within {seconds:g} s")] * len(calls)

    def make(number: int) -> None:
        try:
            results[number] = calls[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=make, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return list(results)


def encoders(asked: Asked) -> Answer:
    """Which encoders have their weights here; the one of `--encoder` must."""
    from .encoders import RECIPES, recipe_of, weights
    from .project import Project
    from .settings import Embedding

    held = f"weights here: {', '.join(name for name, recipe in RECIPES.items() if weights.here(recipe))}"
    if not asked.encoder:
        return Answer("ok", held)
    recipe = recipe_of(asked.encoder)
    given = Project(asked.project).settings(Embedding, {"encoder": asked.encoder}).weights
    if given or recipe.access not in ("open", "gated"):
        return Answer("ok", f"{asked.encoder}: {weights.find(recipe, given).weights or 'needs no weights'}; {held}")
    if not recipe.repository:
        recipe = replace(recipe, repository=weights._timm_repository(recipe))
    if not weights.here(recipe):
        raise weights._explained(recipe, FileNotFoundError(recipe.repository))
    return Answer("ok", f"{asked.encoder}: {recipe.repository} is here; {held}")


# The process


def open_files(asked: Asked) -> Answer:
    """How many files may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} at once"
    if soft != resource.RLIM_INFINITY and soft < FILES:
        most = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        return Answer(
            "warn", f"{found}, and every segment of the cache is one", f"ulimit -n {most}, and `ds2c cache merge`."
        )
    return Answer("ok", found)


def encoding(asked: Asked) -> Answer:
    """How file names are encoded."""
    found = sys.getfilesystemencoding()
    if found.lower().replace("-", "") != "utf8":
        return Answer("warn", f"{found}: names of files with other letters fail", "export LC_ALL=C.UTF-8")
    return Answer("ok", found)


def slurm(asked: Asked) -> Answer | None:
    """The job this runs in; left out elsewhere."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    found = f"job {job}"
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        array = os.environ.get("SLURM_ARRAY_JOB_ID", job)
        found += f", task {task} of the {os.environ.get('SLURM_ARRAY_TASK_COUNT', '?')} of array {array}"
    return Answer(
        "ok",
        f"{found}, time left {_time_left(job)}; `#SBATCH --signal=B:USR2@120` and `exec ds2c ...` let it finish what "
        "it has before the limit",
    )


def _time_left(job: str) -> str:
    """The time left to a job, as squeue writes it (days-hours:minutes:seconds)."""
    try:
        command = ["squeue", "--noheader", "--jobs", job, "--format=%L"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=HUB_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return asked.stdout.partition("\n")[0].strip() or "unknown"


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


CHECKS: tuple[tuple[str, Callable[[Asked], Answer | None]], ...] = (
    ("python", python),
    ("packages", packages),
    ("torch", torch_build),
    ("devices", devices),
    ("CPU and memory", cpu_and_memory),
    ("slide reading", slide_reading),
    ("cache directory", cache_directory),
    ("scratch directory", scratch_directory),
    ("project", project),
    ("weights folder", weights_folder),
    ("hub", hub),
    ("gated encoders", gated_encoders),
    ("encoders", encoders),
    ("open files", open_files),
    ("encoding", encoding),
    ("SLURM", slurm),
)
