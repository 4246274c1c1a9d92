"""ds2c cache info, verify, merge, prune, export, import: options, one call, print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .console import console
from .options import DryRunOption, Session, shared
from .panels import PanelCommand

if TYPE_CHECKING:
    from ..cache.maintenance import Changed, Verified

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after the cache of embeddings.")

WantedOption = Annotated[
    str, typer.Option("--encoder", metavar="NAME", help="Only this encoder: its name, or how its fingerprint begins.")
]  # default ""
GraceOption = Annotated[
    float,
    typer.Option(
        "--grace", metavar="HOURS", help="Delete merged segments after this; 0 where no job is at work.", min=0
    ),
]  # default 24


@app.command(cls=PanelCommand)
@shared("cache")
def info(session: Session, encoder: WantedOption = "") -> None:
    """Show what the cache holds, by encoder and slide."""
    from ..cache.inventory import holdings, totals

    root = session.cache
    held, summed = holdings(root, encoder), totals(root, encoder)
    columns = ("encoder", "fingerprint", "dimension", "slide", "last path", "tiles", "MB", "bytes a tile")
    rows = [
        (one.encoder, one.fingerprint[:8], one.dimension, one.slide[:8] or "unknown", one.path or "unknown", one.tiles,
         one.bytes / 1e6, one.bytes / one.tiles if one.tiles else None)
        for one in held
    ]  # fmt: skip
    console.table(f"{root}", columns, rows)
    for total in summed.values():
        console.note(
            f"{total.encoder}: {total.tiles:,} tiles in {total.segments:,} segments, {_mb(total.bytes)}"
            + (f", and {_mb(total.bytes_waiting)} that a merge has replaced" if total.bytes_waiting else "")
        )
    document = {name: asdict(total) for name, total in summed.items()}
    console.result([root], {"cache": root, "encoders": document, "holdings": [asdict(one) for one in held]})


@app.command(cls=PanelCommand)
@shared("project", "cache")
def verify(
    session: Session,
    encoder: WantedOption = "",
    dry_run: DryRunOption = False,
) -> None:
    """Check every checksum; rescue what is sound of a damaged segment and put its file into quarantine."""
    from ..cache.maintenance import verify as verify_cache
    from ..embeddings.tiles import to_encode_again

    root = session.cache
    with console.progress() as tell:
        found = verify_cache(root, encoder, dry_run=dry_run, progress=tell)
    damaged = [one for one in found if one.damage]
    _tell_damage(damaged, dry_run=dry_run)
    lost = [] if dry_run else [(one.fingerprint, part["slide"]) for one in damaged for part in one.lost]
    again = to_encode_again(session.project, root, lost=lost)
    for lacking in again:
        (x, y, _), (right, lower, _) = lacking.boxes.min(axis=0), lacking.boxes.max(axis=0)
        console.hint(
            f"sample {lacking.sample}: {len(lacking.boxes):,} tiles, x {x:,} to {right:,} and y {y:,} to {lower:,} px, "
            f"are not in the cache; run `{lacking.command}`."
        )
    console.note(
        f"{len(found):,} segments, {sum(one.tiles for one in found):,} tiles: "
        + (f"{len(damaged):,} damaged" if damaged else "all sound")
    )
    lines = [f"{one.segment}: {one.damage}" for one in damaged]
    console.result(
        lines, {"segments": [asdict(one) for one in found], "to_encode_again": [asdict(one) for one in again]}
    )


@app.command(cls=PanelCommand)
@shared("cache")
def merge(
    session: Session,
    encoder: WantedOption = "",
    grace: GraceOption = 24.0,
    dry_run: DryRunOption = False,
) -> None:
    """Fold small segments into large ones, each tile once; jobs may be at work meanwhile."""
    from ..cache.maintenance import merge as merge_cache

    root = session.cache
    with console.progress() as tell:
        changed = merge_cache(root, encoder, grace_hours=grace, dry_run=dry_run, progress=tell)
    _tell(changed, dry_run=dry_run, grace=grace)
    console.result([root], {"encoders": [asdict(one) for one in changed]})


@app.command(cls=PanelCommand)
@shared("cache")
def prune(
    session: Session,
    encoder: WantedOption = "",
    slide: Annotated[
        list[str] | None,
        typer.Option("--slide", metavar="SLIDE", help="Tiles of a slide: how its fingerprint begins."),
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option("--not-in", metavar="PROJECT", help="Tiles of slides that none of these projects has."),
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Segments that were published or merged before.", min=0)
    ] = None,
    size: Annotated[
        float | None, typer.Option("--size", metavar="GB", help="The oldest segments, until so much is left.", min=0)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Delete embeddings: of an encoder, of slides, by age or by size. No job should be using them."""
    from ..cache.maintenance import prune as prune_cache
    from ..cache.maintenance import selection
    from ..project import Project

    root = session.cache
    projects = [Project(folder) for folder in known or []]
    kept = {sample.slide_fingerprint for home in projects for sample in home.samples()}
    doomed = selection(
        root, encoder, slides=slide or [], known=kept if projects else None, older_than_days=older_than, most_gb=size
    )
    planned = prune_cache(root, encoder, doomed=doomed, dry_run=True)
    _tell(planned, dry_run=True)
    going = sum(one.tiles_removed for one in planned)
    if going and not dry_run:
        _confirm(f"Delete {going:,} tiles?", yes)
        with console.progress() as tell:
            planned = prune_cache(root, encoder, doomed=doomed, progress=tell)
        _tell(planned)
    console.result([root], {"encoders": [asdict(one) for one in planned]})


