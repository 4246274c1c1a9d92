"""ds2c embed: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..console import console
from .options import (
    CacheOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
    EncoderOption,
    JsonOption,
    PrecisionOption,
    ProjectOption,
    SamplesArgument,
    WeightsOption,
)


def command(
    samples: SamplesArgument = None,
    encoder: EncoderOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    batch_size: Annotated[int | None, typer.Option(help="Tiles encoded at once; found when not given.")] = None,
    device: DeviceOption = "auto",
    project: ProjectOption = Path(),
    cache: CacheOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Embed the tiles of cells and spots into the cache."""
    console.configure(json=json, debug=debug)
    from ..cache import default_root
    from ..embed import embed
    from ..project import Project
    from ..settings import Embedding

    flags = {"encoder": encoder, "weights": weights, "precision": precision, "batch_size": batch_size}
    home = Project(project)
    root = cache or default_root()
    with console.progress() as tell:
        done = embed(home, home.settings(Embedding, flags), root, samples or (), device, dry_run=dry_run, progress=tell)
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
    console.result([root], {**asdict(done), "cache": root})
