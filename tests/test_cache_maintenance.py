"""Looking after the cache: info, verify, merge, prune, export and import lose nothing that they should keep."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Ran
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cache import ABOUT, DIMENSION, embeddings, flip, opened, overwrite, segments, tiles

from ds2c_cli.cache import inventory
from ds2c_cli.cache import maintenance as upkeep
from ds2c_cli.cache.segments import PACK, SlideName, salvage
from ds2c_cli.cache.store import Cache
from ds2c_cli.cache.transfer import export_slide, import_slide
from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.project import Workspace
from ds2c_cli.settings import Embedding, Geometry

pytestmark = pytest.mark.usefixtures("scratch")

ONE, TWO = SlideName("a" * 64, "/data/one.tif"), SlideName("b" * 64, "/data/zwei é.svs")


def filled(root: Path, n: int, start: int = 0, slide: SlideName = ONE) -> None:
    """A segment of n tiles of a slide."""
    with opened(root).writer(ABOUT) as writer:
        writer.append(slide, tiles(n, start), embeddings(n, start))


def live(root: Path) -> list[Path]:
    """Segments that readers look at."""
    (encoder,) = inventory.encoders(root)
    return [segment.path for segment in encoder.segments()]


def held_by(root: Path) -> dict[str, int]:
    return {one.path: one.tiles for one in inventory.holdings(root)}


# What a cache holds


def test_tiles_and_bytes_by_slide(root: Path) -> None:
    with opened(root).writer(ABOUT) as writer:
        writer.append(ONE, tiles(300), embeddings(300))
        writer.append(TWO, tiles(100, 300), embeddings(100, 300))
        writer.append(ONE, tiles(50, 400), embeddings(50, 400))
    filled(root, 10, 900, TWO)
    one, two = inventory.holdings(root)
    assert (one.slide, one.path, one.tiles) == (*ONE, 350)
    assert (two.slide, two.path, two.tiles) == (*TWO, 110)
    assert abs(one.bytes + two.bytes - sum(path.stat().st_size for path in segments(root))) < 3
    assert np.array_equal(opened(root).get(tiles(450)), embeddings(450))


def test_an_encoder_by_name_or_fingerprint(root: Path) -> None:
    filled(root, 5)
    with Cache(root, "f2", 3).writer({"encoder": "uni"}) as writer:
        writer.append(TWO, tiles(5), np.ones((5, 3)))
    assert [one.encoder for one in inventory.holdings(root)] == ["phikon-v2", "uni"]
    assert [one.encoder for one in inventory.holdings(root, "uni")] == ["uni"]
    assert [one.encoder for one in inventory.holdings(root, "f1")] == ["phikon-v2"]
    with pytest.raises(InputError, match=r"no embeddings of virchow \(it has: phikon-v2, uni\)"):
        inventory.holdings(root, "virchow")


def test_nothing_is_no_error(root: Path) -> None:
    assert inventory.holdings(root) == upkeep.verify(root) == upkeep.merge(root) == []


def test_a_segment_without_its_description_is_still_read_and_counted_as_nobodys(root: Path) -> None:
    filled(root, 300)
    segments(root)[0].with_suffix(".json").unlink()
    (one,) = inventory.holdings(root)
    assert (one.slide, one.tiles) == ("", 0)
    assert one.bytes == segments(root)[0].stat().st_size
    (found,) = upkeep.verify(root)
    assert (found.damage, found.rescued) == ("the file that describes it is gone", 300)
    assert held_by(root) == {ONE.path: 300}


# Verify


def test_a_sound_cache_is_left_as_it_is(root: Path) -> None:
    filled(root, 300)
    (segment,) = segments(root)
    (segment.parent / f"{segment.name}.damaged-0").touch()  # a read that failed once
    before = segment.read_bytes()
    (found,) = upkeep.verify(root)
    assert not found.damage
    assert segment.read_bytes() == before
    assert not list(segment.parent.glob("*.damaged-*"))


def test_a_damaged_pack_goes_to_quarantine_and_the_others_stay(root: Path) -> None:
    filled(root, 1000)
    filled(root, 400, 1000, TWO)
    first, _ = segments(root)
    flip(first, embeddings(1, 300)[0])
    (dry, _) = upkeep.verify(root, dry_run=True)
    assert segments(root)[0] == first

    found, sound = upkeep.verify(root)
    assert found == dry
    assert not sound.damage
    assert found.rescued == 1000 - PACK
    assert found.lost == [{"slide": ONE.fingerprint, "path": ONE.path, "tiles": PACK}]
    cache = opened(root)
    lost = np.flatnonzero(cache.missing(tiles(1400)))
    assert np.array_equal(lost, np.arange(PACK, 2 * PACK))
    kept = np.setdiff1d(np.arange(1400), lost)
    assert np.array_equal(cache.get([tiles(1400)[i] for i in kept]), embeddings(1400)[kept])
    assert [path.name for path in (first.parent / "quarantine").iterdir()] == [first.name]
    assert not any(one.damage for one in upkeep.verify(root))


def test_packs_are_rescued_from_a_segment_whose_tree_is_gone(root: Path) -> None:
    filled(root, 1000)
    (segment,) = segments(root)
    content = bytearray(segment.read_bytes())
    for page in range(0, len(content), 4096):
        if content[page + 10] in (1, 2, 8):  # flags of branch, leaf and meta pages; in a vector by chance
            content[page : page + 4096] = bytes(4096)
    overwrite(segment, bytes(content))
    assert opened(root).missing(tiles(1000)).all()
    (found,) = upkeep.verify(root)
    assert found.rescued >= 3 * PACK
    cache = opened(root)
    there = np.flatnonzero(~cache.missing(tiles(1000)))
    assert len(there) == found.rescued
    assert np.array_equal(cache.get([tiles(1000)[i] for i in there]), embeddings(1000)[there])


@given(case=st.integers(0, 3), at=st.floats(0, 1), seed=st.integers(0, 255))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_damage_verify_rescues_only_what_is_right(
    tmp_path_factory: pytest.TempPathFactory, case: int, at: float, seed: int
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    filled(root, 600)
    (segment,) = segments(root)
    content = bytearray(segment.read_bytes())
    place = int(at * (len(content) - 1))
    if case == 0:
        content[place] ^= 1 << seed % 8
    elif case == 1:
        content[place & ~4095 : (place | 4095) + 1] = bytes(4096)
    elif case == 2:
        del content[place:]
    else:
        content[place : place + 64] = bytes([seed]) * len(content[place : place + 64])
    overwrite(segment, bytes(content))
    (found,) = upkeep.verify(root)
    cache = opened(root)
    there = np.flatnonzero(~cache.missing(tiles(600)))
    assert np.array_equal(cache.get([tiles(600)[i] for i in there]), embeddings(600)[there])
    assert len(there) == (found.rescued if found.damage else 600)
    assert not any(one.damage for one in upkeep.verify(root))


def test_rubbish_holds_no_packs(tmp_path: Path) -> None:
    for content in (b"", b"short", bytes(10_000), os.urandom(50_000)):
        (tmp_path / "rubbish").write_bytes(content)
        assert not list(salvage(tmp_path / "rubbish", DIMENSION))


# Merge


def test_merging_keeps_every_tile_once(root: Path) -> None:
    for start in (0, 200, 400):
        filled(root, 300, start)
    filled(root, 50, 900, TWO)
    before = segments(root)
    (done,) = upkeep.merge(root, grace_hours=0)
    assert (done.segments_before, done.segments_after, done.skipped) == (4, 1, [])
    assert done.bytes_after < done.bytes_before
    assert not set(before) & set(segments(root))
    assert held_by(root) == {ONE.path: 700, TWO.path: 50}
    assert np.array_equal(opened(root).get(tiles(700)), embeddings(700))
    assert upkeep.merge(root, grace_hours=0)[0].segments_after == 1  # and again, with nothing to do
    assert [path.suffix for path in sorted(segments(root)[0].parent.iterdir())] == [".json", ".json", ".mdb"]


def test_the_newest_copy_of_a_tile_stays(root: Path) -> None:
    filled(root, 300)
    with opened(root).writer(ABOUT) as writer:
        writer.append(ONE, tiles(10), embeddings(10) + 1)
    upkeep.merge(root, grace_hours=0)
    assert np.array_equal(opened(root).get(tiles(10)), embeddings(10) + np.float16(1))
    assert np.array_equal(opened(root).get(tiles(290, 10)), embeddings(290, 10))


def test_a_reader_at_work_goes_on_while_segments_are_merged(root: Path) -> None:
    for start in (0, 300):
        filled(root, 300, start)
    early, late = opened(root), opened(root)
    assert np.array_equal(early.get(tiles(300)), embeddings(300))
    (done,) = upkeep.merge(root)  # replaced, but not yet deleted
    assert done.segments_after == 1
    assert done.bytes_waiting > 0
    assert len(segments(root)) == 3
    assert len(live(root)) == 1
    assert np.array_equal(early.get(tiles(600)), embeddings(600))
    upkeep.merge(root, grace_hours=0)
    assert len(segments(root)) == 1
    # `late` knows only what is gone now, and looks again.
    assert np.array_equal(late.get(tiles(600)), embeddings(600))
    assert not late.damaged


def test_replaced_segments_go_when_their_time_has_come(root: Path) -> None:
    for start in (0, 300):
        filled(root, 300, start)
    upkeep.merge(root, grace_hours=24)
    marks = list(segments(root)[0].parent.glob("*.replaced"))
    assert len(marks) == 2
    os.utime(marks[0], (time.time() - 25 * 3600,) * 2)
    upkeep.merge(root, grace_hours=24)
    assert len(segments(root)) == 2
    os.utime(marks[1], (time.time() - 25 * 3600,) * 2)
    upkeep.merge(root, grace_hours=24)
    assert segments(root) == live(root)
    assert np.array_equal(opened(root).get(tiles(600)), embeddings(600))


def test_a_damaged_segment_is_not_merged(root: Path) -> None:
    for start in (0, 300, 600):
        filled(root, 300, start)
    first = segments(root)[0]
    flip(first, embeddings(1, 20)[0])
    (done,) = upkeep.merge(root, grace_hours=0)
    assert done.skipped == [first.name]
    assert first in live(root)
    assert np.array_equal(opened(root).get(tiles(600, 300)), embeddings(600, 300))


def test_large_segments_are_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MERGED_BYTES", 160_000)
    filled(root, 1500)
    large = live(root)[0]
    for start in (1500, 1800):
        filled(root, 300, start)
    upkeep.merge(root, grace_hours=0)
    assert large in live(root)
    assert len(live(root)) == 2
    assert np.array_equal(opened(root).get(tiles(2100)), embeddings(2100))


def test_a_merge_killed_before_it_marked_what_it_merged_does_no_harm(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in (0, 300):
        filled(root, 300, start)

    def killed(path: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(upkeep, "mark_of", killed)
        with pytest.raises(KeyboardInterrupt):
            upkeep.merge(root, grace_hours=0)
    assert len(live(root)) == 3
    assert np.array_equal(opened(root).get(tiles(600)), embeddings(600))
    upkeep.merge(root, grace_hours=0)
    assert held_by(root) == {ONE.path: 600}


def test_litter_of_killed_publishers_goes_after_a_day(root: Path) -> None:
    filled(root, 5)
    fresh, old = (segments(root)[0].parent / f".seg-{name}.mdb.1.part" for name in ("A", "B"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    upkeep.merge(root)
    assert fresh.exists()
    assert not old.exists()


@pytest.mark.parametrize("dimension", [384, 1024, 1536])
def test_a_merged_vector_takes_little_more_than_its_numbers(root: Path, dimension: int) -> None:
    """At most 1.15 times two bytes a number, also when the work came in dribs and drabs."""
    keys, vectors = tiles(4000), np.random.default_rng(0).normal(size=(4000, dimension))
    for part in np.array_split(np.arange(4000), 8):
        with Cache(root, "f1", dimension).writer({"encoder": "x"}) as writer:
            writer.append(ONE, [keys[i] for i in part], vectors[part])
    upkeep.merge(root, grace_hours=0)
    (one,) = inventory.holdings(root)
    assert one.tiles == 4000
    assert one.bytes / (4000 * 2 * dimension) < 1.15


# Prune


def pruned(root: Path, **chosen: object) -> upkeep.Changed:
    wanted = str(chosen.pop("wanted", ""))
    doomed = upkeep.selection(root, wanted, **chosen)  # type: ignore[arg-type]
    (dry,) = upkeep.prune(root, wanted, doomed=doomed, dry_run=True)
    (done,) = upkeep.prune(root, wanted, doomed=doomed)
    assert dry.tiles_removed == done.tiles_removed
    return done


def test_prune_one_slide(root: Path) -> None:
    with opened(root).writer(ABOUT) as writer:
        writer.append(ONE, tiles(300), embeddings(300))
        writer.append(TWO, tiles(100, 300), embeddings(100, 300))
    filled(root, 50, 400, TWO)
    done = pruned(root, slides=[TWO.fingerprint[:6]])
    assert done.tiles_removed == 150
    assert held_by(root) == {ONE.path: 300}
    assert np.array_equal(opened(root).get(tiles(300)), embeddings(300))
    assert opened(root).missing(tiles(150, 300)).all()
    assert len(segments(root)) == 1


def test_prune_slides_that_nobody_knows(root: Path) -> None:
    filled(root, 300)
    filled(root, 100, 300, TWO)
    assert pruned(root, known={ONE.fingerprint}).tiles_removed == 100
    assert held_by(root) == {ONE.path: 300}


def test_prune_by_age(root: Path) -> None:
    filled(root, 300)
    filled(root, 100, 300, TWO)
    old = segments(root)[0].with_suffix(".json")
    old.write_text(json.dumps(json.loads(old.read_text()) | {"created": "2020-01-01T00:00:00+00:00"}))
    assert pruned(root, older_than_days=365).tiles_removed == 300
    assert held_by(root) == {TWO.path: 100}


def test_prune_to_a_size_takes_the_oldest(root: Path) -> None:
    for i, start in enumerate((0, 300, 600)):
        filled(root, 300, start)
        about = segments(root)[i].with_suffix(".json")
        about.write_text(json.dumps(json.loads(about.read_text()) | {"created": f"202{i}-01-01T00:00:00+00:00"}))
    most = sum(path.stat().st_size for path in segments(root)[1:])
    assert pruned(root, most_gb=most / 1e9).tiles_removed == 300
    assert opened(root).missing(tiles(900)).nonzero()[0].tolist() == list(range(300))


def test_prune_an_encoder(root: Path) -> None:
    filled(root, 300)
    with Cache(root, "f2", 3).writer({"encoder": "uni"}) as writer:
        writer.append(TWO, tiles(5), np.ones((5, 3)))
    pruned(root, wanted="phikon-v2")
    assert [one.encoder for one in inventory.holdings(root)] == ["uni"]
    assert not (root / "v1" / "f1").exists()


@pytest.mark.parametrize("chosen", [{}, {"slides": ["a"], "most_gb": 1.0}, {"slides": [""]}])
def test_prune_wants_to_know_what(root: Path, chosen: dict) -> None:
    filled(root, 5)
    with pytest.raises(UsageError, match="prune takes one of"):
        upkeep.selection(root, "", **chosen)


def test_prune_leaves_a_damaged_segment_that_it_would_have_to_copy(root: Path) -> None:
    with opened(root).writer(ABOUT) as writer:
        writer.append(ONE, tiles(300), embeddings(300))
        writer.append(TWO, tiles(100, 300), embeddings(100, 300))
    (segment,) = segments(root)
    flip(segment, embeddings(1, 20)[0])
    (done,) = upkeep.prune(root, "", doomed=upkeep.selection(root, "", slides=[TWO.fingerprint]))
    assert done.skipped == [segment.name]
    assert done.tiles_removed == 0
    assert segments(root) == [segment]


# Export and import


def test_a_slide_travels_in_one_file(root: Path, tmp_path: Path) -> None:
    filled(root, 300)
    filled(root, 300, 200)  # a hundred again
    filled(root, 50, 600, TWO)
    (encoder,) = inventory.encoders(root)
    done = export_slide(encoder, ONE.fingerprint, path=tmp_path / "one.h5")
    assert done.tiles == 500
    elsewhere = tmp_path / "elsewhere"
    assert import_slide(elsewhere, done.path, dry_run=True).added == 500
    assert not elsewhere.exists()
    added = import_slide(elsewhere, done.path)
    assert (added.tiles, added.added) == (500, 500)
    assert np.array_equal(opened(elsewhere).get(tiles(500)), embeddings(500))
    assert held_by(elsewhere) == {ONE.path: 500}
    assert json.loads((elsewhere / "v1" / "f1" / "encoder.json").read_text()) == ABOUT
    assert import_slide(elsewhere, done.path).added == 0


def test_an_export_is_plain_hdf5(root: Path, tmp_path: Path) -> None:
    filled(root, 300)
    (encoder,) = inventory.encoders(root)
    export_slide(encoder, ONE.fingerprint, path=tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as file:
        assert json.loads(file.attrs["encoder"])["encoder"] == "phikon-v2"
        order = [tiles(300).index(bytes(key)) for key in file["keys"][:]]
        assert np.array_equal(file["vectors"][:], embeddings(300)[order])


def test_nothing_to_export_is_an_error_and_no_file(root: Path, tmp_path: Path) -> None:
    filled(root, 3)
    (encoder,) = inventory.encoders(root)
    with pytest.raises(InputError, match="no sound phikon-v2 embedding"):
        export_slide(encoder, TWO.fingerprint, path=tmp_path / "two.h5")
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_a_damaged_export_is_refused_whole(root: Path, tmp_path: Path, place: float) -> None:
    filled(root, 2000)
    (encoder,) = inventory.encoders(root)
    path = export_slide(encoder, ONE.fingerprint, path=tmp_path / "one.h5").path
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="or a damaged one"):
        import_slide(tmp_path / "elsewhere", path)
    assert not list((tmp_path / "elsewhere").rglob("*.mdb"))


def damage_nothing(file: h5py.File) -> None:
    file.attrs["format"] = "something else"


def damage_version(file: h5py.File) -> None:
    file.attrs["version"] = 99


def damage_shape(file: h5py.File) -> None:
    file["vectors"].resize(10, axis=0)


def damage_values(file: h5py.File) -> None:
    file["vectors"][3, 4] = np.nan


def damage_place(file: h5py.File) -> None:
    file.attrs["encoder_fingerprint"] = "../../elsewhere"


@pytest.mark.parametrize("damage", [damage_nothing, damage_version, damage_shape, damage_values, damage_place])
def test_a_file_that_is_no_export_is_refused(root: Path, tmp_path: Path, damage: Callable[[h5py.File], None]) -> None:
    filled(root, 300)
    (encoder,) = inventory.encoders(root)
    path = export_slide(encoder, ONE.fingerprint, path=tmp_path / "one.h5").path
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=str(path)):
        import_slide(tmp_path / "elsewhere", path)
    assert not (tmp_path / "elsewhere").exists()


# The command line


@pytest.fixture
def project(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two samples, embedded, and its cache as DS2C_CACHE."""
    from ds2c_cli.embeddings.embed import embed
    from ds2c_cli.project import Project
    from ds2c_cli.samples.prepare import prepare
    from ds2c_cli.samples.sources import Sources

    home = Project(tmp_path / "project")
    for name in ("one", "two"):
        sources = Sources(painted / name / "slide.tif", str(painted / name / "cells.parquet"))
        prepare(home, sources, geometry=Geometry(membership="centroid"), sample=name, donor=name, cohort="test")
        embed(Workspace(home, cache=tmp_path / "cache", device="cpu"), Embedding(encoder="colour"), samples=[name])
    monkeypatch.setenv("DS2C_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DS2C_PROJECT", str(home.root))
    return home.root


