"""The examples for SLURM and Snakemake run, on a real one-node cluster that is started on loopback."""

from __future__ import annotations

import csv
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anndata
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
SLURM, SNAKEMAKE = ROOT / "examples" / "slurm", ROOT / "examples" / "snakemake"
BIN = Path(sys.executable).parent
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=ds2c
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=20000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP MaxTime=INFINITE
"""

HOME = "/tmp/ds2c-slurm-"
SYSTEM_CONFIGURATION = Path("/etc/slurm/slurm.conf")  # where srun looks when Snakemake has cleared the environment

pytestmark = pytest.mark.cluster


def command(*words: object, timeout: float = 60, check: bool = True, **options: object) -> str:
    """What a command prints; a failure shows both of its streams."""
    ran = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert not check or ran.returncode == 0, f"{words}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr if not check else ran.stdout


def until(what: str, true, seconds: float = 60) -> None:
    """Wait until something is true, or fail."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of a one-node SLURM cluster on loopback, which ends with the tests."""
    absent = [name for name in DAEMONS if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)")
    if os.getuid():
        pytest.skip("starting SLURM's daemons needs root")
    if SYSTEM_CONFIGURATION.is_symlink() and HOME in os.readlink(SYSTEM_CONFIGURATION):
        SYSTEM_CONFIGURATION.unlink()  # of a run that was killed
    if os.path.lexists(SYSTEM_CONFIGURATION):
        pytest.skip(f"{SYSTEM_CONFIGURATION} is there: this machine has a SLURM of its own")
    home = Path(f"{HOME}{os.getpid()}")  # a socket's path must be short, and munge's must be its own
    shutil.rmtree(home, ignore_errors=True)
    for name in ("state", "spool"):
        (home / name).mkdir(parents=True)
    munge = pwd.getpwnam("munge")
    key = home / "munge"
    key.mkdir()
    (key / "key").write_bytes(os.urandom(1024))
    (key / "key").chmod(0o400)
    for path in (home, key, key / "key"):
        os.chown(path, munge.pw_uid, munge.pw_gid)
    host = socket.gethostname().split(".")[0]
    configuration = home / "slurm.conf"
    ports = {"controller": free_port(), "node": free_port()}
    configuration.write_text(CONFIGURATION.format(home=home, host=host, cpus=len(os.sched_getaffinity(0)), **ports))
    env = os.environ | {"SLURM_CONF": str(configuration), "PATH": f"{BIN}:/usr/sbin:{os.environ['PATH']}"}
    for name in [name for name in env if name.startswith(("DS2C", "SLURM_JOB", "SBATCH"))]:
        del env[name]
    files = [f"--socket={home}/munge.socket", f"--key-file={key}/key", f"--pid-file={home}/munged.pid",
             f"--log-file={home}/munged.log", f"--seed-file={home}/munged.seed"]  # fmt: skip
    try:
        SYSTEM_CONFIGURATION.parent.mkdir(exist_ok=True)
        SYSTEM_CONFIGURATION.symlink_to(configuration)
        command("runuser", "-u", "munge", "--", "/usr/sbin/munged", "--force", *files)
        os.chown(home, 0, 0)
        command("/usr/sbin/slurmctld", env=env)
        command("/usr/sbin/slurmd", env=env)
        until("the node is idle", lambda: "idle" in command("sinfo", "-h", "-o", "%t", env=env, check=False))
        yield env
    finally:
        command("scancel", "-u", "root", env=env, check=False)
        SYSTEM_CONFIGURATION.unlink(missing_ok=True)
        for name in ("slurmd", "slurmctld", "munged"):
            with suppress(OSError, ValueError):
                pid = int((home / f"{name}.pid").read_text())
                os.kill(pid, signal.SIGTERM)
                with suppress(AssertionError):
                    until(f"{name} has ended", lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def sheet(painted: Path, tmp_path: Path) -> Path:
    """A sample sheet of three slides: two with counts, and one that is only predicted."""
    path = tmp_path / "samples.csv"
    rows = [
        [name, painted / folder / "slide.tif", painted / folder / "cells.parquet", counts, name, "test"]
        for name, folder, counts in (
            ("one", "one", painted / "one" / "cell_counts.h5ad"),
            ("two", "two", painted / "two" / "cell_counts.h5ad"),
            ("new", "two", ""),
        )
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["sample", "slide", "cells", "counts", "donor", "cohort"], *rows])
    return path


