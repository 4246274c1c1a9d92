"""Jobs that fill one cache at once: they divide the work, none waits, and a dead one costs nothing but order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made import encoder_description

from ds2c_cli.cache import claims as module
from ds2c_cli.cache.claims import Claims
from ds2c_cli.cache.inventory import holdings
from ds2c_cli.cache.maintenance import merge, verify
from ds2c_cli.cache.store import Cache
from ds2c_cli.embeddings import pipeline
from ds2c_cli.embeddings.embed import Embedded, embed
from ds2c_cli.embeddings.tiles import BLOCK_TILES, plan, tiles_of
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Embedding, Geometry

pytestmark = pytest.mark.usefixtures("scratch")
COLOUR = Embedding(encoder="colour")


@pytest.fixture
def project(painted: Path, tmp_path: Path) -> Project:
    home = Project(tmp_path / "project")
    for name in ("one", "two"):
        sources = Sources(painted / name / "slide.tif", str(painted / name / "cells.parquet"))
        prepare(home, sources, geometry=Geometry(membership="centroid"), sample=name, donor=name, cohort="test")
    return home


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)


def blocks_claimed(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("claims/*") if path.name != module.ASKED]


def run(project: Project, cache: Path, *samples: str) -> Embedded:
    return embed(Workspace(project, cache=cache, device="cpu"), COLOUR, samples=samples)


# Claims


def test_a_block_is_claimed_once(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path), Claims(tmp_path)
    assert mine.take("a")
    assert not theirs.take("a")
    assert theirs.take("b")
    mine.close()
    assert theirs.take("a")


def test_closing_withdraws_only_ones_own(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path), Claims(tmp_path)
    mine.take("a")
    theirs.take("b")
    mine.close()
    assert [path.name for path in blocks_claimed(tmp_path)] == ["b"]


def test_a_block_is_begun_once_whoever_claimed_it(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path), Claims(tmp_path)
    mine.take("a")
    assert theirs.begin("a")
    assert not mine.begin("a")
    theirs.close()
    assert mine.begin("a")


def test_an_old_claim_is_a_dead_jobs(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path), Claims(tmp_path)
    mine.take("a")
    long_ago = time.time() - 2 * module.STALE_SECONDS
    os.utime(tmp_path / "claims" / "a", (long_ago, long_ago))
    assert theirs.take("a")
    assert not Claims(tmp_path).take("a")


def test_who_asks_is_heard_once_and_not_by_oneself(tmp_path: Path) -> None:
    mine, theirs = Claims(tmp_path), Claims(tmp_path)
    assert not mine.asked()
    theirs.ask()
    assert mine.asked()
    assert not mine.asked()
    assert not theirs.asked()
    assert not Claims(tmp_path).asked()  # asked before this job began


def test_a_folder_that_cannot_hold_claims_does_not_stop_the_work(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    (tmp_path / "claims").rmdir()
    assert claims.take("a")
    claims.ask()
    assert not claims.asked()
    claims.close()


# Jobs


def test_claims_are_withdrawn_at_the_end(project: Project, tmp_path: Path) -> None:
    done = run(project, tmp_path / "cache")
    assert done.encoded == done.tiles
    assert not blocks_claimed(tmp_path / "cache")


def test_what_a_dead_job_had_claimed_is_done_at_the_end(project: Project, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(project, tmp_path / "other")
    claims = Claims(cache / "v1" / next((tmp_path / "other" / "v1").iterdir()).name)
    for sample in project.samples():
        _, keys = tiles_of(sample, encoder_description(tile_px=0))
        for key in keys:
            claims.take(key.hex())  # whichever names the block
    done = run(project, cache)
    assert done.encoded == done.tiles
    assert done.cached == 0


def test_what_another_job_has_claimed_and_not_begun_is_taken_over_at_once(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(pipeline, "_give_time", lambda blocks, *_, **__: waited.append(len(blocks)))
    cache = tmp_path / "cache"
    run(project, tmp_path / "other")
    claims = Claims(cache / "v1" / next((tmp_path / "other" / "v1").iterdir()).name)
    blocks, _ = plan(project.samples(), Cache(cache, claims._folder.parent.name, 1), encoder_description(tile_px=0))
    for block in blocks:
        claims.take(block.name)
    claims.begin(blocks[0].name)
    done = run(project, cache)
    assert waited == [1]
    assert done.encoded == done.tiles


def test_the_wait_for_what_another_job_has_begun_ends_when_it_is_there(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_SECONDS", (1e6, 1e6))
    monkeypatch.setattr(pipeline, "ASK_SECONDS", 0.0)
    run(project, tmp_path / "other")
    cache = tmp_path / "cache"
    fingerprint = next((tmp_path / "other" / "v1").iterdir()).name
    claims = Claims(cache / "v1" / fingerprint)
    blocks, _ = plan(project.samples(), Cache(cache, fingerprint, 1), encoder_description(tile_px=0))
    claims.begin(blocks[0].name)

    def publish(_: float) -> None:
        with monkeypatch.context() as quick:
            quick.setattr(pipeline, "PATIENCE_SECONDS", (0.0, 0.0))
            if claims.asked():
                run(project, cache)

    monkeypatch.setattr(pipeline, "sleep", publish)
    done = run(project, cache)
    assert done.encoded == done.tiles - len(blocks[0].keys)


def test_the_parts_of_a_dense_block_are_even_and_the_whole(project: Project, tmp_path: Path) -> None:
    blocks, tiles = plan(project.samples(), Cache(tmp_path, "f", 1), encoder_description(tile_px=0))
    sizes = [len(block.keys) for block in blocks]
    assert sum(sizes) == tiles
    assert max(sizes) <= BLOCK_TILES
    assert len({key for block in blocks for key in block.keys}) == tiles


def test_what_others_publish_meanwhile_is_not_encoded_again(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job publishes the second slide while this one is at the first."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(pipeline, "LOOK_SECONDS", 0.0)
    other: list[Embedded] = []

    def meanwhile(stage: str, done: int, total: int, facts: str = "") -> None:
        if not other:
            other.append(Embedded("", "", 0))
            other[0] = run(project, cache, "two")

    monkeypatch.setattr(pipeline, "_readers", lambda device: 0)
    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", Lazily)
    done = embed(Workspace(project, cache=cache, device="cpu", progress=meanwhile), COLOUR, samples=["one", "two"])
    assert other[0].encoded > 0
    assert done.encoded + other[0].encoded == done.tiles
    assert done.cached == other[0].encoded


class Lazily:
    """A pool of no threads: what is submitted is done when its result is asked for."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, work, *args):
        return type("Later", (), {"result": lambda self: work(*args)})()

    def shutdown(self, cancel_futures: bool) -> None: ...