def test_the_cache_on_the_command_line(ds2c: Callable[..., Ran], project: Path, tmp_path: Path) -> None:
    told = json.loads(ds2c("cache", "info", "--json").out)
    assert [one["path"].split("/")[-2] for one in sorted(told["holdings"], key=lambda one: one["path"])] == [
        "one",
        "two",
    ]
    assert "all sound" in ds2c("cache", "verify").err

    exported = ds2c("cache", "export", "one", "-o", tmp_path / "one.h5")
    assert exported.out == f"{tmp_path / 'one.h5'}\n"
    assert "would become 1" in ds2c("cache", "merge", "--dry-run").err
    assert "2 segments" in ds2c("cache", "merge", "--grace", "0").err

    slide = json.loads((project / "samples" / "one" / "sample.json").read_text())["slide_fingerprint"]
    refused = ds2c("cache", "prune", "--slide", slide[:12])
    assert refused.code == 2
    assert "--yes" in refused.err
    assert ds2c("cache", "prune", "--slide", slide[:12], "--yes").code == 0
    assert len(json.loads(ds2c("cache", "info", "--json").out)["holdings"]) == 1
    assert ds2c("cache", "import", tmp_path / "one.h5").code == 0
    assert ds2c("embed", "one", "two", "--encoder", "colour", "--device", "cpu").err.rstrip().endswith("0 encoded")


