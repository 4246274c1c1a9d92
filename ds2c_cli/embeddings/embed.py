"""Step 2: tiles become embeddings in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..cache.store import Cache
from ..device import devices_of
from ..encoders.specification import Specification, specify
from ..errors import Ds2cError, InputError, WeightsError
from ..progress import Progress
from ..project import Project, Workspace
from ..records import EncoderUsed
from ..settings import DEFAULT_ENCODER, Embedding
from .pipeline import encode_blocks, encode_on_devices
from .tiles import Block, plan


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
    rate: float | None = None  # tiles per second over all of it; None where nothing was encoded
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

    With several devices each has a process of its own.

    Args:
        workspace: Project, cache, devices and who is told of progress.
        settings: Encoder and how it is run.
        samples: Names; without any, all samples.
        shard: (I, N) does part I of N, whole blocks of the slides, even by tiles; the parts may run at once on any
            machines that share the cache.
        expected: Fingerprint that a checkpoint was trained with.
        dry_run: Only count.

    Raises:
        WeightsError: The encoder cannot be had, or is not the expected one.
        InputError: Slides are gone, damaged or not those that were prepared; all that can be read is embedded before.
    """
    workspace = Workspace.of(workspace)
    project = workspace.project
    settings = settings.changed(encoder=settings.encoder or DEFAULT_ENCODER)
    chosen = project.samples(samples)
    devices = devices_of(workspace.device)
    specification = _specify(settings, workspace.device, expected=expected)
    fingerprint, about = specification.fingerprint, specification.description
    cache = Cache(workspace.cache, fingerprint, about.dimension)
    done = Embedded(about.encoder, fingerprint, about.dimension, note=specification.recipe.note)
    done.devices = [str(one) for one in devices]
    done.last_rate = _last_rate(project, fingerprint)
    blocks, done.tiles = plan(chosen, cache, about, shard=shard)
    done.cached = done.tiles - sum(len(block.keys) for block in blocks)
    if dry_run:
        return done
    failures: Mapping[str, Ds2cError] = {}
    if blocks:
        failures = _encode(
            done,
            blocks,
            specification,
            cache,
            devices=devices,
            batch_size=settings.batch_size,
            progress=workspace.progress,
        )
    if not expected:  # what a checkpoint needs is not what the project is embedded with
        used = EncoderUsed(settings=settings, fingerprint=fingerprint, description=about)
        project.record_embedding(used, rate=done.rate, samples=[sample.name for sample in chosen], shards=shard[1])
    if failures:
        raise _failed(failures)
    return done


def _specify(settings: Embedding, device: str, *, expected: str) -> Specification:
    """Find the encoder that is asked for; raises WeightsError where it is not the expected one."""
    found = specify(
        settings.encoder, settings.weights, device=device, precision=settings.precision, features=settings.features
    )
    if expected and found.fingerprint != expected:
        raise WeightsError(
            f"the encoder {settings.encoder} here has the fingerprint {found.fingerprint}, the model was trained with "
            f"{expected}",
            "Use the same weights, preprocessing and precision as in training.",
        )
    return found


def _last_rate(project: Project, fingerprint: str) -> float | None:
    """Look up how many tiles per second the encoder took the last time."""
    rates = (entry.tiles_per_second for entry in project.embeddings() if entry.fingerprint == fingerprint)
    return next(rates, None)


def _encode(
    done: Embedded,
    blocks: Sequence[Block],
    specification: Specification,
    cache: Cache,
    *,
    devices: Sequence[torch.device],
    batch_size: int,
    progress: Progress,
) -> Mapping[str, Ds2cError]:
    """Encode the blocks and note in `done` what came of it; returns the first error of each sample that had one."""
    encode = encode_blocks if len(devices) == 1 else encode_on_devices
    spent = encode(
        blocks,
        specification,
        cache,
        devices=devices,
        batch_size=batch_size,
        progress=progress,
        facts=f"{done.cached:,} cached",
    )
    done.encoded, done.batch_size = spent.tiles, spent.batch_size
    done.cached += spent.found
    done.read_seconds, done.encode_seconds, done.write_seconds = spent.read, spent.encode, spent.write
    done.rate = spent.tiles / spent.wall if spent.tiles else None
    return spent.failures


def _failed(failures: Mapping[str, Ds2cError]) -> InputError:
    """Make one message for all samples with tiles that could not be read; the others are done."""
    first = next(iter(failures.values()))
    if len(failures) == 1:
        return InputError(f"sample {next(iter(failures))}: {first.message}", first.hint)
    listed = "; ".join(f"{name}: {error.message}" for name, error in failures.items())
    return InputError(f"{len(failures)} samples could not be read to the end: {listed}", first.hint)
