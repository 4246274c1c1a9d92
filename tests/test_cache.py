"""The embedding cache: what goes in comes out, whoever writes, dies or damages what."""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import os
import re
import resource
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds2c_cli.cache import segments as on_disk
from ds2c_cli.cache import store as module
from ds2c_cli.cache.segments import PACK, SlideName
from ds2c_cli.cache.store import Cache, Damage, MissingEmbeddings, tile_keys
from ds2c_cli.errors import Ds2cError, InputError, Stopped
from ds2c_cli.project import default_cache

DIMENSION = 24
SLIDE = SlideName("slide", "/data/slide.tif")
ABOUT = {"encoder": "phikon-v2", "dimension": DIMENSION}
PROCESSES = multiprocessing.get_context("fork")


pytestmark = pytest.mark.usefixtures("scratch")


def opened(root: Path, dimension: int = DIMENSION) -> Cache:
    return Cache(root, "f1", dimension)


def tiles(n: int, start: int = 0) -> list[bytes]:
    """Keys of tiles start to start + n of a slide."""
    x = np.arange(start, start + n)
    return tile_keys("slide", np.column_stack([x, x, np.full(n, 50)]), tile_px=224)


def embeddings(n: int, start: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """The vectors of those tiles: each says which tile it is of."""
    x = np.arange(start, start + n)[:, None]
    return (np.sin(x * 0.7 + np.arange(dimension)) + x % 100).astype(np.float16)


def filled(root: Path, n: int, start: int = 0) -> Cache:
    """A cache to which a writer has just added a segment of n tiles."""
    cache = opened(root)
    with cache.writer(ABOUT) as writer:
        writer.append(SLIDE, tiles(n, start), embeddings(n, start))
    return cache


def segments(root: Path) -> list[Path]:
    return sorted((root / "v1" / "f1").glob("seg-*.mdb"))


def private(scratch: Path) -> list[Path]:
    return sorted(path for path in scratch.rglob("seg-*") if path.is_file())


def overwrite(path: Path, content: bytes) -> None:
    """Damage a segment, which no writer of ours ever does."""
    path.unlink()
    path.write_bytes(content)


def flip(path: Path, wanted: np.ndarray) -> None:
    """Flip a bit in the middle of a vector."""
    content = bytearray(path.read_bytes())
    at = content.index(wanted.tobytes())
    assert at > 0
    content[at + wanted.nbytes // 2] ^= 4
    overwrite(path, bytes(content))


@contextmanager
def limited(what: int, value: int) -> Iterator[None]:
    """Run with a lower resource limit."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def killed(work: Callable[[], None]) -> None:
    """Do the work in another process, then kill it with SIGKILL."""
    done = PROCESSES.Event()

    def run() -> None:
        work()
        done.set()
        while True:
            pass

    process = PROCESSES.Process(target=run)
    process.start()
    assert done.wait(20)
    process.kill()
    process.join()


# Keys


def test_a_key_covers_slide_box_and_target_size() -> None:
    box = np.array([[10, 20, 50]])
    keys = {
        tile_keys("slide", box, tile_px=224)[0],
        tile_keys("slide", box, tile_px=256)[0],
        tile_keys("other", box, tile_px=224)[0],
        *(tile_keys("slide", box + shift, tile_px=224)[0] for shift in np.eye(3, dtype=np.int64)),
        tile_keys("slide", -box, tile_px=224)[0],  # over the border
    }
    assert len(keys) == 7
    assert {len(key) for key in keys} == {16}


def test_keys_do_not_change_between_releases() -> None:
    """Or every cache there is would be empty."""
    boxes = np.array([[10, -20, 50]], np.int32)
    assert tile_keys("slide", boxes, tile_px=224)[0].hex() == "c272a6c5b7459c4bea46566cdfc74db4"
    packed = b"slide\0" + b"224\0" + np.array([10, -20, 50], "<i8").tobytes()
    assert tile_keys("slide", boxes, tile_px=224) == [hashlib.blake2b(packed, digest_size=16).digest()]


def test_keys_are_of_whole_pixels() -> None:
    assert tile_keys("slide", np.empty((0, 3), np.int64), tile_px=224) == []
    with pytest.raises(ValueError, match="whole numbers"):
        tile_keys("slide", np.array([[0.5, 1, 2]]), tile_px=224)


# What goes in comes out


@given(sizes=st.lists(st.integers(0, 600), max_size=4), dimension=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(sizes: list[int], dimension: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), "f1", dimension)
        n, start = sum(sizes), 0
        vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
        with cache.writer({}) as writer:
            for size in sizes:
                writer.append(SLIDE, tiles(size, start), vectors[start : start + size])
                start += size
        assert writer.tiles == n
        assert not cache.missing(tiles(n)).any()
        assert np.array_equal(cache.get(tiles(n)), vectors.astype(np.float16))


def test_vectors_come_in_the_order_of_the_keys_however_often(root: Path) -> None:
    for start in (0, 700, 1400):
        filled(root, 700, start)
    wanted = np.random.default_rng(0).integers(0, 2100, 3000)
    keys = tiles(2100)
    assert np.array_equal(opened(root).get([keys[i] for i in wanted]), embeddings(2100)[wanted])


def test_no_keys_no_vectors(root: Path) -> None:
    assert opened(root).get([]).shape == (0, DIMENSION)
    assert opened(root).missing([]).shape == (0,)


def test_missing_looks_through_all_segments(root: Path) -> None:
    filled(root, 300, 0)
    filled(root, 10, 500)
    filled(root, 600, 400)  # holds the ten again
    expected = np.ones(1200, bool)
    expected[:300] = expected[400:1000] = False
    cache = opened(root)
    assert np.array_equal(cache.missing(tiles(1200)), expected)
    assert np.array_equal(cache.get(tiles(10, 500)), embeddings(10, 500))


def test_absent_vectors_are_counted(root: Path) -> None:
    cache = filled(root, 300)
    with pytest.raises(MissingEmbeddings, match="200 of 500 tiles have no embedding") as caught:
        cache.get(tiles(500) + tiles(50, 400))
    assert caught.value.count == 200
    assert caught.value.exit_code == 3
    assert "ds2c embed" in caught.value.hint


def test_keys_of_another_length_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        opened(root).missing([b"short"])


def test_vectors_that_float16_cannot_hold_are_refused(root: Path) -> None:
    cache = opened(root)
    vectors = embeddings(5).astype(np.float32)
    vectors[1, 3], vectors[2, 0], vectors[4, 1] = np.nan, 1e6, -np.inf
    writer = cache.writer(ABOUT)
    with pytest.raises(InputError, match="3 of 5 embeddings hold values that are NaN or too large for float16"):
        writer.append(SLIDE, tiles(5), vectors)
    writer.publish()
    assert cache.missing(tiles(5)).all()
    assert not segments(root)


def test_vectors_of_another_dimension_are_refused(root: Path) -> None:
    with opened(root).writer(ABOUT) as writer, pytest.raises(ValueError, match="dimension 24"):
        writer.append(SLIDE, tiles(5), embeddings(5, dimension=23))


# Segments


def test_what_a_segment_says_of_itself(root: Path) -> None:
    filled(root, 300)
    (segment,) = segments(root)
    about = json.loads(segment.with_suffix(".json").read_text())
    assert about["tiles"] == 300
    assert about["bytes"] == segment.stat().st_size
    assert about["sha256"] == hashlib.sha256(segment.read_bytes()).hexdigest()
    assert stat.S_IMODE(segment.stat().st_mode) == 0o444
    assert json.loads((segment.parent / "encoder.json").read_text()) == ABOUT


def test_a_segment_is_newer_than_those_before_it_and_than_those_of_earlier_versions(root: Path) -> None:
    filled(root, 5)
    (first,) = segments(root)
    renamed = [path.rename(path.with_stem("seg-01KB7Y5X3MZ8V9QW2E4R6T0ASD")) for path in first.parent.glob("seg-*")]
    assert len(renamed) == 2
    with opened(root).writer(ABOUT) as writer:  # the same tiles again, otherwise
        writer.append(SLIDE, tiles(5), embeddings(5, 100))
    filled(root, 5, 10)
    named = [path.stem.removeprefix("seg-") for path in segments(root)]
    assert named[0].startswith("01KB")
    assert all(re.fullmatch(r"\d{8}T\d{12}_[0-9a-f]{16}", name) for name in named[1:])
    assert np.array_equal(opened(root).get(tiles(5)), embeddings(5, 100))


def test_no_vectors_no_segment(root: Path, scratch: Path) -> None:
    with opened(root).writer(ABOUT) as writer:
        writer.append(SLIDE, [], np.empty((0, DIMENSION)))
    assert not segments(root)
    assert not private(scratch)


def test_a_reader_sees_what_was_published_since_after_refresh(root: Path) -> None:
    reader = opened(root)
    filled(root, 300)
    assert reader.missing(tiles(300)).all()
    reader.refresh()
    assert np.array_equal(reader.get(tiles(300)), embeddings(300))


def test_two_writers_at_once_may_overlap(root: Path) -> None:
    cache, other = opened(root), opened(root)
    with cache.writer(ABOUT) as first, other.writer(ABOUT) as second:
        for start in range(0, 1000, 100):
            first.append(SLIDE, tiles(100, start), embeddings(100, start))
            second.append(SLIDE, tiles(100, start + 500), embeddings(100, start + 500))
    assert len(segments(root)) == 2
    assert np.array_equal(opened(root).get(tiles(1500)), embeddings(1500))


def test_a_key_appended_twice_is_one_tile(root: Path) -> None:
    with opened(root).writer(ABOUT) as writer:
        for _ in range(2):
            writer.append(SLIDE, tiles(300), embeddings(300))
    assert json.loads(segments(root)[0].with_suffix(".json").read_text())["tiles"] == 300
    assert np.array_equal(opened(root).get(tiles(300)), embeddings(300))


@pytest.mark.parametrize("limit", ["bytes", "seconds"])
def test_a_large_or_old_segment_is_published_while_its_writer_goes_on(root: Path, limit: str) -> None:
    limits = {"most_bytes": 0} if limit == "bytes" else {"most_seconds": (0.0, 0.0)}
    with opened(root).writer(ABOUT, **limits) as writer:
        for start in (0, 300, 600):
            writer.append(SLIDE, tiles(300, start), embeddings(300, start))
        assert len(segments(root)) == 3
        assert np.array_equal(opened(root).get(tiles(900)), embeddings(900))
    assert len(segments(root)) == 3


def test_disk_space(root: Path) -> None:
    """5,000 vectors of 224 dimensions take 1.16 times their raw size."""
    cache = Cache(root, "f1", 224)
    with cache.writer({}) as writer:
        for start in range(0, 5000, 64):
            n = min(64, 5000 - start)
            writer.append(SLIDE, tiles(n, start), embeddings(n, start, 224))
    assert segments(root)[0].stat().st_size / (5000 * 224 * 2) < 1.2


def test_a_cache_of_another_dimension_is_refused(root: Path) -> None:
    filled(root, 5)
    with pytest.raises(Ds2cError, match="24 dimensions, the encoder gives 32"):
        opened(root, 32)


def test_a_damaged_description_is_an_error(root: Path) -> None:
    filled(root, 5)
    (root / "v1" / "f1" / "encoder.json").write_text("{")
    with pytest.raises(Ds2cError, match=r"encoder\.json is damaged"):
        opened(root)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS2C_CACHE", "/shared/ds2c")
    assert default_cache() == Path("/shared/ds2c")
    monkeypatch.delenv("DS2C_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/a/.xdg")
    assert default_cache() == Path("/home/a/.xdg/ds2c")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "ds2c"


# Writers that end early


def test_a_signal_keeps_what_was_appended(root: Path) -> None:
    def work() -> None:
        with opened(root).writer(ABOUT) as writer:
            writer.append(SLIDE, tiles(300), embeddings(300))
            raise Stopped(15)

    with pytest.raises(Stopped):
        work()
    assert np.array_equal(opened(root).get(tiles(300)), embeddings(300))


def test_a_killed_writer_loses_at_most_its_last_pack(root: Path, scratch: Path) -> None:
    def work() -> None:
        writer = opened(root).writer(ABOUT)
        for start in range(0, 1000, 100):
            writer.append(SLIDE, tiles(100, start), embeddings(100, start))

    killed(work)
    assert not segments(root)
    assert len(private(scratch)) == 1

    cache = opened(root)
    keys = tiles(1000)
    lost = cache.missing(keys)
    assert lost.sum() < PACK
    kept = np.flatnonzero(~lost)
    assert np.array_equal(cache.get([keys[i] for i in kept]), embeddings(1000)[kept])
    assert not private(scratch)

    with cache.writer(ABOUT) as writer:  # and the same command goes on from there
        absent = np.flatnonzero(lost)
        writer.append(SLIDE, [keys[i] for i in absent], embeddings(1000)[absent])
    assert np.array_equal(cache.get(keys), embeddings(1000))


def test_a_killed_slow_writer_loses_seconds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack takes minutes to fill on a CPU; what waited long enough is committed before."""
    monkeypatch.setattr(module, "BEHIND_SECONDS", 0.0)

    def work() -> None:
        writer = opened(root).writer(ABOUT)
        for start in (0, 3, 6):
            writer.append(SLIDE, tiles(3, start), embeddings(3, start))

    killed(work)
    assert np.array_equal(opened(root).get(tiles(9)), embeddings(9))


def test_recover_says_how_many(root: Path) -> None:
    cache = opened(root)
    killed(lambda: opened(root).writer(ABOUT).append(SLIDE, tiles(512), embeddings(512)))
    assert cache.recover() == 512
    assert cache.recover() == 0
    assert np.array_equal(cache.get(tiles(512)), embeddings(512))


def test_another_cache_or_encoder_does_not_adopt_it(root: Path, tmp_path: Path) -> None:
    killed(lambda: opened(root).writer(ABOUT).append(SLIDE, tiles(512), embeddings(512)))
    assert Cache(tmp_path / "other", "f1", DIMENSION).recover() == 0
    assert Cache(root, "f2", DIMENSION).recover() == 0
    assert opened(root).missing(tiles(512)).sum() == 0


def test_a_living_writer_keeps_its_segment(root: Path) -> None:
    with opened(root).writer(ABOUT) as writer:
        writer.append(SLIDE, tiles(512), embeddings(512))
        assert opened(root).recover() == 0
        recovered = PROCESSES.Value("i", -1)

        def elsewhere() -> None:
            recovered.value = opened(root).recover()

        process = PROCESSES.Process(target=elsewhere)
        process.start()
        process.join()
        assert recovered.value == 0
        assert not segments(root)
    assert np.array_equal(opened(root).get(tiles(512)), embeddings(512))


def test_a_writer_killed_between_publishing_and_cleaning_up(root: Path, scratch: Path) -> None:
    filled(root, 300)
    (home,) = scratch.glob("ds2c-*/f1/*")
    (home / segments(root)[0].name).write_bytes(segments(root)[0].read_bytes())
    assert opened(root).recover() == 0
    assert len(segments(root)) == 1
    assert not private(scratch)


def test_a_writer_killed_while_publishing(root: Path, scratch: Path) -> None:
    cache = opened(root)
    killed(lambda: cache.writer(ABOUT).append(SLIDE, tiles(512), embeddings(512)))
    half = cache.folder / f".{private(scratch)[0].name}.123.part"
    half.write_bytes(b"half of it")
    assert cache.recover() == 512
    assert not half.exists()
    assert np.array_equal(cache.get(tiles(512)), embeddings(512))


@pytest.mark.parametrize("content", [b"", b"no database", bytes(8192)])
def test_rubbish_on_scratch_does_no_harm(root: Path, scratch: Path, content: bytes) -> None:
    filled(root, 300)
    (home,) = scratch.glob("ds2c-*/f1/*")
    (home / "seg-0.mdb").write_bytes(content)
    assert np.array_equal(filled(root, 10, 300).get(tiles(310)), embeddings(310))
    assert not private(scratch)


def test_a_scratch_folder_of_somebody_else_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(Ds2cError, match="belongs to another user"):
        opened(root).writer(ABOUT)


# Disks


def test_scratch_full(root: Path) -> None:
    writer = opened(root).writer(ABOUT)

    def work() -> None:
        with writer:
            for start in range(0, 10_000, 256):
                writer.append(SLIDE, tiles(256, start), embeddings(256, start))

    with limited(resource.RLIMIT_FSIZE, 100_000), pytest.raises(Ds2cError, match="the disk is full") as caught:
        work()
    assert "Free some room" in caught.value.hint
    cache, keys = opened(root), tiles(10_000)
    kept = np.flatnonzero(~cache.missing(keys))
    assert len(kept) == writer.tiles - 256 > 0  # all but what met the full disk
    assert np.array_equal(cache.get([keys[i] for i in kept]), embeddings(10_000)[kept])


def test_cache_full(root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(root)
    writer = cache.writer(ABOUT)
    writer.append(SLIDE, tiles(512), embeddings(512))
    segment = cache.folder / private(scratch)[0].name
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0")
    full = cache.folder / f".{segment.name}.{os.getpid()}.0.part"  # where `replacing` writes
    full.symlink_to("/dev/full")
    with pytest.raises(Ds2cError, match="the disk is full") as caught:
        writer.publish()
    assert str(cache.folder) in caught.value.message
    assert not segments(root)
    full.unlink(missing_ok=True)
    assert np.array_equal(opened(root).get(tiles(512)), embeddings(512))


def test_a_cache_that_is_no_folder(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(Ds2cError, match="cannot be read"):
        opened(root)


def test_a_cache_that_cannot_be_written_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before hours of encoding, not after."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root everything can be written to
    with pytest.raises(Ds2cError, match=r"cache/v1/f1 cannot be written to .*Permission denied"):
        opened(root).writer(ABOUT)


def test_more_segments_than_open_files_is_an_error_not_damage(root: Path) -> None:
    for start in range(8):
        filled(root, 1, start)
    cache = opened(root)
    with (
        limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 3),
        pytest.raises(Ds2cError, match="more segments than"),
    ):
        cache.missing(tiles(9))
    assert not cache.damaged
    assert cache.missing(tiles(9)).sum() == 1


# Damage


def test_a_damaged_pack_is_found_and_can_be_made_again(root: Path) -> None:
    filled(root, 1000)
    (segment,) = segments(root)
    flip(segment, embeddings(1, 300)[0])
    cache = opened(root)
    assert not cache.missing(tiles(1000)).any()  # nobody has looked yet
    with pytest.raises(MissingEmbeddings) as caught:
        cache.get(tiles(1000))
    assert caught.value.count == PACK
    assert cache.damaged == [Damage(segment.name, 1, PACK)]

    lost = np.flatnonzero(opened(root).missing(tiles(1000)))  # a later run knows
    assert np.array_equal(lost, np.arange(PACK, 2 * PACK))
    with opened(root).writer(ABOUT) as writer:
        writer.append(SLIDE, [tiles(1000)[i] for i in lost], embeddings(1000)[lost])
    cache.refresh()
    assert np.array_equal(cache.get(tiles(1000)), embeddings(1000))
    assert len(cache.damaged) == 1


def test_another_copy_is_used(root: Path) -> None:
    filled(root, 1000)
    filled(root, 600)
    newest = segments(root)[-1]
    flip(newest, embeddings(1, 300)[0])
    cache = opened(root)
    assert np.array_equal(cache.get(tiles(1000)), embeddings(1000))
    assert cache.damaged == [Damage(newest.name, 1, PACK)]
    assert not cache.missing(tiles(1000)).any()


def test_an_index_that_points_to_the_wrong_vector_is_found(root: Path) -> None:
    filled(root, 300)
    (segment,) = segments(root)
    segment.chmod(0o644)
    with lmdb.open(str(segment), subdir=False, lock=False, max_dbs=2) as environment:
        index = environment.open_db(b"index")
        with environment.begin(db=index, write=True) as transaction:
            first, second = (transaction.get(key) for key in tiles(2))
            transaction.put(tiles(1)[0], second)
            transaction.put(tiles(2)[1], first)
    with pytest.raises(MissingEmbeddings):
        opened(root).get(tiles(300))


@pytest.mark.parametrize("kept", [0, 100, 4096, 8192, 20_000, -1])
def test_a_cut_off_segment_is_skipped_and_said(root: Path, kept: int) -> None:
    filled(root, 1000)
    filled(root, 500, 800)
    first = segments(root)[0]
    overwrite(first, first.read_bytes()[:kept])
    cache = opened(root)
    assert np.array_equal(cache.missing(tiles(1300)), np.arange(1300) < 800)
    assert cache.damaged == [Damage(first.name, None, 800)]
    assert np.array_equal(cache.get(tiles(500, 800)), embeddings(500, 800))


def test_a_segment_merged_away_is_not_damage(root: Path) -> None:
    cache = filled(root, 300)
    filled(root, 300, 300)
    cache.refresh()
    segments(root)[1].unlink()
    assert cache.missing(tiles(600)).sum() == 300
    assert not cache.damaged


def test_damage_anywhere_never_gives_a_wrong_vector(root: Path) -> None:
    """A byte, a page of zeros and a cut, at random places of a segment."""
    filled(root, 600)
    (segment,) = segments(root)
    whole = segment.read_bytes()
    random, keys = np.random.default_rng(0), tiles(600)
    for case in range(90):
        content = bytearray(whole)
        at = int(random.integers(len(content)))
        if case % 3 == 0:
            content[at] ^= 1 << int(random.integers(8))
        elif case % 3 == 1:
            content[at & ~4095 : (at | 4095) + 1] = bytes(4096)
        else:
            del content[at:]
        for mark in segment.parent.glob("*.damaged-*"):
            mark.unlink()
        overwrite(segment, bytes(content))
        cache = opened(root)
        there = np.flatnonzero(~cache.missing(keys))
        try:
            assert np.array_equal(cache.get([keys[i] for i in there]), embeddings(600)[there])
        except MissingEmbeddings:
            assert cache.damaged
        del cache  # the next case is a new file of the same name, which a published segment never becomes


# Processes


def test_a_forked_process_reads_with_its_own_environment(root: Path) -> None:
    cache = filled(root, 600)
    expected = cache.get(tiles(600))
    same = PROCESSES.Value("i", 0)

    def read() -> None:
        same.value = np.array_equal(cache.get(tiles(600)), expected)

    for _ in range(2):
        process = PROCESSES.Process(target=read)
        process.start()
        assert np.array_equal(cache.get(tiles(600)), expected)
        process.join()
        assert process.exitcode == 0
        assert same.value
        same.value = 0
    assert np.array_equal(cache.get(tiles(600)), expected)


def test_no_pickles_anywhere(root: Path) -> None:
    filled(root, 300)
    assert {path.suffix for path in root.rglob("*") if path.is_file()} == {".mdb", ".json"}
    for source in (module, on_disk):
        tree = ast.parse(Path(source.__file__).read_text())
        imported = {
            name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        }
        assert not imported & {"pickle", "torch", "shelve", "joblib"}
        assert not any(isinstance(node, ast.Attribute) and node.attr == "load" for node in ast.walk(tree))
