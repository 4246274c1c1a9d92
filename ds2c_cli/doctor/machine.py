"""What there is to compute with, and what limits this process: devices, cores, memory, open files, the job."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .answers import Answer, Asked, gib, many, one_line

if TYPE_CHECKING:
    import torch

FILES = 1024  # every segment of the cache that is read is an open file
SQUEUE_SECONDS = 3.0

OWN_CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")
NVIDIA = Path("/dev/nvidia0")
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as the largest number it has


def devices(asked: Asked) -> Answer:
    """Every device of `--device` multiplies a small matrix; a GPU that is here is not overlooked."""
    import torch

    from ..device import devices_of

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
                f"{device} is here but does not compute: {one_line(error)}",
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
    return f"{device} {torch.cuda.get_device_name(device)}, {gib(free)} of {gib(total)} free"


def cpu_and_memory(asked: Asked) -> Answer:
    """Count the cores and the memory this process may use."""
    cores = len(os.sched_getaffinity(0))
    limit = _memory_limit()
    found = f"{many(cores, 'core')}, " + (
        f"memory limited to {gib(limit)}" if limit else f"{gib(_memory_available())} of memory available"
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
    """Name the job this runs in; left out elsewhere."""
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
    """Read the time left to a job, as squeue writes it (days-hours:minutes:seconds)."""
    try:
        command = ["squeue", "--noheader", "--jobs", job, "--format=%L"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return asked.stdout.partition("\n")[0].strip() or "unknown"
