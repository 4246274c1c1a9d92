"""ds2c encoders: options, one call, print."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..choices import Precision
from .console import console
from .options import PrecisionOption, Session, WeightsOption, shared

COLUMNS = ("encoder", "dimension", "input px", "pooling", "licence", "access", "on this machine")


@shared("device")
def command(
    session: Session,
    check: Annotated[
        str | None, typer.Option("--check", metavar="NAME", help="Load this encoder and embed fixed tiles.")
    ] = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
) -> None:
    """List the encoders, with licence, access, and whether their weights are on this machine; or check one."""
    if check:
        _check(check, weights or "", session.device, precision or "auto")
    else:
        _list()


def _list() -> None:
    from ..encoders import RECIPES
    from ..encoders.weights import here

    rows = []
    for recipe in RECIPES.values():
        px = recipe.preprocessing.tile_px if recipe.preprocessing else 0
        shown = px or "as it is"
        held = here(recipe)
        rows.append((recipe.name, recipe.dimension, shown, recipe.pooling, recipe.licence, recipe.access, held))
    console.table("Encoders", COLUMNS, [(*row[:-1], "yes" if row[-1] else "no") for row in rows])
    console.note(
        "Also timm:NAME, hf-hub:OWNER/NAME, or a folder with config.json and weights. Of a gated one accept the "
        "licence on the hub's page, then log in with `hf auth login`."
    )
    listed = [
        {
            "encoder": recipe.name,
            "dimension": recipe.dimension,
            "pooling": recipe.pooling,
            "licence": recipe.licence,
            "access": recipe.access,
            "repository": recipe.repository,
            "revision": recipe.revision if recipe.repository else "",
            "on_this_machine": row[-1],
            "preprocessing": asdict(recipe.preprocessing) if recipe.preprocessing else None,
            "note": recipe.note,
        }
        for recipe, row in zip(RECIPES.values(), rows, strict=True)
    ]
    console.result([row[0] for row in rows], {"encoders": listed})


def _check(name: str, weights: str, device: str, precision: Precision) -> None:
    from ..encoders.check import check

    found = check(name, weights, device=device, precision=precision)
    console.note(
        f"{found.encoder}: {found.parameters:,} parameters, dimension {found.dimension}, {found.precision} on "
        f"{found.device}, loaded in {found.seconds_to_load:.1f} s"
    )
    if found.from_untrained is not None:
        console.note(f"weights: {found.weights}")
    if found.as_published is not None:
        console.note(f"their sha256 is {'that' if found.as_published else 'NOT that'} of the registry's revision")
    if found.from_untrained is not None:
        console.note(f"they move the fixed tiles' embeddings by {found.from_untrained:.2g} of an untrained network's")
    if found.from_golden is None:
        console.note("there are no stored embeddings of these weights to compare with")
    else:
        console.note(f"the embeddings differ from the stored ones by {found.from_golden:.1g} of their length")
    console.note(f"the first tile's embedding begins {', '.join(f'{number:.4f}' for number in found.first)}")
    console.result([found.fingerprint], asdict(found))