def test_one_that_is_asked_publishes_at_once(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    seen: list[int] = []

    def ask(stage: str, done: int, total: int, facts: str = "") -> None:
        if 0 < done < total:
            (folder,) = (cache / "v1").iterdir()
            seen.append(sum(1 for _ in folder.glob("seg-*.mdb")))
            Claims(folder).ask()

    embed(Workspace(project, cache=cache, device="cpu", progress=ask), COLOUR)
    assert seen[0] == 0
    assert seen[-1] > 0


@pytest.mark.parametrize("kill", [False, True])
def test_jobs_with_the_same_work_end_with_every_tile_once_or_little_more(
    project: Project, tmp_path: Path, kill: bool
) -> None:
    """Real processes, of which one is killed; `benchmarks/killed.py` does it at length."""
    cache = tmp_path / "cache"
    env = os.environ | {"DS2C_CACHE": str(cache), "DS2C_PROJECT": str(project.root), "OMP_NUM_THREADS": "1"}
    (tmp_path / "scratch").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "ds2c_cli", "embed", "--encoder", "colour", "--device", "cpu"]
    jobs = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    if kill:
        end = time.monotonic() + 60
        while not any(cache.rglob("claims/*")) and time.monotonic() < end:
            time.sleep(0.01)
        jobs[0].kill()
    told = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs[1:]] == [0, 0], told
    reference = run(project, tmp_path / "reference")
    keys = [key for sample in project.samples() for key in tiles_of(sample, encoder_description(tile_px=0))[1]]
    here, there = (
        Cache(root, reference.fingerprint, reference.dimension).get(keys) for root in (cache, tmp_path / "reference")
    )
    assert np.array_equal(here, there)
    assert not any(one.damage for one in verify(cache))
    merge(cache, grace_hours=0)
    assert sum(one.tiles for one in holdings(cache)) == len(set(keys))