def test_prune_what_no_project_has(ds2c: Callable[..., Ran], project: Path) -> None:
    assert ds2c("cache", "prune", "--not-in", project, "--yes", "--json").code == 0
    assert len(json.loads(ds2c("cache", "info", "--json").out)["holdings"]) == 2


def test_verify_names_the_tiles_that_will_be_encoded_again(ds2c: Callable[..., Ran], project: Path) -> None:
    folder = next((project.parent / "cache" / "v1").iterdir())
    segment = sorted(folder.glob("seg-*.mdb"))[0]
    (pack, *_) = salvage(segment, 21)
    flip(segment, pack.vectors[0])
    ran = ds2c("cache", "verify")
    assert ran.code == 0
    assert ran.out == f"{segment.name}: its bytes are not those of its sha256\n"
    assert f"{len(pack.names):,} tiles of" in ran.err
    assert f"hint: sample one: {len(pack.names):,} tiles, x " in ran.err
    assert "run `ds2c embed one --encoder colour`" in ran.err
    assert f"{len(pack.names):,} encoded" in ds2c("embed", "one", "--encoder", "colour", "--device", "cpu").err


def test_a_name_that_chooses_no_slide_or_two(ds2c: Callable[..., Ran], project: Path) -> None:
    ran = ds2c("cache", "export", "nothing")
    assert ran.code == 3
    assert "chooses none" in ran.err
    assert ds2c("embed", "one", "--encoder", "imagenet-lite0", "--device", "cpu").code == 0
    assert "colour of" in ds2c("cache", "export", "one").err
    assert ds2c("cache", "export", "one", "--encoder", "colour", "--dry-run").code == 0
