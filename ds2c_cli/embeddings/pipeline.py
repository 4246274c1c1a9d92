"""From blocks of slides to vectors in the cache: read ahead, encode, write, so that the encoder never waits."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import Lock
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch

from ..cache.claims import Claims
from ..cache.segments import SlideName
from ..cache.store import Cache
from ..encoders.encoder import Encoder
from ..encoders.specification import Specification
from ..errors import Ds2cError, InputError, Stopped
from ..io.slides import Slide, crop_block, open_slide
from ..progress import Progress
from .tiles import Block, shard_of

MAX_READERS = 8  # threads; benchmarks/crops.py
BATCH_BYTES = 128 << 20  # pixels of a batch at most, however large its tiles
PATIENCE_SECONDS = (4.0, 60.0)  # at least and at most, once, for what others have begun
LOOK_SECONDS = 2.0  # between two looks at what others have published
ASK_SECONDS = 0.5  # the same while waiting for it
POLL_SECONDS = 1.0  # how often the parent looks whether its processes live


Named = tuple[SlideName, bytes]
"""A tile's slide and its key."""


@dataclass
class Spent:
    """What was encoded, and the seconds that the encoder waited for the slide, worked, and waited for the disk."""

    tiles: int = 0
    found: int = 0  # that another process published meanwhile
    read: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    wall: float = 0.0
    batch_size: int = 0
    failures: dict[str, Ds2cError] = field(default_factory=dict)  # the first of each sample


def encode_blocks(
    blocks: Sequence[Block],
    specification: Specification,
    cache: Cache,
    devices: Sequence[torch.device],
    batch_size: int,
    progress: Progress,
    facts: str = "",
) -> Spent:
    """Embed all tiles of the blocks on the one device, and publish them.

    A block that cannot be read is noted under its sample's name in `failures`, and the others go on.
    """
    (device,) = devices
    encoder = Encoder(specification, device, batch_size)
    spent, total = Spent(), sum(len(block.keys) for block in blocks)
    began = perf_counter()

    def collect(batch: list[Named], vectors: Callable[[], np.ndarray]) -> None:
        start = perf_counter()
        embeddings = vectors()
        encoded = perf_counter()
        first = 0
        for slide, named in groupby(batch, itemgetter(0)):
            keys = [key for _, key in named]
            writer.append(slide, keys, embeddings[first : first + len(keys)])
            first += len(keys)
        spent.encode += encoded - start
        spent.write += perf_counter() - encoded
        spent.tiles += len(batch)
        if claims.asked():
            writer.publish()
        said = f"{spent.tiles / (perf_counter() - began):,.0f} tiles/s"
        progress("embed", spent.tiles + spent.found, total, f"{said}, {facts}" if facts else said)

    def encode(some: Iterable[Block], begin: Callable[[Block], bool]) -> None:
        under_way: deque[tuple[list[Named], Callable[[], np.ndarray]]] = deque()
        mark = perf_counter()
        crops = _read_ahead(_still_lacking(some, cache, spent), _readers(device), spent.failures)
        for batch, tiles in _batches((one for one in crops if begin(one[0])), encoder):
            read = perf_counter()
            under_way.append((batch, encoder.start(encoder.pack(tiles))))
            spent.read += read - mark
            spent.encode += perf_counter() - read
            # While the device works on this batch, the one before is written and the next is read.
            while len(under_way) > encoder.asynchronous:
                collect(*under_way.popleft())
            mark = perf_counter()
        while under_way:
            collect(*under_way.popleft())

    progress("embed", 0, total, specification.recipe.name)
    claims = Claims(cache.folder)
    with closing(claims), cache.writer(specification.description.document()) as writer:
        theirs, begun = list[Block](), list[Block]()  # of other jobs, or of one that was killed
        encode((one for one in blocks if _mine(one, claims.take, theirs)), lambda one: _mine(one, claims.begin, theirs))
        encode(reversed(theirs), lambda one: _mine(one, claims.begin, begun))
        if begun:
            writer.publish()
            _give_time(begun, cache, claims, (perf_counter() - began) / spent.tiles if spent.tiles else 0.0)
            encode(begun, lambda one: True)
        start = perf_counter()
    spent.write += perf_counter() - start  # leaving the writer publishes
    spent.wall, spent.batch_size = perf_counter() - began, encoder.batch_size
    return spent


