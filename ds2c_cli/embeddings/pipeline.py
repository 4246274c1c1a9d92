"""From blocks of slides to vectors in the cache: read ahead, encode, write, so that the encoder never waits."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from multiprocessing.process import BaseProcess
from operator import itemgetter
from pathlib import Path
from threading import Lock
from time import perf_counter, sleep
from types import FrameType

import numpy as np
import torch

from ..cache.claims import Claims
from ..cache.segments import SlideName
from ..cache.store import Cache, Writer
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


Told = tuple[int, "int | Spent | Ds2cError"]
"""A process's number, and how many tiles it has done, its result, or its error."""


def encode_blocks(
    blocks: Sequence[Block],
    specification: Specification,
    cache: Cache,
    *,
    devices: Sequence[torch.device],
    batch_size: int,
    progress: Progress,
    facts: str = "",
) -> Spent:
    """Embed all tiles of the blocks on one device, and publish them.

    A block that cannot be read is noted under its sample's name in `failures`, and the others go on.

    Args:
        blocks: What to embed, in reading order.
        specification: Encoder.
        cache: Cache of this encoder.
        devices: The one device.
        batch_size: Tiles that go through the network at once; 0: found by trying.
        progress: Told the tiles done, of how many, and how fast.
        facts: What to say beside the speed.
    """
    (device,) = devices
    encoder = Encoder(specification, device, batch_size=batch_size)
    return Pipeline(encoder, cache, progress=progress, facts=facts).run(blocks)


class Pipeline:
    """Read, encode and write blocks on one device beside any number of jobs that fill the same cache.

    It goes through the blocks in three passes: those that no other job has claimed, those that another has claimed and
    not begun, and those that another has begun and not published a while later. In each pass threads read ahead, the
    device works on a batch, and the batch before is written.
    """

    def __init__(self, encoder: Encoder, cache: Cache, *, progress: Progress, facts: str = "") -> None:
        self._encoder, self._cache = encoder, cache
        self._progress, self._facts = progress, facts
        self._spent, self._total, self._began = Spent(), 0, perf_counter()
        self._claims: Claims
        self._writer: Writer

    def run(self, blocks: Sequence[Block]) -> Spent:
        """Embed all tiles of the blocks, publish them, and say where the time went."""
        spent, specification = self._spent, self._encoder.specification
        self._total = sum(len(block.keys) for block in blocks)
        self._progress("embed", 0, self._total, specification.recipe.name)
        self._claims = Claims(self._cache.folder)
        with (
            closing(self._claims),
            self._cache.writer(specification.description.document()) as self._writer,
        ):
            theirs = self._encode_own(blocks)
            begun = self._take_over(theirs)
            self._encode_late(begun)
            start = perf_counter()
        spent.write += perf_counter() - start  # leaving the writer publishes
        spent.wall, spent.batch_size = perf_counter() - self._began, self._encoder.batch_size
        return spent

    def _encode_own(self, blocks: Iterable[Block]) -> list[Block]:
        """Encode the blocks that no other job has claimed; returns the others."""
        theirs: list[Block] = []
        claimed = (block for block in blocks if _mine(block, self._claims.take, theirs))
        self._encode(claimed, lambda block: _mine(block, self._claims.begin, theirs))
        return theirs

    def _take_over(self, theirs: Sequence[Block]) -> list[Block]:
        """Encode what other jobs have claimed and not begun, last first; returns what they have begun."""
        begun: list[Block] = []
        self._encode(reversed(theirs), lambda block: _mine(block, self._claims.begin, begun))
        return begun

    def _encode_late(self, begun: Sequence[Block]) -> None:
        """Give other jobs time to publish what they have begun, and encode what they do not: one may be dead."""
        if not begun:
            return
        self._writer.publish()
        tiles = self._spent.tiles
        pace = (perf_counter() - self._began) / tiles if tiles else 0.0
        _give_time(begun, self._cache, claims=self._claims, seconds_per_tile=pace)
        self._encode(begun, lambda block: True)

    def _encode(self, blocks: Iterable[Block], begin: Callable[[Block], bool]) -> None:
        """Read blocks ahead and encode those that may be begun when it is their turn."""
        spent, encoder = self._spent, self._encoder
        under_way: deque[tuple[list[Named], Callable[[], np.ndarray]]] = deque()
        mark = perf_counter()
        lacking = _still_lacking(blocks, self._cache, spent)
        crops = _read_ahead(lacking, readers=_readers(encoder.device), failures=spent.failures)
        for batch, tiles in _batches((one for one in crops if begin(one[0])), encoder):
            read = perf_counter()
            under_way.append((batch, encoder.start(encoder.pack(tiles))))
            spent.read += read - mark
            spent.encode += perf_counter() - read
            # While the device works on this batch, the one before is written and the next is read.
            while len(under_way) > encoder.asynchronous:
                self._write(*under_way.popleft())
            mark = perf_counter()
        while under_way:
            self._write(*under_way.popleft())

    def _write(self, batch: list[Named], vectors: Callable[[], np.ndarray]) -> None:
        """Wait for the vectors of a batch and hand them to the writer."""
        spent, start = self._spent, perf_counter()
        embeddings = vectors()
        encoded = perf_counter()
        first = 0
        for slide, named in groupby(batch, itemgetter(0)):
            keys = [key for _, key in named]
            self._writer.append(slide, keys, embeddings[first : first + len(keys)])
            first += len(keys)
        spent.encode += encoded - start
        spent.write += perf_counter() - encoded
        spent.tiles += len(batch)
        if self._claims.asked():
            self._writer.publish()
        rate = f"{spent.tiles / (perf_counter() - self._began):,.0f} tiles/s"
        told = f"{rate}, {self._facts}" if self._facts else rate
        self._progress("embed", spent.tiles + spent.found, self._total, told)


