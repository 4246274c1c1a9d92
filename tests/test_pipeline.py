"""From slides to the cache: every tile once, whatever the batches, the devices and the slides that fail."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import encoder_description

from ds2c_cli.cache.store import Cache
from ds2c_cli.embeddings import pipeline
from ds2c_cli.embeddings.embed import embed
from ds2c_cli.embeddings.pipeline import encode_blocks
from ds2c_cli.embeddings.tiles import Block, plan, shard_of, tiles_of
from ds2c_cli.encoders.encoder import load
from ds2c_cli.encoders.preprocessing import pack
from ds2c_cli.encoders.specification import specify
from ds2c_cli.errors import Ds2cError, InputError, Stopped
from ds2c_cli.io.slides import blocks_of, open_slide
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Embedding, Geometry

COLOUR = Embedding(encoder="colour")


@pytest.fixture
def project(painted, tmp_path):
    """Two samples of which nothing is embedded."""
    home = Project(tmp_path / "project")
    for name in ("one", "two"):
        slide = tmp_path / f"{name}.tif"
        slide.write_bytes((painted / name / "slide.tif").read_bytes())
        sources = Sources(slide, str(painted / name / "cells.parquet"), painted / name / "cell_counts.h5ad")
        prepare(home, sources, geometry=Geometry(membership="centroid"), sample=name, donor=name, cohort="painted")
    return home


def block_of(boxes, keys):
    return Block(sample="a", slide=Path("a"), fingerprint="", boxes=boxes, keys=keys, name="")


def expected_embeddings(sample, encoder):
    """Read and encode every tile on its own."""
    slide = open_slide(sample.slide)
    boxes, keys = tiles_of(sample, encoder.specification.description)
    tiles = [slide.read(int(x), int(y), width=int(side), height=int(side)) for x, y, side in boxes]
    return keys, np.concatenate([encoder([tile]) for tile in tiles]).astype(np.float16)


@pytest.mark.parametrize("batch_size", [0, 7, 100_000])
def test_what_is_cached_is_what_each_tile_gives_alone(project, tmp_path, batch_size):
    settings = Embedding(encoder="colour", batch_size=batch_size)
    done = embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), settings)
    cache = Cache(tmp_path / "cache", done.fingerprint, done.dimension)
    encoder = load("colour", device="cpu")
    for sample in project.samples():
        keys, vectors = expected_embeddings(sample, encoder)
        np.testing.assert_allclose(cache.get(keys), vectors, atol=1e-3)  # one unit in float16's last place
    assert (
        done.encoded
        == done.tiles
        == sum(len(tiles_of(sample, encoder_description(tile_px=0))[1]) for sample in project.samples())
    )
    assert done.cached == 0
    assert done.rate > 0


def test_two_devices_are_two_processes_that_share_the_work(project, tmp_path):
    """Two CPUs stand for two GPUs."""
    told = []
    done = embed(
        Workspace(
            project,
            cache=tmp_path / "two",
            device="cpu,cpu",
            progress=lambda stage, done, total, facts="": told.append((done, total, facts)),
        ),
        COLOUR,
    )
    assert done.encoded == done.tiles  # none twice
    assert done.devices == ["cpu", "cpu"]
    assert told[-1][:2] == (done.tiles, done.tiles)
    assert "on 2 devices" in told[-1][2]
    one = embed(Workspace(project, cache=tmp_path / "one", device="cpu"), COLOUR)
    for sample in project.samples():
        _, keys = tiles_of(sample, encoder_description(tile_px=0))
        both = [Cache(tmp_path / name, one.fingerprint, one.dimension).get(keys) for name in ("one", "two")]
        assert np.array_equal(*both)
    segments = list((tmp_path / "two").rglob("seg-*.mdb"))
    assert len(segments) == 2  # each published its own


def test_an_error_in_one_process_is_the_error_of_the_run(project, tmp_path):
    weights = tmp_path / "lite0.pth"
    weights.write_bytes(specify("imagenet-lite0").snapshot.weights.read_bytes())
    specification = specify("imagenet-lite0", str(weights), device="cpu")
    assert specification.fingerprint  # hashed while the file was whole
    weights.write_bytes(b"damaged since")
    cache = Cache(tmp_path / "cache", specification.fingerprint, 224)
    blocks, _ = plan(project.samples(), cache, encoder_description(tile_px=112))
    with pytest.raises(Ds2cError, match="weights of imagenet-lite0") as error:
        pipeline.encode_on_devices(
            blocks, specification, cache, devices=[torch.device("cpu")] * 2, batch_size=0, progress=lambda *_: None
        )
    assert error.value.exit_code == 4
    assert error.value.hint


def test_a_process_that_dies_is_noticed(project, tmp_path, monkeypatch):
    def stop_one(stage, done, total, facts=""):
        for child in pipeline.multiprocessing.active_children()[:1]:
            child.kill()

    with pytest.raises(Ds2cError, match="exit code -9"):
        embed(Workspace(project, cache=tmp_path / "cache", device="cpu,cpu", progress=stop_one), COLOUR)
    again = embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR)
    assert again.cached + again.encoded == again.tiles


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 7))
def test_shares_are_the_whole_without_overlap_and_even(sizes, count):
    blocks = [block_of(np.zeros((n, 3), int), [bytes([i, j]) for j in range(n)]) for i, n in enumerate(sizes)]
    parts = [shard_of(blocks, index, count) for index in range(count)]
    assert [block for part in parts for block in part] == blocks  # in order, each in one
    tiles = [sum(len(block.keys) for block in part) for part in parts]
    assert max(tiles) <= sum(sizes) / count + max(sizes, default=0)


def test_a_slide_prepared_twice_is_embedded_once(painted, project, tmp_path):
    sources = Sources(
        tmp_path / "one.tif", str(painted / "one" / "cells.parquet"), painted / "one" / "cell_counts.h5ad"
    )
    prepare(project, sources, geometry=Geometry(membership="centroid"), sample="again", donor="one", cohort="painted")
    done = embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR)
    once = len(tiles_of(project.sample("one"), encoder_description(tile_px=0))[1]) + len(
        tiles_of(project.sample("two"), encoder_description(tile_px=0))[1]
    )
    assert done.encoded == done.tiles == once
    assert embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR).cached == once


def small_blocks(monkeypatch):
    """Blocks of 256 pixels, so that small slides have many."""
    inside = blocks_of
    monkeypatch.setattr("ds2c_cli.embeddings.tiles.blocks_of", lambda boxes: inside(boxes, 256))


def test_shards_together_are_the_whole_whatever_the_cache_holds(project, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    cache = tmp_path / "cache"
    parts = [embed(Workspace(project, cache=cache, device="cpu"), COLOUR, shard=(index, 3)) for index in (2, 0, 1)]
    assert [part.cached for part in parts] == [0, 0, 0]
    again = embed(Workspace(project, cache=cache, device="cpu"), COLOUR)
    assert again.cached == again.tiles == sum(part.encoded for part in parts)
    assert max(part.tiles for part in parts) < 1.2 * again.tiles / 3
    assert embed(Workspace(project, cache=cache, device="cpu"), COLOUR, shard=(2, 3)).tiles == parts[0].tiles


def test_train_names_the_shard_that_is_missing(ds2c, project, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    at = ("--encoder", "colour", "--project", project.root, "--cache", tmp_path / "cache")
    for index in (0, 2, 3):
        assert ds2c("embed", *at, "--device", "cpu", "--shard", f"{index}/4").code == 0
    train = ("train", "--train", "one,two", "--epochs", 2, "--hidden", 16, *at)
    ran = ds2c(*train)
    assert ran.code == 3
    assert "the colour embeddings of shard 1/4 are not all in the cache" in ran.err
    assert "Run `ds2c embed one two --encoder colour --shard 1/4`." in ran.err
    assert ds2c("embed", "one", "two", *at, "--device", "cpu", "--shard", "1/4").code == 0
    assert ds2c(*train).code == 0


@pytest.mark.parametrize("words", ["4/4", "-1/4", "1", "1/0", "a/b", "1/2/3", ""])
def test_a_shard_is_counted_from_0(ds2c, project, words):
    ran = ds2c("embed", "--encoder", "colour", "--project", project.root, "--shard", words)
    assert ran.code == 2
    assert "--shard" in ran.err


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("harm", ["gone", "other"])
def test_a_slide_that_fails_is_named_at_the_end_and_the_others_are_done(project, tmp_path, harm, device):
    slide = project.sample("one").slide
    if harm == "gone":
        slide.unlink()
    else:
        slide.write_bytes(project.sample("two").slide.read_bytes())
    with pytest.raises(InputError, match="sample one: ") as error:
        embed(Workspace(project, cache=tmp_path / "cache", device=device), COLOUR)
    assert str(slide) in error.value.message
    assert error.value.hint
    left = embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR, samples=["two"])
    assert left.encoded == 0


def test_a_damaged_tile_costs_its_block_only(project, tmp_path, monkeypatch):
    blocks = lambda boxes: [rows for rows in np.array_split(np.arange(len(boxes)), 20) if len(rows)]  # noqa: E731
    monkeypatch.setattr("ds2c_cli.embeddings.tiles.blocks_of", blocks)
    inside, calls = pipeline.crop_block, []

    def crop_block(slide, boxes):
        calls.append(len(boxes))
        if len(calls) == 3:
            raise InputError("tile 7 cannot be decoded", "Copy the slide again.")
        return inside(slide, boxes)

    monkeypatch.setattr(pipeline, "crop_block", crop_block)
    with pytest.raises(InputError, match="sample one: tile 7 cannot be decoded"):
        embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR)
    done = embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR)
    assert done.encoded == calls[2]


def test_what_was_encoded_before_a_stop_is_kept(project, tmp_path):
    def stop(stage, done, total, facts=""):
        if done > total / 3:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        embed(Workspace(project, cache=tmp_path / "cache", device="cpu", progress=stop), COLOUR)
    rest = embed(Workspace(project, cache=tmp_path / "cache", device="cpu"), COLOUR)
    assert rest.tiles / 3 < rest.cached < rest.tiles
    assert rest.encoded == rest.tiles - rest.cached


def test_stopping_leaves_no_reader_behind(project, tmp_path):
    def stop(stage, done, total, facts=""):
        if done:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        embed(Workspace(project, cache=tmp_path / "cache", device="cpu", progress=stop), COLOUR)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


# Memory stays bounded


class Batching:
    batch_size = 4


def test_batches_are_bounded_in_tiles_and_in_bytes(monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 1000)
    sides = [2] * 9 + [20] * 3 + [2] * 5
    tiles = [np.full((side, side, 3), row, np.uint8) for row, side in enumerate(sides)]
    keys = [bytes([row]) for row in range(len(tiles))]
    cuts = np.split(np.arange(len(tiles)), [3, 5, 14])
    read = [(block_of(np.zeros((len(c), 3)), [keys[i] for i in c]), [tiles[i] for i in c]) for c in cuts]
    seen = list(pipeline._batches(iter(read), Batching()))
    assert [key for batch, _ in seen for _, key in batch] == keys
    assert all(int(tile[0, 0, 0]) == batch[row][1][0] for batch, held in seen for row, tile in enumerate(held))
    assert [len(batch) for batch, _ in seen] == [4, 4, 2, 1, 1, 4, 1]


def test_tiles_that_wait_for_their_batch_do_not_hold_their_block():
    region = np.zeros((2048, 2048, 3), np.uint8)
    block = block_of(np.zeros((3, 3)), [b"1", b"2", b"3"])
    crops = [region[:10, :10], region[5:15, :10], region[:10, 5:15]]
    ((_, tiles),) = pipeline._batches(iter([(block, crops)]), Batching())
    assert not any(np.shares_memory(tile, region) for tile in tiles)


def test_readers_are_only_a_few_blocks_ahead(monkeypatch):
    started = []
    monkeypatch.setattr(pipeline, "_open_checked", lambda *_, **__: None)
    monkeypatch.setattr(pipeline, "crop_block", lambda slide, boxes: started.append(1) or [])
    blocks = [block_of(np.zeros((0, 3)), []) for _ in range(50)]
    for taken, _ in enumerate(pipeline._read_ahead(blocks, readers=3, failures={})):
        assert len(started) <= taken + 1 + 3 + 1
    assert len(started) == 50


def test_an_asynchronous_encoder_has_a_second_batch_under_way(project, tmp_path, monkeypatch):
    """As on CUDA: the next batch is started before the last is waited for, and none is mixed up."""
    order = []

    class Asynchronous(pipeline.Encoder):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            self.asynchronous = True

        def pack(self, tiles):
            return pack(tiles)  # there is no pinned memory without CUDA

        def start(self, tiles):
            number = len([event for event, _ in order if event == "start"])
            order.append(("start", number))
            self.asynchronous = False
            ready = super().start(tiles)
            self.asynchronous = True

            def wait():
                order.append(("wait", number))
                return ready()

            return wait

    monkeypatch.setattr(pipeline, "Encoder", Asynchronous)
    specification = specify("colour")
    cache = Cache(tmp_path / "cache", specification.fingerprint, 21)
    blocks, tiles = plan([project.sample("one")], cache, encoder_description(tile_px=0))
    spent = encode_blocks(
        blocks, specification, cache, devices=[torch.device("cpu")], batch_size=50, progress=lambda *_: None
    )
    assert spent.tiles == tiles
    assert order[:2] == [("start", 0), ("wait", 0)]  # the tile that tells its width
    assert order[2:6] == [("start", 1), ("start", 2), ("wait", 1), ("start", 3)]
    monkeypatch.undo()
    keys, vectors = expected_embeddings(project.sample("one"), load("colour", device="cpu"))
    np.testing.assert_allclose(cache.get(keys), vectors, atol=1e-3)


# The command


def test_embed_says_where_the_time_went_and_what_was_cached(ds2c, project, tmp_path):
    words = (
        "embed",
        "--encoder",
        "colour",
        "--device",
        "cpu",
        "--project",
        project.root,
        "--cache",
        tmp_path / "cache",
    )
    ran = ds2c(*words)
    assert ran.code == 0
    assert "tiles/s in batches of" in ran.err
    assert "(read 0 s, encode " in ran.err
    assert "0 cached" in ran.err
    again = json.loads(ds2c(*words, "--json").out)
    assert again["cached"] == again["tiles"]
    assert again["rate"] is None
    project.sample("one").slide.unlink()
    assert ds2c(*words).code == 0  # everything is in the cache: the slide is not needed


def test_a_failed_slide_exits_with_3_after_the_others(ds2c, project, tmp_path):
    project.sample("one").slide.unlink()
    words = (
        "embed",
        "--encoder",
        "colour",
        "--device",
        "cpu",
        "--project",
        project.root,
        "--cache",
        tmp_path / "cache",
    )
    ran = ds2c(*words)
    assert ran.code == 3
    assert "error: sample one: there is no slide" in ran.err
    assert ds2c(*words, "two").code == 0


# On a GPU, where there is one

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@on_cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.1), ("fp16", 0.02)])
def test_cuda_gives_what_the_cpu_gives(project, tmp_path, precision, tolerance):
    done = embed(
        Workspace(project, cache=tmp_path / "cuda", device="cuda:0"),
        Embedding(encoder="imagenet-lite0", precision=precision),
        samples=["one"],
    )
    assert done.batch_size >= 64
    keys, vectors = expected_embeddings(project.sample("one"), load("imagenet-lite0", device="cpu", precision="fp32"))
    ours = Cache(tmp_path / "cuda", done.fingerprint, done.dimension).get(keys).astype(np.float32)
    distance = np.linalg.norm(ours - vectors, axis=1) / np.linalg.norm(vectors, axis=1)
    assert distance.max() < tolerance


@on_cuda
def test_cuda_goes_on_with_smaller_batches_when_its_memory_is_full(project, tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.3e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        done = embed(
            Workspace(project, cache=tmp_path / "cuda", device="cuda:0"),
            Embedding(encoder="imagenet-lite0", batch_size=8192),
            samples=["one"],
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.encoded == done.tiles
    assert done.batch_size < 8192
