"""Step 2: tiles become embeddings in the cache."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..cache.store import Cache, MissingEmbeddings, tile_keys
from ..choices import Features
from ..device import devices_of
from ..encoders.specification import specify
from ..errors import Ds2cError, InputError, WeightsError
from ..io.slides import blocks_of
from ..project import Project, Sample
from ..records import EmbeddingRecord, EncoderDescription, EncoderUsed
from ..settings import DEFAULT_ENCODER, Embedding
from ..workspace import Workspace
from .pipeline import Block, Spent, encode_blocks, encode_on_devices, share
from .superpixels import map_boxes

BLOCK_TILES = 256  # of a part of a block at most: what one job has begun, the others leave to it


@dataclass
class Embedded:
    """What `embed` did: tiles wanted, found in the cache, encoded now, and where the time went."""

    encoder: str
    fingerprint: str
    dimension: int
    tiles: int = 0
    cached: int = 0
    encoded: int = 0
    read_seconds: float = 0.0  # waiting for the slide
    encode_seconds: float = 0.0
    write_seconds: float = 0.0
    rate: float | None = None  # tiles a second over all of it; None where nothing was encoded
    last_rate: float | None = None  # the last time
    batch_size: int = 0
    devices: list[str] = field(default_factory=list)
    note: str = ""  # what a person should know of the encoder


def embed(
    workspace: Workspace | Project,
    settings: Embedding = Embedding(),  # noqa: B008  (frozen)
    *,
    samples: Sequence[str] = (),
    shard: tuple[int, int] = (0, 1),
    expected: str = "",
    dry_run: bool = False,
) -> Embedded:
    """Embed every cell and spot tile of the samples that the cache lacks; a second run encodes nothing.

    With several devices each has a process of its own. `shard` (I, N) does part I of N, whole blocks of the slides,
    even by tiles; the parts may run at once on any machines that share the cache. `expected` is the fingerprint a
    checkpoint was trained with. Raises WeightsError when the encoder cannot be had or is not the expected one and, once
    all that can be read is embedded, InputError that names the slides that are gone, damaged or not those that were
    prepared.
    """
    workspace = Workspace.of(workspace)
    project = workspace.project
    settings = settings.changed(encoder=settings.encoder or DEFAULT_ENCODER)
    chosen = project.samples(samples)
    devices = devices_of(workspace.device)
    specification = specify(settings.encoder, settings.weights, workspace.device, settings.precision, settings.features)
    fingerprint, about = specification.fingerprint, specification.description
    if expected and fingerprint != expected:
        raise WeightsError(
            f"the encoder {settings.encoder} here has the fingerprint {fingerprint}, the model was trained with "
            f"{expected}",
            "Use the same weights, preprocessing and precision as in training.",
        )
    cache = Cache(workspace.cache, fingerprint, about.dimension)
    done = Embedded(about.encoder, fingerprint, about.dimension, note=specification.recipe.note)
    done.devices = [str(one) for one in devices]
    done.last_rate = next(
        (entry.tiles_per_second for entry in project.embeddings() if entry.fingerprint == fingerprint), None
    )
    blocks, done.tiles = plan(chosen, cache, about, shard)
    done.cached = done.tiles - sum(len(block.keys) for block in blocks)
    if dry_run:
        return done
    if blocks:
        spent = (encode_blocks if len(devices) == 1 else encode_on_devices)(
            blocks, specification, cache, devices, settings.batch_size, workspace.progress, f"{done.cached:,} cached"
        )
        _tell(done, spent)
    if not expected:  # what a checkpoint needs is not what the project is embedded with
        used = EncoderUsed(settings=settings, fingerprint=fingerprint, description=about)
        project.record_embedding(used, rate=done.rate, samples=[sample.name for sample in chosen], shards=shard[1])
    if blocks and spent.failures:
        raise _failed(spent.failures)
    return done


def plan(
    samples: Sequence[Sample], cache: Cache, encoder: EncoderDescription, shard: tuple[int, int] = (0, 1)
) -> tuple[list[Block], int]:
    """The blocks of all slides with the tiles that the cache lacks, in reading order, and how many tiles are wanted.

    `encoder` is its description. `shard` (I, N) takes part I of N: whole blocks, even by tiles, the same whatever the
    cache holds. A tile that several samples share (one slide prepared twice) is in one block.
    """
    whole: list[Block] = []
    planned: dict[str, set[bytes]] = {}  # by slide, of those met before
    for sample in samples:
        boxes, keys = tiles_of(sample, encoder)
        before = planned.setdefault(sample.slide_fingerprint, set())
        fresh = np.flatnonzero([key not in before for key in keys])
        before.update(keys)
        for rows in _parts(blocks_of(boxes[fresh])):
            at = fresh[rows]
            its = [keys[row] for row in at]
            whole.append(Block(sample.name, sample.slide, sample.slide_fingerprint, boxes[at], its, name=its[0].hex()))
    mine = share(whole, *shard)
    absent = cache.missing([key for block in mine for key in block.keys])
    ends = np.cumsum([len(block.keys) for block in mine], dtype=int)
    lacking = []
    for block, held in zip(mine, np.split(absent, ends)[:-1], strict=True):
        if len(rows := np.flatnonzero(held)):
            lacking.append(block.only(rows))
    return lacking, len(absent)


def _parts(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks (m,) of rows in even parts of at most BLOCK_TILES; a dense block holds thousands."""
    for rows in blocks:
        yield from np.array_split(rows, -(-len(rows) // BLOCK_TILES))


def check_shards(project: Project, samples: Sequence[Sample], cache: Cache, encoder: EmbeddingRecord) -> None:
    """Raise InputError that names the shards that were not run to their end, where these samples lack embeddings.

    `encoder` is an entry of `Project.embeddings`.
    """
    count, about = encoder.shards, encoder.description
    if count == 1 or not plan(samples, cache, about)[0]:
        return
    split = project.samples(encoder.samples)
    left = [f"{index}/{count}" for index in range(count) if plan(split, cache, about, (index, count))[0]]
    name = about.encoder
    raise InputError(
        f"the {name} embeddings of shard {', '.join(left)} are not all in the cache",
        f"Run `ds2c embed {' '.join(encoder.samples)} --encoder {name}{_features(about)} --shard {left[0]}`"
        + (", then the others." if len(left) > 1 else "."),
    )


@dataclass(frozen=True)
class Lacking:
    """Tiles of a sample, pixel boxes (n, 3), that a cache lacks, and the command that encodes them."""

    sample: str
    encoder: str
    boxes: np.ndarray
    command: str


def to_encode_again(project: Project, cache_root: Path, lost: Collection[tuple[str, str]]) -> list[Lacking]:
    """What the cache lacks of the project's samples; `lost` are the fingerprints of encoder and slide to look for."""
    lacking = []
    for entry in project.embeddings():
        about = entry.description
        cache = Cache(cache_root, entry.fingerprint, about.dimension)
        for sample in map(project.sample, project.sample_names()):
            if (entry.fingerprint, sample.slide_fingerprint) not in lost:
                continue
            if blocks := plan([sample], cache, about)[0]:
                boxes = np.concatenate([block.boxes for block in blocks])
                command = f"ds2c embed {sample.name} --encoder {about.encoder}{_features(about)}"
                lacking.append(Lacking(sample.name, about.encoder, boxes, command))
    return lacking


def tiles_of(sample: Sample, encoder: EncoderDescription) -> tuple[np.ndarray, list[bytes]]:
    """Pixel boxes (n, 3) of the sample's tiles, each box once, and their cache keys; `encoder` is its description.

    Of cells and spots, or those whose maps cover the superpixels under them.
    """
    if encoder.features == Features.SUPERPIXELS:
        boxes = map_boxes(sample, encoder.map_side)
    else:
        boxes = np.unique(np.concatenate([sample.cell_boxes(), sample.spot_boxes()]), axis=0)
    return boxes, tile_keys(sample.slide_fingerprint, boxes, encoder.tile_px)


def embeddings_of(cache: Cache, sample: Sample, boxes: np.ndarray, encoder: EncoderDescription) -> np.ndarray:
    """Embeddings (n, dimension) float16 of pixel boxes (n, 3) of a sample, from the cache.

    `encoder` is its description. Raises InputError that names the command to run when some are not there, or only
    damaged.
    """
    keys = tile_keys(sample.slide_fingerprint, boxes, encoder.tile_px)
    try:
        return cache.get(keys)
    except MissingEmbeddings as missing:
        name = encoder.encoder
        raise InputError(
            f"sample {sample.name}: {missing.count:,} of {len(set(keys)):,} tiles have no {name} embedding in the "
            "cache",
            f"Run `ds2c embed {sample.name} --encoder {name}{_features(encoder)}`.",
        ) from missing


def _features(encoder: EncoderDescription) -> str:
    return f" --features {encoder.features}" if encoder.features != Features.TILES else ""


def _tell(done: Embedded, spent: Spent) -> None:
    done.encoded, done.batch_size = spent.tiles, spent.batch_size
    done.cached += spent.found
    done.read_seconds, done.encode_seconds, done.write_seconds = spent.read, spent.encode, spent.write
    done.rate = spent.tiles / spent.wall if spent.tiles else None


def _failed(failures: Mapping[str, Ds2cError]) -> InputError:
    """One message for all samples with tiles that could not be read; the others are done."""
    first = next(iter(failures.values()))
    if len(failures) == 1:
        return InputError(f"sample {next(iter(failures))}: {first.message}", first.hint)
    listed = "; ".join(f"{name}: {error.message}" for name, error in failures.items())
    return InputError(f"{len(failures)} samples could not be read to the end: {listed}", first.hint)
