"""ds2c embed: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..choices import Features
from .console import console
from .options import DryRunOption, EncoderOption, PrecisionOption, SamplesArgument, Session, WeightsOption, shared
from .panels import ENCODER, RUN


@shared("device", "project", "cache")
def command(
    session: Session,
    samples: SamplesArgument = None,
    encoder: EncoderOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Tiles encoded at once; found when not given.", rich_help_panel=RUN)
    ] = None,
    features: Annotated[
        Features | None,
        typer.Option(
            help="tiles (of cells and spots), or superpixels, for --model istar and scstgcn.", rich_help_panel=ENCODER
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Part I of N, from 0: --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT with --array=0-3.",
            rich_help_panel=RUN,
        ),
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Embed the tiles of cells and spots into the cache."""
    from ..embeddings.embed import embed
    from ..settings import Embedding

    flags = {
        "encoder": encoder, "weights": weights, "precision": precision, "batch_size": batch_size, "features": features,
    }  # fmt: skip
    part = _shard(shard)
    with session.workspace() as workspace:
        done = embed(
            workspace,
            session.project.settings(Embedding, flags),
            samples=samples or (),
            shard=part,
            dry_run=dry_run,
        )
    if done.note:
        console.note(f"{done.encoder}: {done.note}")
    absent = done.tiles - done.cached
    if dry_run:
        at = f", about {absent / done.last_rate:,.0f} s at the last rate" if absent and done.last_rate else ""
        console.note(f"{done.encoder}: {done.tiles:,} tiles, {done.cached:,} in the cache, {absent:,} to encode{at}")
    else:
        console.note(
            f"{done.encoder}: {done.tiles:,} tiles, {done.cached:,} were in the cache, {done.encoded:,} encoded"
        )
    if done.rate:
        console.note(
            f"{done.rate:,.0f} tiles/s in batches of {done.batch_size} on {', '.join(done.devices)} (read "
            f"{done.read_seconds:.0f} s, encode {done.encode_seconds:.0f} s, write {done.write_seconds:.0f} s)"
        )
    console.result([session.cache], {**asdict(done), "cache": session.cache})


def _shard(words: str | None) -> tuple[int, int]:
    """The I and N of `--shard I/N`; all of the work without it."""
    from ..errors import UsageError

    if words is None:
        return 0, 1
    index, _, count = words.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(
            f"--shard is I/N with I from 0 to N - 1, not {words!r}",
            "In a SLURM array of 4 that is --array=0-3 and --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT.",
        )
    return int(index), int(count)
