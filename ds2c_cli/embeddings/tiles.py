"""Which tiles: those that a sample needs, those that a cache lacks, and the embeddings of those that it has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..cache.store import Cache, MissingEmbeddings, tile_keys
from ..choices import Features
from ..errors import InputError
from ..io.slides import blocks_of
from ..project import Project, Sample
from ..records import EmbeddingRecord, EncoderDescription
from .superpixels import map_boxes

BLOCK_TILES = 256  # of a part of a block at most: what one job has begun, the others leave to it


@dataclass(frozen=True)
class Block:
    """Tiles of one block of a slide that have no embedding yet: boxes (n, 3) in pixels and their cache keys."""

    sample: str
    slide: Path
    fingerprint: str  # the slide's, when it was prepared
    boxes: np.ndarray
    keys: list[bytes]
    name: str  # the same for whoever has this block to do

    def only(self, rows: np.ndarray) -> Block:
        """Keep these rows of the tiles."""
        return replace(self, boxes=self.boxes[rows], keys=[self.keys[row] for row in rows])


def tiles_of(sample: Sample, encoder: EncoderDescription) -> tuple[np.ndarray, list[bytes]]:
    """List the tiles that an encoder needs of a sample, each once: pixel boxes (n, 3) and their cache keys.

    They are those of cells and spots or, for an encoder that gives maps, those that cover the superpixels under both.
    """
    if encoder.features == Features.SUPERPIXELS:
        boxes = map_boxes(sample, encoder.map_side)
    else:
        boxes = np.unique(np.concatenate([sample.cell_boxes(), sample.spot_boxes()]), axis=0)
    return boxes, tile_keys(sample.slide_fingerprint, boxes, tile_px=encoder.tile_px)


def embeddings_of(sample: Sample, boxes: np.ndarray, *, cache: Cache, encoder: EncoderDescription) -> np.ndarray:
    """Read the embeddings (n, dimension) float16 of pixel boxes (n, 3) of a sample from the cache.

    Raises:
        InputError: Some are not there, or only damaged; it names the command to run.
    """
    keys = tile_keys(sample.slide_fingerprint, boxes, tile_px=encoder.tile_px)
    try:
        return cache.get(keys)
    except MissingEmbeddings as missing:
        name = encoder.encoder
        raise InputError(
            f"sample {sample.name}: {missing.count:,} of {len(set(keys)):,} tiles have no {name} embedding in the "
            "cache",
            f"Run `ds2c embed {sample.name} --encoder {name}{_features(encoder)}`.",
        ) from missing


def plan(
    samples: Sequence[Sample], cache: Cache, encoder: EncoderDescription, *, shard: tuple[int, int] = (0, 1)
) -> tuple[list[Block], int]:
    """Plan what is to be encoded: the tiles that the cache lacks, in blocks that are read at once.

    A tile that several samples share (one slide prepared twice) is in one block.

    Args:
        samples: Samples whose tiles are wanted.
        cache: Cache of this encoder.
        encoder: What the tiles are embedded with.
        shard: (I, N) takes part I of N: whole blocks, even by tiles, the same whatever the cache holds.

    Returns:
        The blocks in reading order, and the number of tiles wanted, those that the cache has among them.
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
            whole.append(
                Block(
                    sample=sample.name,
                    slide=sample.slide,
                    fingerprint=sample.slide_fingerprint,
                    boxes=boxes[at],
                    keys=its,
                    name=its[0].hex(),
                )
            )
    mine = shard_of(whole, *shard)
    absent = cache.missing([key for block in mine for key in block.keys])
    ends = np.cumsum([len(block.keys) for block in mine], dtype=int)
    lacking = []
    for block, held in zip(mine, np.split(absent, ends)[:-1], strict=True):
        if len(rows := np.flatnonzero(held)):
            lacking.append(block.only(rows))
    return lacking, len(absent)


def _parts(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Split blocks of rows (m,) evenly into parts of at most BLOCK_TILES; a dense block holds thousands."""
    for rows in blocks:
        yield from np.array_split(rows, -(-len(rows) // BLOCK_TILES))


def check_shards(project: Project, samples: Sequence[Sample], *, cache: Cache, encoder: EmbeddingRecord) -> None:
    """Refuse to go on with embeddings of which a shard was not run to its end.

    Raises:
        InputError: These samples lack embeddings; it names the shards that are left to run.
    """
    count, about = encoder.shards, encoder.description
    if count == 1 or not plan(samples, cache, about)[0]:
        return
    split = project.samples(encoder.samples)
    left = [f"{index}/{count}" for index in range(count) if plan(split, cache, about, shard=(index, count))[0]]
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


def to_encode_again(project: Project, cache_root: Path, *, lost: Collection[tuple[str, str]]) -> list[Lacking]:
    """List what the cache lacks of the project's samples, where `lost` has the fingerprints of encoder and slide."""
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


def shard_of(blocks: Sequence[Block], index: int, count: int) -> list[Block]:
    """Take part `index` of `count`: a run of neighbouring blocks, even by tiles; the parts together are the whole."""
    tiles = np.array([len(block.keys) for block in blocks])
    middle = np.cumsum(tiles) - tiles / 2
    return [block for block, at in zip(blocks, middle * count // max(tiles.sum(), 1), strict=True) if at == index]


def _features(encoder: EncoderDescription) -> str:
    """Write the option that asks for these features, where it is not the default."""
    return f" --features {encoder.features}" if encoder.features != Features.TILES else ""