def encode_on_devices(
    blocks: Sequence[Block],
    specification: Specification,
    cache: Cache,
    devices: Sequence[torch.device],
    batch_size: int,
    progress: Progress,
    facts: str = "",
) -> Spent:
    """`encode_blocks` in one process a device, each with its share of the blocks; an error of one ends them all."""
    context = multiprocessing.get_context("spawn")  # CUDA and LMDB survive no fork
    told: multiprocessing.Queue[tuple[int, Any]] = context.Queue()
    total = sum(len(block.keys) for block in blocks)
    began = perf_counter()
    processes = [
        context.Process(
            target=_on_device,
            args=(told, number, shard_of(blocks, number, len(devices)), specification, cache, device, batch_size),
            daemon=True,
        )
        for number, device in enumerate(devices)
    ]
    counts, results = [0] * len(devices), dict[int, Spent]()
    try:
        for process in processes:
            process.start()
        progress("embed", 0, total, specification.recipe.name)
        while len(results) < len(devices):
            try:
                number, said = told.get(timeout=POLL_SECONDS)
            except queue.Empty:
                _check_alive(processes, results, devices, told)
                continue
            if isinstance(said, BaseException):
                raise said
            if isinstance(said, Spent):
                results[number] = said
                continue
            counts[number] = said
            rate = f"{sum(counts) / (perf_counter() - began):,.0f} tiles/s on {len(devices)} devices"
            progress("embed", sum(counts), total, f"{rate}, {facts}" if facts else rate)
    finally:
        for process in processes:
            if process.pid and process.is_alive() and len(results) < len(devices):
                process.terminate()  # it publishes what it has
        for process in processes:
            if process.pid:
                process.join()
    cache.refresh()
    together = Spent(wall=perf_counter() - began, batch_size=min(one.batch_size for one in results.values()))
    for one in results.values():
        together.tiles += one.tiles
        together.found += one.found
        together.failures = {**one.failures, **together.failures}
        for part in ("read", "encode", "write"):  # of all devices, so their mean is comparable with the wall
            setattr(together, part, getattr(together, part) + getattr(one, part) / len(results))
    return together


def _check_alive(
    processes: Sequence[Any], results: dict[int, Spent], devices: Sequence[torch.device], told: Any
) -> None:
    dead = [number for number, process in enumerate(processes) if number not in results and not process.is_alive()]
    if dead and told.empty():  # in this order: what a process that is dead has told is all there
        raise Ds2cError(
            f"the process of {devices[dead[0]]} ended with exit code {processes[dead[0]].exitcode}",
            "It may have been killed for its memory. What was finished is kept: run the same command again.",
        )


def _on_device(
    told: Any,
    number: int,
    blocks: Sequence[Block],
    specification: Specification,
    cache: Cache,
    device: torch.device,
    batch_size: int,
) -> None:
    """The work of one device, in its own process; tells counts, and at the end its `Spent` or its error."""
    for each in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)  # a terminal or SLURM sends it to all; the parent passes on a SIGTERM
    signal.signal(signal.SIGTERM, _stop)
    parent = multiprocessing.parent_process()

    def tell(stage: str, done: int, total: int, facts: str = "") -> None:
        if parent is not None and not parent.is_alive():
            raise Stopped(signal.SIGTERM)
        told.put((number, done))

    try:
        fresh = Cache(cache.folder.parents[1], cache.folder.name, cache.dimension)
        told.put((number, encode_blocks(blocks, specification, fresh, [device], batch_size, tell)))
    except Stopped:
        pass
    except Ds2cError as error:
        told.put((number, error))


def _stop(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_IGN)
    raise Stopped(signum)


