"""ds2c prepare: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Boundaries, Layout, Membership, Preset, Pseudospot
from .console import console
from .options import DryRunOption, ForceOption, Session, shared

if TYPE_CHECKING:
    from ..samples.prepare import Prepared

# Panels of the help.
SLIDE, CELLS, SPOTS, PSEUDOSPOTS = "Slide", "Cells", "Measured spots", "Pseudo-spots, and the geometry of all spots"
VISIUM, XENIUM, HEST = "Visium", "Xenium", "HEST-1k"


@shared("project")
def command(
    session: Session,
    slide: Annotated[
        Path | None, typer.Argument(help="H&E slide: TIFF, SVS, OME-TIFF, JPEG or PNG.", metavar="SLIDE")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="A table of samples, with a column for each of these options.", metavar="FILE", rich_help_panel=SLIDE
        ),
    ] = None,
    sample: Annotated[
        str, typer.Option(help="Name of the sample; the slide's name by default.", rich_help_panel=SLIDE)
    ] = "",
    donor: Annotated[
        str, typer.Option(help="Who the slide is from; folds keep a donor whole.", rich_help_panel=SLIDE)
    ] = "",
    cohort: Annotated[str, typer.Option(help="The study it belongs to.", rich_help_panel=SLIDE)] = "",
    mpp: Annotated[
        float | None, typer.Option(help="Microns a pixel at level 0; by default from the slide.", rich_help_panel=SLIDE)
    ] = None,
    cells: Annotated[
        str,
        typer.Option(
            help="Cells: Parquet, GeoParquet, GeoJSON, CSV, label image, h5ad, SpatialData; or grid:20 for pseudo-"
            "cells of 20 um. Of --hest: cell, nucleus or cellvit.",
            metavar="FILE",
            rich_help_panel=CELLS,
        ),
    ] = "",
    counts: Annotated[
        Path | None,
        typer.Option(
            help="Raw counts of the cells, or of the spots: h5ad, 10x h5 or mtx, TSV, CSV or Parquet.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    spots: Annotated[
        Path | None, typer.Option(help="Positions of measured spots, in level-0 pixels.", rich_help_panel=SPOTS)
    ] = None,
    visium: Annotated[
        Path | None,
        typer.Option(
            help="Space Ranger's outs folder: spots with their counts.", metavar="DIR", rich_help_panel=VISIUM
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Of --visium also the spots beside the tissue.", rich_help_panel=VISIUM)
    ] = False,
    xenium: Annotated[
        Path | None,
        typer.Option(
            help="Output folder of a Xenium run: cells with their counts.", metavar="DIR", rich_help_panel=XENIUM
        ),
    ] = None,
    boundaries: Annotated[
        Boundaries, typer.Option(help="Outlines of --xenium to take.", rich_help_panel=XENIUM)
    ] = "cell",
    alignment: Annotated[
        Path | None,
        typer.Option(
            help="Xenium Explorer's CSV (matrix or keypoints) of the slide; else DIR's own.", rich_help_panel=XENIUM
        ),
    ] = None,
    hest: Annotated[
        str,
        typer.Option(
            help="HEST-1k folder, or hf to download the samples named with --id.",
            metavar="DIR|hf",
            rich_help_panel=HEST,
        ),
    ] = "",
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Samples of --hest; all of the folder by default.", rich_help_panel=HEST),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="A geometry: um (55 um) or ref-px (the published code's 160 px discs).", rich_help_panel=PSEUDOSPOTS
        ),
    ] = None,
    layout: Annotated[Layout | None, typer.Option(help="How pseudo-spots lie.", rich_help_panel=PSEUDOSPOTS)] = None,
    membership: Annotated[
        Membership | None, typer.Option(help="Which cells are in a spot.", rich_help_panel=PSEUDOSPOTS)
    ] = None,
    spot_um: Annotated[float | None, typer.Option(help="Diameter of a spot.", rich_help_panel=PSEUDOSPOTS)] = None,
    spot_tile_um: Annotated[
        float | None, typer.Option(help="Side of a spot's tile; 1.4 diameters by default.", rich_help_panel=PSEUDOSPOTS)
    ] = None,
    spot_px: Annotated[
        float | None,
        typer.Option(help="Diameter of a spot in level-0 pixels, whatever they measure.", rich_help_panel=PSEUDOSPOTS),
    ] = None,
    spot_tile_px: Annotated[
        float | None, typer.Option(help="Side of a spot's tile in level-0 pixels.", rich_help_panel=PSEUDOSPOTS)
    ] = None,
    pitch_um: Annotated[
        float | None, typer.Option(help="Distance of hexagonal pseudo-spots.", rich_help_panel=PSEUDOSPOTS)
    ] = None,
    cell_tile_um: Annotated[
        float | None, typer.Option(help="Smallest side of a cell's tile.", rich_help_panel=CELLS)
    ] = None,
    margin_um: Annotated[
        float | None, typer.Option(help="How far inside the disc, for membership margin.", rich_help_panel=PSEUDOSPOTS)
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="Share of the cell in the disc, for membership overlap.", rich_help_panel=PSEUDOSPOTS),
    ] = None,
    pseudospot: Annotated[
        Pseudospot | None,
        typer.Option(
            help="What pseudo-spots count: their cells, or all transcripts in the disc.", rich_help_panel=PSEUDOSPOTS
        ),
    ] = None,
    x_column: Annotated[
        str, typer.Option(help="Column of x in --spots, if it is not found.", rich_help_panel=SPOTS)
    ] = "",
    y_column: Annotated[str, typer.Option(help="Column of y in --spots.", rich_help_panel=SPOTS)] = "",
    id_column: Annotated[str, typer.Option(help="Column of the spot id in --spots.", rich_help_panel=SPOTS)] = "",
    keep_matching: Annotated[
        bool, typer.Option("--keep-matching", help="Go on with what both files have.", rich_help_panel=CELLS)
    ] = False,
    trust_coordinates: Annotated[
        bool,
        typer.Option("--trust-coordinates", help="Do not compare coordinates with the tissue.", rich_help_panel=SLIDE),
    ] = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
) -> None:
    """Turn slides, their cells and their expression into samples."""
    from ..samples.manifest import prepare_all
    from ..samples.requested import requested
    from ..samples.sources import Sources
    from ..settings import Geometry
    from ..settings import preset as preset_named

    flags = {
        "layout": layout, "membership": membership, "spot_um": spot_um, "spot_tile_um": spot_tile_um,
        "pitch_um": pitch_um, "cell_tile_um": cell_tile_um, "margin_um": margin_um, "overlap": overlap,
        "pseudospot": pseudospot, "spot_px": spot_px, "spot_tile_px": spot_tile_px,
    }  # fmt: skip
    flags = {**preset_named(preset or ""), **{name: value for name, value in flags.items() if value is not None}}
    geometry = session.project.settings(Geometry, flags)
    sources = Sources(
        slide or Path(), cells, counts=counts, spots=spots, visium=visium, raw=raw, xenium=xenium,
        boundaries=boundaries, alignment=alignment, x_column=x_column, y_column=y_column, id_column=id_column, mpp=mpp,
        keep_matching=keep_matching, trust_coordinates=trust_coordinates,
    )  # fmt: skip
    requests = requested(
        sources, geometry, slide=slide, manifest=manifest, hest=hest, ids=ids or (), sample=sample, donor=donor,
        cohort=cohort,
    )  # fmt: skip
    with session.workspace() as workspace:
        finished = prepare_all(workspace, requests, geometry=geometry, dry_run=dry_run, force=force)
    for done in finished:
        _tell(done, alone=len(finished) == 1, dry_run=dry_run)
    documents = [
        {
            "sample": done.folder.name, "folder": done.folder, "unchanged": done.unchanged, "cells": done.n_cells,
            "cells_inside": done.n_inside, "spots": done.n_spots, "genes": done.n_genes, "warnings": done.warnings,
        }
        for done in finished
    ]  # fmt: skip
    console.result([done.folder for done in finished], {"samples": documents} if slide is None else documents[0])


def _tell(done: Prepared, *, alone: bool, dry_run: bool) -> None:
    """Say what was made of one sample, and what is doubtful about it."""
    from .. import schema

    name = done.folder.name
    for warning in done.warnings:
        console.warn(warning if alone else f"{name}: {warning}")
    if done.unchanged:
        console.note(f"{name} is up to date")
        return
    console.note(
        f"{name}: {done.n_cells:,} cells, {done.n_inside:,} in {done.n_spots:,} spots, {done.n_genes:,} genes"
        + ("; nothing was written" if dry_run else f"; look at {done.folder / schema.OVERLAY_FILE}")
    )