@app.command("export", cls=PanelCommand)
@shared("project", "cache")
def export_command(
    session: Session,
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="A sample, or how a slide's fingerprint begins.")],
    encoder: WantedOption = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The HDF5 file to write.")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Write one slide's embeddings into a single file, to carry to another machine."""
    from ..cache.inventory import choose
    from ..cache.transfer import export_slide

    home = session.project
    wanted = home.sample(slide).slide_fingerprint if slide in home.sample_names() else slide
    chosen = choose(session.cache, encoder, slide=wanted, named=slide)
    path = output or Path(f"{slide}-{chosen.encoder.name.replace('/', '-')}.h5")
    if dry_run:
        console.note(f"{path}: {chosen.tiles:,} tiles of {chosen.path}, about {_mb(chosen.bytes)}")
        console.result([], {"path": path, "encoder": chosen.encoder.name, "tiles": chosen.tiles})
        return
    with console.progress() as tell:
        done = export_slide(chosen.encoder, chosen.slide, path=path, progress=tell)
    console.note(f"{path}: {done.tiles:,} tiles of {chosen.path}, {_mb(path.stat().st_size)}")
    console.result([path], asdict(done))


@app.command("import", cls=PanelCommand)
@shared("cache")
def import_command(
    session: Session,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of `ds2c cache export`.")],
    dry_run: DryRunOption = False,
) -> None:
    """Add exported embeddings to the cache."""
    from ..cache.transfer import import_slide

    root = session.cache
    results = []
    for path in files:
        with console.progress() as tell:
            done = import_slide(root, path, dry_run=dry_run, progress=tell)
        console.note(
            f"{path}: {done.tiles:,} tiles by {done.encoder}, {done.added:,} "
            + ("would be new" if dry_run else "were new to the cache")
        )
        results.append(asdict(done))
    console.result([root], {"cache": root, "files": results})


def _confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere only --yes will do."""
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError("nobody can be asked before embeddings are deleted", "Add --yes, or --dry-run to look.")
    typer.confirm(question, abort=True, err=True)


def _tell_damage(damaged: Sequence[Verified], *, dry_run: bool) -> None:
    """Warn of every damaged segment, and of the tiles that are lost with it."""
    done = "can be rescued" if dry_run else "are rescued; the file is in quarantine"
    for one in damaged:
        console.warn(f"{one.encoder}, {one.segment}: {one.damage}; {one.rescued:,} of {one.tiles:,} tiles {done}")
        for part in one.lost:
            console.warn(
                f"{part['tiles']:,} tiles of {part['path'] or part['slide']} are lost: embed encodes them again"
            )


def _tell(changed: Sequence[Changed], *, dry_run: bool = False, grace: float = 0.0) -> None:
    """A line per encoder."""
    for one in changed:
        removed = f", {one.tiles_removed:,} tiles deleted" if one.tiles_removed else ""
        console.note(
            f"{one.encoder}: {one.segments_before:,} segments of {_mb(one.bytes_before)} "
            f"{'would become' if dry_run else 'are now'} {one.segments_after:,} of {_mb(one.bytes_after)}"
            + removed.replace("deleted", "would go" if dry_run else "deleted")
        )
        if one.bytes_waiting:
            console.note(
                f"{one.encoder}: {_mb(one.bytes_waiting)} that were merged go with a merge {grace:g} hours later "
                "(--grace 0 where no job is at work)"
            )
        for name in one.skipped:
            console.warn(f"{one.encoder}, {name} is damaged and was left alone: run `ds2c cache verify`")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