def _readers(device: torch.device) -> int:
    """Reader threads: one beside a CPU, which they would only take from the encoder."""
    return 1 if device.type == "cpu" else min(MAX_READERS, len(os.sched_getaffinity(0)))


def _read_ahead(
    blocks: Iterable[Block], readers: int, failures: dict[str, Ds2cError]
) -> Iterator[tuple[Block, list[np.ndarray]]]:
    """The crops of every block, in order, at most a few blocks ahead, each slide opened once."""
    opening = Lock()
    opened = lru_cache(maxsize=2)(_open_checked)  # the slide at hand and the next: a JPEG is held whole

    def read(block: Block) -> list[np.ndarray]:
        with opening:
            slide = opened(block.slide, block.fingerprint, block.sample)
        return crop_block(slide, block.boxes)

    def crops(block: Block, reading: Future[list[np.ndarray]]) -> list[np.ndarray]:
        try:
            return reading.result()
        except InputError as error:
            failures.setdefault(block.sample, error)
            return []

    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    ahead: deque[tuple[Block, Future[list[np.ndarray]]]] = deque()
    try:
        for block in blocks:
            ahead.append((block, pool.submit(read, block)))
            if len(ahead) > readers + 1:
                first, reading = ahead.popleft()
                yield first, crops(first, reading)
        while ahead:
            first, reading = ahead.popleft()
            yield first, crops(first, reading)
    finally:
        pool.shutdown(cancel_futures=True)


def _open_checked(path: Path, fingerprint: str, sample: str) -> Slide:
    slide = open_slide(path)
    if slide.fingerprint() != fingerprint:
        raise InputError(
            f"{path} is not the slide that sample {sample} was prepared from", "Run `ds2c prepare --force` for it."
        )
    return slide


def _mine(block: Block, mark: Callable[[str], bool], theirs: list[Block]) -> bool:
    """Whether this job may mark the block as its own; one of another job's goes to `theirs`."""
    if mark(block.name):
        return True
    theirs.append(block)
    return False


def _give_time(blocks: Sequence[Block], cache: Cache, claims: Claims, seconds_per_tile: float) -> None:
    """Time for other jobs to publish these blocks, as much as encoding them here would take.

    What a killed job of this machine had committed is published for it.
    """
    with suppress(Ds2cError):
        cache.recover()
    keys = [key for block in blocks for key in block.keys]
    least, most = PATIENCE_SECONDS
    until = perf_counter() + min(max(least, len(keys) * seconds_per_tile), most)
    while perf_counter() < until:
        claims.ask()
        sleep(ASK_SECONDS)
        cache.refresh()
        if not cache.missing(keys).any():
            return


def _still_lacking(blocks: Iterable[Block], cache: Cache, spent: Spent) -> Iterator[Block]:
    """The blocks less the tiles that have been published since the work was planned, counted in `spent.found`."""
    looked = 0.0
    for block in blocks:
        if perf_counter() - looked > LOOK_SECONDS:
            cache.refresh()
            looked = perf_counter()
        rows = np.flatnonzero(cache.missing(block.keys))
        spent.found += len(block.keys) - len(rows)
        if len(rows):
            yield block.only(rows)


def _batches(
    read: Iterator[tuple[Block, list[np.ndarray]]], encoder: Encoder
) -> Iterator[tuple[list[Named], list[np.ndarray]]]:
    """Named tiles in batches that span blocks: as many as the encoder takes at once, or as memory should hold."""
    named: list[Named] = []
    tiles: list[np.ndarray] = []
    size = 0
    for block, crops in read:
        slide = SlideName(block.fingerprint, str(block.slide))
        for key, crop in zip(block.keys, crops, strict=False):  # a block that could not be read has none
            named.append((slide, key))
            tiles.append(crop)
            size += crop.size
            if len(named) >= encoder.batch_size or size >= BATCH_BYTES:
                yield named, tiles
                named, tiles, size = [], [], 0
        # A crop is a view of its block: what waits for the next batch must not keep the block alive.
        tiles = [tile.copy() for tile in tiles]
    if named:
        yield named, tiles
