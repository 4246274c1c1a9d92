"""ds2c doctor: every check in each of its states, exit codes, JSON, no network unless asked, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from made import sample_record

from ds2c_cli import doctor, schema
from ds2c_cli.doctor import Asked, examine
from ds2c_cli.doctor.answers import GIB
from ds2c_cli.encoders import RECIPES
from ds2c_cli.files import write_record

GATED = [recipe for recipe in RECIPES.values() if recipe.access == "gated"]
HIDDEN = ("OMP_NUM_THREADS", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "DS2C_ENCODER", "DS2C_WEIGHTS", "HF_TOKEN")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, root, scratch):
    """A machine on which all is well: local disks with room, no GPU, no SLURM, an empty hub cache, no network."""
    torch = pytest.importorskip("torch")
    from huggingface_hub import constants

    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)
    scratch.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(scratch))
    monkeypatch.setenv("DS2C_CACHE", str(root))
    monkeypatch.setenv("DS2C_PROJECT", str(tmp_path / "project"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.machine, "NVIDIA", tmp_path / "nvidia0")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    mounts(monkeypatch, tmp_path, {"/": "ext4"})
    disk(monkeypatch)
    monkeypatch.setattr(socket.socket, "connect", refuse)


CONNECT = socket.socket.connect


def refuse(self, address):
    """No network, this machine itself aside."""
    if address[0] != "127.0.0.1":
        raise OSError(errno.ENETUNREACH, "this test has no network")
    return CONNECT(self, address)


def mounts(monkeypatch, folder: Path, kinds: dict[str, str]) -> None:
    """A machine with these mount points."""
    lines = [f"1 2 0:1 / {point.replace(' ', chr(92) + '040')} rw - {kind} x rw" for point, kind in kinds.items()]
    (folder / "mountinfo").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(doctor.places, "MOUNTS", folder / "mountinfo")


def disk(monkeypatch, free: int = 100 * GIB, inodes: int = 10**6, files: int = 10**7) -> None:
    """A machine whose disks all have this much left."""
    facts = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_favail=inodes, f_files=files)
    monkeypatch.setattr(os, "statvfs", lambda path: facts)


def look(check: str, **asked) -> doctor.Finding | None:
    """The finding of one check among all that are made, None where it is left out."""
    asked = {"project": Path(os.environ["DS2C_PROJECT"]), "cache": Path(os.environ["DS2C_CACHE"]), **asked}
    return next((finding for finding in examine(Asked(**asked)) if finding.check == check), None)


@pytest.fixture
def only(monkeypatch):
    """Make one check alone, since many tests are about one."""

    def choose(*names: str) -> None:
        monkeypatch.setattr(doctor, "CHECKS", tuple(entry for entry in doctor.CHECKS if entry[0] in names))

    return choose


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# The command


def test_all_is_well(ds2c, tmp_path):
    before = files(tmp_path)
    ran = ds2c("doctor")
    assert ran.code == 0, ran.err
    assert ran.out == ""
    assert "hint" not in ran.err
    for name, _ in doctor.CHECKS:
        assert (name in ran.err) == (name not in ("gated encoders", "SLURM"))
    assert files(tmp_path) == before


def test_one_json_document(ds2c):
    ran = ds2c("doctor", "--json")
    answer = json.loads(ran.out)
    assert ran.code == 0
    assert answer["state"] == "ok"
    assert [check["check"] for check in answer["checks"]][:3] == ["python", "packages", "torch"]
    assert all(set(check) == {"check", "state", "found", "remedy"} for check in answer["checks"])


def test_a_failure_is_exit_code_1_and_comes_with_a_remedy(ds2c, root):
    root.write_text("not a folder")
    ran = ds2c("doctor", "--json")
    answer = json.loads(ran.out)
    assert ran.code == 1
    assert answer["state"] == "fail"
    assert [check["check"] for check in answer["checks"] if check["state"] != "ok"] == ["cache directory"]
    assert "hint: cache directory: Correct that, or choose another with --cache or DS2C_CACHE." in ran.err
    assert root.read_text() == "not a folder"


def test_a_warning_is_exit_code_0(ds2c, monkeypatch, only):
    only("encoding")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    ran = ds2c("doctor")
    assert ran.code == 0
    assert "hint: encoding: export LC_ALL=C.UTF-8" in ran.err


def test_a_check_that_breaks_is_a_failure_and_not_the_end(ds2c, monkeypatch):
    def broken(asked):
        raise RuntimeError("the disk\nspoke")

    monkeypatch.setattr(doctor, "CHECKS", (("first", broken), ("encoding", doctor.machine.encoding)))
    ran = ds2c("doctor", "--json")
    first, second = json.loads(ran.out)["checks"]
    assert ran.code == 1
    assert (first["state"], first["found"]) == ("fail", "RuntimeError: the disk spoke")
    assert first["remedy"]
    assert second["state"] == "ok"
    assert "Traceback" not in ran.err


# The installation


def test_an_old_python(monkeypatch, only):
    only("python")
    assert look("python").state == "ok"
    monkeypatch.setattr(doctor.installation, "PYTHON", (3, 99))
    assert look("python").state == "fail"


def test_a_torchvision_of_another_torch(monkeypatch, only, tmp_path):
    only("packages")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    finding = look("packages")
    assert finding.state == "fail"
    assert "torchvision::nms" in finding.found
    assert "pip install --force-reinstall torch torchvision" in finding.remedy


def test_a_package_that_is_not_installed(monkeypatch, only):
    only("packages")
    monkeypatch.setattr(doctor.installation, "PACKAGES", ("numpy", "no-such-package-of-ds2c"))
    finding = look("packages")
    assert (finding.state, finding.remedy) == ("fail", "pip install no-such-package-of-ds2c")


def test_a_package_of_ours_that_cannot_be_imported_is_one_line(monkeypatch, only):
    only("slide reading", "encoding")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert look("slide reading").state == "fail"
    assert look("encoding").state == "ok"


@pytest.mark.parametrize(
    ("release", "state"), [("2.5.1+cpu", "fail"), ("2.6.0a0+git1", "ok"), ("2.10.0+cu130", "ok"), ("3.0", "ok")]
)
def test_versions_of_torch(monkeypatch, only, release, state):
    import torch

    only("torch")
    monkeypatch.setattr(torch, "__version__", release)
    assert look("torch").state == state


# What there is to compute with


def test_without_a_gpu_it_is_the_cpu(only):
    only("devices")
    assert look("devices")[1:3] == ("ok", "cpu: there is no GPU here")
    assert look("devices", device="cpu")[1:3] == ("ok", "cpu")


def test_a_gpu_that_was_asked_for_and_is_not_there(only):
    only("devices")
    assert look("devices", device="cuda").state == "fail"
    assert "no device 'gpu'" in look("devices", device="gpu").found


def test_a_hidden_gpu(monkeypatch, only, tmp_path):
    only("devices")
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = look("devices")
    assert finding.state == "warn"
    assert "CUDA_VISIBLE_DEVICES='' hides it" in finding.found
    assert look("devices", device="cuda").state == "fail"
    assert look("devices", device="cpu").state == "ok"


def test_a_driver_that_is_too_old(monkeypatch, only):
    import torch

    def available():
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1)
        return False

    only("devices")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = look("devices")
    assert finding.state == "warn"
    assert "too old (found version 11040)" in finding.found
    assert "update the driver" in finding.remedy
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for CPUs only" in look("devices").found


def test_a_device_that_does_not_compute(monkeypatch, only):
    def no_kernel(device):
        raise RuntimeError("no kernel image is available for execution on the device")

    only("devices")
    monkeypatch.setattr(doctor.machine, "_use", no_kernel)
    finding = look("devices")
    assert finding.state == "fail"
    assert "no kernel image" in finding.found


def test_more_threads_than_cores(monkeypatch, only):
    only("CPU and memory")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert look("CPU and memory").state == "ok"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    finding = look("CPU and memory")
    assert finding.state == "warn"
    assert "export OMP_NUM_THREADS=2" in finding.remedy


@pytest.mark.parametrize(
    ("own", "limits", "says"),
    [
        ("0::/job/step", {"job/memory.max": 8 * GIB, "job/step/memory.max": "max"}, "memory limited to 8.0 GiB"),
        ("0::/docker/3f2a", {"memory.max": 2 * GIB}, "memory limited to 2.0 GiB"),
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": 3 * GIB}, "memory limited to 3.0 GiB"),
        ("4:memory:/", {"memory/memory.limit_in_bytes": 9223372036854771712}, "5.0 GiB of memory available"),
        ("0::/", {}, "5.0 GiB of memory available"),
    ],
)
def test_the_memory_a_job_may_use(monkeypatch, only, tmp_path, own, limits, says):
    only("CPU and memory")
    for name, limit in limits.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{limit}\n")
    (tmp_path / "own").write_text(own + "\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {5 * GIB // 1024} kB\n")
    monkeypatch.setattr(doctor.machine, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(doctor.machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(doctor.machine, "MEMORY", tmp_path / "meminfo")
    assert says in look("CPU and memory").found


def test_pixels_that_are_not_those_written(monkeypatch, only):
    from ds2c_cli.io.slides import TiledTiff

    only("slide reading")
    assert look("slide reading").state == "ok"
    monkeypatch.setattr(TiledTiff, "read", lambda slide, *corner, **size: 0)
    assert look("slide reading").state == "fail"


# Where files are kept


@pytest.mark.parametrize(
    ("free", "inodes", "state"),
    [
        (100 * GIB, 10**6, "ok"), (9 * GIB, 10**6, "warn"), (GIB // 2, 10**6, "fail"), (100 * GIB, 0, "fail"),
    ],
)  # fmt: skip
def test_room_for_the_cache(monkeypatch, only, free, inodes, state):
    only("cache directory")
    disk(monkeypatch, free, inodes)
    assert look("cache directory").state == state


def test_a_file_system_without_inodes_has_not_run_out_of_them(monkeypatch, only):
    only("cache directory")
    disk(monkeypatch, inodes=0, files=0)
    assert look("cache directory").state == "ok"


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs", "gpfs"])
def test_a_network_file_system_is_for_the_cache_and_not_for_scratch(monkeypatch, only, tmp_path, kind):
    only("cache directory", "scratch directory")
    mounts(monkeypatch, tmp_path, {"/": "ext4", str(tmp_path): kind})
    assert look("cache directory").state == "ok"
    assert f"{kind}, a network file system" in look("cache directory").found
    assert look("scratch directory").state == "warn"
    assert "Set TMPDIR" in look("scratch directory").remedy


def test_the_innermost_mount_counts_and_of_two_on_one_point_the_last(monkeypatch, tmp_path):
    mounts(monkeypatch, tmp_path, {"/": "ext4", "/a b": "autofs", "/a b/c": "nfs4", "/a": "xfs"})
    with (tmp_path / "mountinfo").open("a") as file:
        file.write("9 9 0:1 / /a\\040b rw shared:7 - fuse.fuse-overlayfs x rw\n")
    for folder, kind in (("/a b/c/d", "nfs4"), ("/a b/cc", "fuse.fuse-overlayfs"), ("/a", "xfs"), ("/ab", "ext4")):
        assert doctor.places._file_system(Path(folder)) == kind
    assert not doctor.places.Place(Path("/"), True, "fuse.fuse-overlayfs", 0, None, None).network


def test_a_cache_that_may_only_be_read(monkeypatch, only, root):
    def forbidden(folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    only("cache directory")
    monkeypatch.setattr(doctor.places, "_write", forbidden)
    assert look("cache directory").state == "fail"
    root.mkdir()
    finding = look("cache directory")
    assert finding.state == "warn"
    assert "predict works, embed cannot" in finding.found


@pytest.mark.parametrize("broken", ["fsync", "rename"])
def test_a_disk_that_refuses_halfway_leaves_nothing_behind(monkeypatch, only, root, broken):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    only("cache directory")
    root.mkdir()
    monkeypatch.setattr(*((os, "fsync") if broken == "fsync" else (Path, "rename")), full)
    finding = look("cache directory")
    assert finding.state == "fail"
    assert "No space left on device" in finding.found
    assert not files(root)


def test_a_cache_that_exists_is_written_to_and_left_as_it_was(only, root):
    only("cache directory")
    (root / "v1").mkdir(parents=True)
    assert look("cache directory").state == "ok"
    assert files(root) == {root / "v1"}


def test_little_room_for_scratch(monkeypatch, only, tmp_path):
    only("scratch directory")
    mounts(monkeypatch, tmp_path, {"/": "tmpfs"})
    assert look("scratch directory").state == "ok"
    disk(monkeypatch, 3 * GIB)
    finding = look("scratch directory")
    assert finding.state == "warn"
    assert "memory of the job" in finding.found


def test_scratch_is_that_of_the_job(monkeypatch, only, tmp_path):
    only("scratch directory")
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "of the job"))
    assert "of the job (not there yet)" in look("scratch directory").found
    (tmp_path / "of the job").touch()
    assert look("scratch directory").state == "fail"


# The project


def sample(name: str, **record: object) -> Path:
    """A prepared sample, as far as the doctor looks at it; its file."""
    path = Path(os.environ["DS2C_PROJECT"]) / "samples" / name / schema.SAMPLE_FILE
    write_record(path, sample_record(**{"slide": str(path), **record}))
    return path


def test_a_project_with_its_slides(only):
    only("project")
    assert "no project here" in look("project").found
    sample("one")
    sample("two")
    assert look("project").state == "ok"
    assert "2 samples of 1 donor" in look("project").found


def test_slides_that_moved_away(only):
    only("project")
    for number in range(5):
        sample(f"s{number}", slide=f"/nowhere/{number}.svs")
    finding = look("project")
    assert finding.state == "warn"
    assert "/nowhere/0.svs of s0, /nowhere/1.svs of s1, /nowhere/2.svs of s2 and 2 more" in finding.found
    assert "ds2c prepare" in finding.remedy


def test_settings_and_samples_that_are_not_valid(only):
    only("project")
    path = sample("one")
    path.write_text("{")
    assert f"{path} is damaged" in look("project").found
    path.write_text('{"version": 99}')
    assert "version 99" in look("project").found
    toml = Path(os.environ["DS2C_PROJECT"]) / schema.SETTINGS_FILE
    toml.write_text("[training]\nepoch = 3\n")
    finding = look("project")
    assert finding.state == "fail"
    assert "there is no setting 'epoch'" in finding.found
    assert "epochs" in finding.remedy


# Encoders, their weights and the hub


def test_the_weights_of_an_encoder(only, tmp_path, monkeypatch):
    only("encoders")
    assert look("encoders")[1:3] == ("ok", "weights here: imagenet-lite0, imagenet-lite2, colour")
    finding = look("encoders", encoder="uni2-h")
    assert finding.state == "fail"
    assert "MahmoodLab/UNI2-h are not on this machine" in finding.found
    assert "hf download MahmoodLab/UNI2-h" in finding.remedy
    assert look("encoders", encoder="timm:vit_small_patch14_dinov2.lvd142m").state == "fail"
    assert look("encoders", encoder="uni3").state == "fail"
    for name in ("colour", "imagenet-lite0"):
        assert look("encoders", encoder=name).state == "ok"
    monkeypatch.setenv("DS2C_WEIGHTS", str(tmp_path / "uni.bin"))
    assert look("encoders", encoder="uni").state == "fail"
    (tmp_path / "uni.bin").touch()
    assert look("encoders", encoder="uni").state == "ok"


def test_weights_in_the_hub_cache(only, tmp_path):
    recipe = RECIPES["uni"]
    held = tmp_path / "hub" / "models--MahmoodLab--UNI" / "snapshots" / recipe.revision / recipe.weights_file
    held.parent.mkdir(parents=True)
    held.touch()
    only("encoders")
    assert look("encoders", encoder="uni").state == "ok"


def test_a_weights_folder_that_cannot_be_written(monkeypatch, only, tmp_path):
    from huggingface_hub import constants

    only("weights folder")
    assert look("weights folder").state == "ok"
    (tmp_path / "hub").touch()
    assert look("weights folder").state == "warn"
    assert "HF_HOME" in look("weights folder").remedy
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert look("weights folder").state == "ok"


def test_the_hub_is_not_asked_unless_the_user_says_so(monkeypatch, ds2c):
    def unasked(*address, **how):
        tried.append(address)
        raise OSError(errno.ENETUNREACH, "nobody asked for network")

    tried = []
    monkeypatch.setattr(socket.socket, "connect", unasked)
    monkeypatch.setattr(socket, "getaddrinfo", unasked)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ran = ds2c("doctor", "--encoder", "uni")
    assert ran.code == 1
    assert "not asked (`ds2c doctor --hub` asks); a token is stored" in ran.err
    assert "hf_secret" not in ran.err
    assert not tried


def test_offline_as_asked(monkeypatch, only):
    from huggingface_hub import constants

    only("hub", "gated encoders")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert look("hub", hub=True)[1:3] == ("ok", "offline as asked (HF_HUB_OFFLINE); a token is stored")
    assert look("gated encoders", hub=True) is None


def test_a_hub_that_cannot_be_reached(monkeypatch, only):
    from huggingface_hub import constants

    only("hub", "gated encoders")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    finding = look("hub", hub=True)
    assert finding.state == "warn"
    assert "http://127.0.0.1:9 cannot be reached" in finding.found
    assert "HF_HUB_OFFLINE=1" in finding.remedy
    assert look("gated encoders", hub=True).state == "warn"


def test_a_hub_that_is_silent_is_not_waited_for():
    held = threading.Event()
    results = doctor.weights._within(0.05, held.wait, lambda: 3, lambda: 1 / 0)
    held.set()
    assert isinstance(results[0], TimeoutError)
    assert results[1] == 3
    assert isinstance(results[2], ZeroDivisionError)


@pytest.fixture
def a_hub(monkeypatch):
    """A hub on this machine, for the account ada; `granted` are the repositories it lets her see, `status` its mood."""
    from huggingface_hub import constants

    hub = SimpleNamespace(granted=set(), status=200, token="hf_secret")

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(hub.status)

        def do_GET(self):
            if self.headers["authorization"] != f"Bearer {hub.token}":
                self.answer(401)
            elif self.path.startswith("/api/whoami"):
                self.answer(200, b'{"name": "ada", "type": "user"}')
            else:
                granted = self.path.removeprefix("/api/models/").removesuffix("/auth-check") in hub.granted
                self.answer(*((200, b"{}") if granted else (403, b"{}", "GatedRepo")))

        def answer(self, status, body=b"", code=""):
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_that_answers(a_hub, only, monkeypatch, ds2c):
    only("hub", "gated encoders")
    assert look("hub", hub=True)[1:3] == (
        "ok", f"{endpoint()} answers; no token, so no gated encoder can be downloaded",
    )  # fmt: skip
    assert look("gated encoders", hub=True) is None
    monkeypatch.setenv("HF_TOKEN", a_hub.token)
    assert look("hub", hub=True).found == f"{endpoint()} answers to ada"
    ran = ds2c("doctor", "--hub", "--json")
    assert [check["state"] for check in json.loads(ran.out)["checks"]] == ["ok", "warn"]


def test_a_hub_that_refuses(a_hub, only, monkeypatch):
    only("hub")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    finding = look("hub", hub=True)
    assert finding.state == "warn"
    assert "hf auth login" in finding.remedy
    assert "hf_expired" not in str(finding)
    a_hub.status = 503
    assert "answers 503" in look("hub", hub=True).found


def test_which_gated_encoders_the_account_may_download(a_hub, only, monkeypatch):
    only("gated encoders")
    monkeypatch.setenv("HF_TOKEN", a_hub.token)
    a_hub.granted = {"MahmoodLab/UNI"}
    finding = look("gated encoders", hub=True)
    assert finding.state == "warn"
    assert finding.found.startswith("access: uni; no access: uni2-h, ")
    assert f"{endpoint()}/MahmoodLab/UNI2-h" in finding.remedy
    assert look("gated encoders", hub=True, encoder="uni").state == "ok"
    assert look("gated encoders", hub=True, encoder="phikon-v2") is None
    a_hub.granted = {recipe.repository for recipe in GATED}
    assert look("gated encoders", hub=True).state == "ok"


def endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


# The process


def test_few_open_files(only):
    only("open files")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1023, hard))
        finding = look("open files")
        assert finding.state == "warn"
        assert finding.remedy.startswith("ulimit -n ")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert look("open files").state == "ok"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_limit_of_open_files(only, monkeypatch):
    only("open files")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert look("open files")[1:3] == ("ok", "no limit")


def test_a_slurm_job(monkeypatch, only, tmp_path):
    only("SLURM")
    assert look("SLURM") is None
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look("SLURM").found.startswith("job 12, time left unknown; `#SBATCH --signal=B:USR2@120`")
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 1-02:03:04\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    finding = look("SLURM")
    assert finding.state == "ok"
    assert finding.found.startswith("job 12, task 3 of the 4 of array 10, time left 1-02:03:04; ")