def encode_on_devices(
    blocks: Sequence[Block],
    specification: Specification,
    cache: Cache,
    *,
    devices: Sequence[torch.device],
    batch_size: int,
    progress: Progress,
    facts: str = "",
) -> Spent:
    """Do what `encode_blocks` does in one process per device, each with its part; an error of one ends them all."""
    context = multiprocessing.get_context("spawn")  # CUDA and LMDB survive no fork
    told: multiprocessing.Queue[Told] = context.Queue()
    total = sum(len(block.keys) for block in blocks)
    began = perf_counter()
    processes = [
        context.Process(
            target=_on_device,
            args=(told, number, shard_of(blocks, number, len(devices))),
            kwargs={"specification": specification, "cache": cache, "device": device, "batch_size": batch_size},
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
                _check_alive(processes, told, results=results, devices=devices)
                continue
            if isinstance(said, Ds2cError):
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
    processes: Sequence[BaseProcess],
    told: multiprocessing.Queue[Told],
    *,
    results: Mapping[int, Spent],
    devices: Sequence[torch.device],
) -> None:
    """Raise Ds2cError where a process has ended without its result."""
    dead = [number for number, process in enumerate(processes) if number not in results and not process.is_alive()]
    if dead and told.empty():  # in this order: what a process that is dead has told is all there
        raise Ds2cError(
            f"the process of {devices[dead[0]]} ended with exit code {processes[dead[0]].exitcode}",
            "It may have been killed for its memory. What was finished is kept: run the same command again.",
        )


def _on_device(
    told: multiprocessing.Queue[Told],
    number: int,
    blocks: Sequence[Block],
    *,
    specification: Specification,
    cache: Cache,
    device: torch.device,
    batch_size: int,
) -> None:
    """Do the work of one device, in its own process; tells counts, and at the end its `Spent` or its error."""
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
        told.put(
            (
                number,
                encode_blocks(blocks, specification, fresh, devices=[device], batch_size=batch_size, progress=tell),
            )
        )
    except Stopped:
        pass
    except Ds2cError as error:
        told.put((number, error))


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)
    raise Stopped(signum)


def _readers(device: torch.device) -> int:
    """Choose how many threads read: one beside a CPU, which they would only take from the encoder."""
    return 1 if device.type == "cpu" else min(MAX_READERS, len(os.sched_getaffinity(0)))


def _read_ahead(
    blocks: Iterable[Block], *, readers: int, failures: dict[str, Ds2cError]
) -> Iterator[tuple[Block, list[np.ndarray]]]:
    """Crop the tiles of every block, in order, at most a few blocks ahead, each slide opened once.

    A block that cannot be read comes without crops, and its sample goes into `failures`.
    """
    opening = Lock()
    opened = lru_cache(maxsize=2)(_open_checked)  # the slide at hand and the next: a JPEG is held whole

    def read(block: Block) -> list[np.ndarray]:
        with opening:
            slide = opened(block.slide, fingerprint=block.fingerprint, sample=block.sample)
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


def _open_checked(path: Path, *, fingerprint: str, sample: str) -> Slide:
    """Open a slide that is still the one the sample was prepared from; raises InputError for another."""
    slide = open_slide(path)
    if slide.fingerprint() != fingerprint:
        raise InputError(
            f"{path} is not the slide that sample {sample} was prepared from", "Run `ds2c prepare --force` for it."
        )
    return slide


def _mine(block: Block, mark: Callable[[str], bool], theirs: list[Block]) -> bool:
    """Say whether this job may mark the block as its own; one of another job's goes to `theirs`."""
    if mark(block.name):
        return True
    theirs.append(block)
    return False


def _give_time(blocks: Sequence[Block], cache: Cache, *, claims: Claims, seconds_per_tile: float) -> None:
    """Give other jobs time to publish these blocks, as much as encoding them here would take.

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
    """Leave out the tiles that have been published since the work was planned; `spent.found` counts them."""
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
    """Make batches of named tiles that span blocks: as many as the encoder takes at once, or memory should hold."""
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
