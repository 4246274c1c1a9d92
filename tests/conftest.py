"""What several tests share: painted slides, a project that ran the whole chain, the command line, the real data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from ds2c_cli import cli
from ds2c_cli.demo.tissue import paint_sample

DATA = Path(__file__).parents[2] / "shared" / "data"

# The same examples every time, and no clock: these machines are shared.
settings.register_profile("ds2c", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("ds2c")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def ds2c(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command line in this process, through its real entry point."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ds2c", *map(str, words)])
        monkeypatch.setattr(cli, "_stop_on_signals", lambda: None)  # pytest keeps its own signals
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Local scratch of this test alone."""
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a cache may be made."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generated slides with cells and counts: one/ and two/, 1,024 pixels per side."""
    folder = tmp_path_factory.mktemp("painted")
    for name, seed in (("one", 1), ("two", 2)):
        paint_sample(folder / name, seed=seed, size_px=1024)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """../shared/data, or a skip."""
    if not DATA.exists():
        pytest.skip(f"the real data {DATA} is not on this machine")
    return DATA
