"""Step 2: tiles become embeddings in the cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .cache import Cache, MissingEmbeddings, Writer, tile_keys
from .encoders import Encoder, load, recipe_of
from .errors import InputError, WeightsError
from .io.slides import iter_crops, open_slide
from .progress import Progress, silent
from .project import Project, Sample
from .settings import Embedding


@dataclass
class Embedded:
    """What `embed` did: tiles wanted, found in the cache, encoded now; seconds reading, encoding and writing."""

    encoder: str
    fingerprint: str
    dimension: int
    tiles: int = 0
    cached: int = 0
    encoded: int = 0
    read_seconds: float = 0.0
    encode_seconds: float = 0.0
    write_seconds: float = 0.0
    note: str = ""  # what a person should know of the encoder
    last_rate: float | None = None  # tiles a second the last time

    @property
    def rate(self) -> float:
        """Tiles a second, reading, encoding and writing together; NaN when nothing was encoded."""
        spent = self.read_seconds + self.encode_seconds + self.write_seconds
        return self.encoded / spent if spent else float("nan")


def embed(
    project: Project,
    settings: Embedding,
    cache_root: Path,
    samples: Sequence[str] = (),
    device: str = "auto",
    expected: str = "",
    dry_run: bool = False,
    progress: Progress = silent,
) -> Embedded:
    """Embed every cell and spot tile of the samples that the cache lacks; a second run encodes nothing.

    `expected` is the fingerprint a checkpoint was trained with. Raises InputError when a slide is gone or has changed,
    WeightsError when the encoder cannot be had or is not the expected one.
    """
    chosen = project.samples(samples)
    encoder = load(settings.encoder, settings.weights, device, settings.precision)
    if expected and encoder.fingerprint != expected:
        raise WeightsError(
            f"the encoder {settings.encoder} here has the fingerprint {encoder.fingerprint}, the model was trained "
            f"with {expected}",
            "Use the same weights, preprocessing and precision as in training.",
        )
    cache = Cache(cache_root, encoder.fingerprint, encoder.dimension)
    done = Embedded(encoder.recipe.name, encoder.fingerprint, encoder.dimension, note=encoder.recipe.note)
    done.last_rate = next(
        (e["tiles_per_second"] for e in project.embeddings() if e["fingerprint"] == encoder.fingerprint), None
    )
    for sample in chosen:
        boxes, keys = tiles_of(sample, encoder.recipe.tile_px)
        absent = np.flatnonzero(cache.missing(keys))
        done.tiles, done.cached = done.tiles + len(keys), done.cached + len(keys) - len(absent)
        if dry_run or not len(absent):
            continue
        with cache.writer(encoder.description) as writer:
            _embed_boxes(sample, encoder, writer, boxes[absent], [keys[i] for i in absent], settings, done, progress)
        cache.refresh()
    if not dry_run:
        project.record_embedding(
            settings, encoder.description, encoder.fingerprint, done.rate if done.encoded else None
        )
    return done


def tiles_of(sample: Sample, tile_px: int) -> tuple[np.ndarray, list[bytes]]:
    """Pixel boxes (n, 3) of the sample's tiles, cells first, each box once, and their cache keys."""
    boxes = np.unique(np.concatenate([sample.cell_boxes(), sample.spot_boxes()]), axis=0)
    return boxes, tile_keys(sample.slide_fingerprint, boxes, tile_px)


def embeddings_of(cache: Cache, sample: Sample, boxes: np.ndarray, encoder: str) -> np.ndarray:
    """Embeddings (n, dimension) float16 of pixel boxes (n, 3) of a sample, from the cache.

    Raises InputError that names the command to run when some are not there, or only damaged.
    """
    keys = tile_keys(sample.slide_fingerprint, boxes, recipe_of(encoder).tile_px)
    try:
        return cache.get(keys)
    except MissingEmbeddings as missing:
        raise InputError(
            f"sample {sample.name}: {missing.count:,} of {len(set(keys)):,} tiles have no {encoder} embedding "
            "in the cache",
            f"Run `ds2c embed {sample.name} --encoder {encoder}`.",
        ) from missing


def _embed_boxes(
    sample: Sample,
    encoder: Encoder,
    writer: Writer,
    boxes: np.ndarray,
    keys: list[bytes],
    settings: Embedding,
    done: Embedded,
    progress: Progress,
) -> None:
    """Read the slide block by block and encode its tiles in batches that span blocks."""
    slide = open_slide(sample.slide)
    if slide.fingerprint() != sample.slide_fingerprint:
        raise InputError(
            f"{sample.slide} is not the slide that sample {sample.name} was prepared from",
            "Run `ds2c prepare --force` for it.",
        )
    stage = f"embed {sample.name}"
    waiting: list[tuple[bytes, np.ndarray]] = []
    count, began = 0, time.perf_counter()

    def encode(batch: list[tuple[bytes, np.ndarray]]) -> None:
        nonlocal count
        start = time.perf_counter()
        vectors = encoder([tile for _, tile in batch])
        encoded = time.perf_counter()
        writer.append([key for key, _ in batch], vectors)
        done.encode_seconds += encoded - start
        done.write_seconds += time.perf_counter() - encoded
        done.encoded += len(batch)
        count += len(batch)
        progress(stage, count, len(keys), f"{count / (time.perf_counter() - began):,.0f} tiles/s")

    progress(stage, 0, len(keys), encoder.recipe.name)
    mark = time.perf_counter()
    for rows, crops in iter_crops(slide, boxes):
        done.read_seconds += time.perf_counter() - mark
        waiting += zip([keys[row] for row in rows], crops, strict=True)
        while len(waiting) >= settings.batch_size:
            encode(waiting[: settings.batch_size])
            del waiting[: settings.batch_size]
        # A crop is a view of its block: what waits for the next batch must not keep the block alive.
        waiting = [(key, tile.copy()) for key, tile in waiting]
        mark = time.perf_counter()
    if waiting:
        encode(waiting)