@pytest.fixture
def here(cluster: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The cluster's environment with a cache of this test's own."""
    (tmp_path / "scratch").mkdir()
    return cluster | {"DS2C_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "scratch")}


def finish(env: dict[str, str], job: str, seconds: float = 300) -> None:
    """Wait until a job is out of the queue."""
    until(f"job {job} ends", lambda: not command("squeue", "-h", "-j", job, env=env, check=False).strip(), seconds)


def encoded(project: Path, job: str = "*") -> list[int]:
    """How many tiles each task of an embed array says that it encoded."""
    logs = sorted(project.glob(f"logs/embed-{job}-*.log"))
    return [int(n.replace(",", "")) for log in logs for n in re.findall(r"([\d,]+) encoded", log.read_text())]


def check_predictions(project: Path) -> None:
    for name in ("one", "two", "new"):
        table = anndata.read_h5ad(project / "predictions" / "additive" / f"{name}.h5ad")
        assert table.n_obs == len(pd.read_parquet(project / "samples" / name / "cells.parquet"))
        assert table.n_vars > 20


def test_raw_slides_to_predictions_on_slurm(here: dict[str, str], sheet: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    job = command(SLURM / "submit.sh", sheet, project, "colour", "4", env=here).strip()
    finish(here, job)
    logs = "\n".join(f"{path.name}\n{path.read_text()}" for path in sorted(project.glob("logs/*.log")))
    assert len(list(project.glob("predictions/additive/*.h5ad"))) == 3, logs
    check_predictions(project)
    whole = command("ds2c", "embed", "--encoder", "colour", "--project", project, "--json", env=here)
    tiles = int(re.findall(r'"tiles": (\d+)', whole)[0])
    assert len(encoded(project)) == 4
    assert sum(encoded(project)) == tiles  # each its own part
    assert '"encoded": 0' in whole


def test_a_task_that_is_stopped_goes_back_into_the_queue_and_goes_on(
    here: dict[str, str], sheet: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    env = here | {"DS2C_PROJECT": str(project), "ENCODER": "imagenet-lite0", "SHEET": str(sheet)}
    with sheet.open() as file:
        for row in csv.DictReader(file):
            if row["sample"] != "new":
                command("ds2c", "prepare", row["slide"], "--cells", row["cells"], "--sample", row["sample"],
                        "--membership", "centroid", env=env)  # fmt: skip
    log = tmp_path / "embed-%a.log"
    job = command("sbatch", "--parsable", "--array=0-0", f"--output={log}", SLURM / "embed.sbatch", env=env).strip()
    scratch, cache = Path(env["TMPDIR"]), Path(env["DS2C_CACHE"])
    told = tmp_path / "embed-0.log"
    until("it has begun to encode", lambda: any(scratch.rglob("seg-*.mdb")) and cache.exists(), 120)
    command("scancel", "--batch", "--signal=USR2", job, env=env)
    until("it says that it was stopped", lambda: "stopped by SIGUSR2" in told.read_text(), 60)
    assert any(cache.rglob("seg-*.mdb"))  # published
    # SLURM holds a requeued job back for two minutes, which no test has
    until("it is queued again", lambda: "PD" in command("squeue", "-h", "-r", "-o", "%t", "-j", job, env=env), 60)
    command("scancel", job, env=env)
    finish(env, job)
    again = command("ds2c", "embed", "--encoder", "imagenet-lite0", "--json", env=env, timeout=300)
    numbers = {name: int(n) for name, n in re.findall(r'"(tiles|cached|encoded)": (\d+)', again)}
    assert numbers["cached"] > 0
    assert numbers["cached"] + numbers["encoded"] == numbers["tiles"]
    assert "Go on from there with `ds2c embed --encoder imagenet-lite0 --shard 0/1`" in told.read_text()


def test_train_names_the_shard_that_was_left_out(here: dict[str, str], sheet: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    env = here | {"DS2C_PROJECT": str(project), "ENCODER": "colour", "SHEET": str(sheet)}
    submit = ["sbatch", "--parsable", "--wait", f"--output={tmp_path}/%x-%a.log"]
    command(*submit, "--array=0-2", SLURM / "prepare.sbatch", env=env, timeout=200)
    command("ds2c", "embed", "--encoder", "colour", "--shard", "0/2", env=env)
    failed = subprocess.run(
        [*submit, str(SLURM / "train.sbatch")], env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert failed.returncode == 3
    told = (tmp_path / "train-4294967294.log").read_text()
    assert "the colour embeddings of shard 1/2 are not all in the cache" in told
    assert "--encoder colour --shard 1/2`" in told


def snakemake(env: dict[str, str], sheet: Path, project: Path, *words: object, timeout: float = 300) -> str:
    """Run the workflow; what it says."""
    if not (BIN / "snakemake").exists():
        pytest.skip("snakemake is not installed (pip install 'ds2c[cluster]')")
    told = ["--config", f"samples={sheet}", f"project={project}", "encoder=colour", "shards=2"]
    ran = subprocess.run(
        [str(BIN / "snakemake"), *map(str, words), *told], cwd=SNAKEMAKE, env=env, text=True, timeout=timeout,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    logs = "".join(f"\n{path.name}: {path.read_text()}" for path in sorted(project.glob("logs/*.log")))
    assert ran.returncode == 0, ran.stdout + logs
    return ran.stdout


def workspace(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Snakemake keeps its own records out of the repository."""
    return env | {"PATH": f"{BIN}:{env['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "xdg")}


def test_raw_slides_to_predictions_with_snakemake(sheet: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    env = workspace(os.environ | {"DS2C_CACHE": str(tmp_path / "cache")}, tmp_path)
    snakemake(env, sheet, project, "--directory", tmp_path)
    check_predictions(project)
    assert "Nothing to be done" in snakemake(env, sheet, project, "--directory", tmp_path)


def test_raw_slides_to_predictions_with_snakemake_on_slurm(here: dict[str, str], sheet: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    words = ["--directory", tmp_path, "--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue",
             "--slurm-array-jobs", "all", "--slurm-init-seconds-before-status-checks", 2,
             "--seconds-between-status-checks", 2, "--latency-wait", 5, "--default-resources", "slurm_partition=main",
             "slurm_account=none", "mem_mb=2000", "runtime=30"]  # fmt: skip
    said = snakemake(workspace(here, tmp_path), sheet, project, *words, timeout=600)
    assert "slurm" in said.lower()
    check_predictions(project)
