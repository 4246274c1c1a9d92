"""ds2c prepare: options, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import console
from .options import DebugOption, DryRunOption, ForceOption, JsonOption, ProjectOption


def command(
    slide: Annotated[Path, typer.Argument(help="H&E slide: TIFF, SVS, OME-TIFF, JPEG or PNG.", metavar="SLIDE")],
    cells: Annotated[
        str,
        typer.Option(
            help="Cells: Parquet, GeoParquet, GeoJSON, CSV, label image or h5ad; or grid:20 for pseudo-cells of 20 um.",
            metavar="FILE",
        ),
    ],
    counts: Annotated[
        Path | None,
        typer.Option(help="Raw counts of the cells, or of the spots: h5ad, 10x h5 or mtx, TSV, CSV or Parquet."),
    ] = None,
    spots: Annotated[Path | None, typer.Option(help="Positions of measured spots, in level-0 pixels.")] = None,
    visium: Annotated[
        Path | None, typer.Option(help="Space Ranger's outs folder: spots with their counts.", metavar="DIR")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Of --visium also the spots beside the tissue.")] = False,
    sample: Annotated[str, typer.Option(help="Name of the sample; the slide's name by default.")] = "",
    donor: Annotated[str, typer.Option(help="Who the slide is from; folds keep a donor whole.")] = "",
    cohort: Annotated[str, typer.Option(help="The study it belongs to.")] = "",
    mpp: Annotated[float | None, typer.Option(help="Microns a pixel at level 0; by default from the slide.")] = None,
    layout: Annotated[str | None, typer.Option(help="Pseudo-spots: grid or hex.")] = None,
    membership: Annotated[
        str | None, typer.Option(help="Which cells are in a spot: margin, overlap, centroid.")
    ] = None,
    spot_um: Annotated[float | None, typer.Option(help="Diameter of a spot.")] = None,
    spot_tile_um: Annotated[float | None, typer.Option(help="Side of a spot's tile; 1.4 diameters by default.")] = None,
    pitch_um: Annotated[float | None, typer.Option(help="Distance of hexagonal pseudo-spots.")] = None,
    cell_tile_um: Annotated[float | None, typer.Option(help="Smallest side of a cell's tile.")] = None,
    margin_um: Annotated[float | None, typer.Option(help="How far inside the disc, for membership margin.")] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of the cell in the disc, for membership overlap.")
    ] = None,
    x_column: Annotated[str, typer.Option(help="Column of x in --spots, if it is not found.")] = "",
    y_column: Annotated[str, typer.Option(help="Column of y in --spots.")] = "",
    id_column: Annotated[str, typer.Option(help="Column of the spot id in --spots.")] = "",
    keep_matching: Annotated[bool, typer.Option("--keep-matching", help="Go on with what both files have.")] = False,
    trust_coordinates: Annotated[
        bool, typer.Option("--trust-coordinates", help="Do not compare coordinates with the tissue.")
    ] = False,
    project: ProjectOption = Path(),
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn a slide, its cells and its expression into a sample."""
    console.configure(json=json, debug=debug)
    from .. import schema
    from ..prepare import Sources, prepare
    from ..project import Project
    from ..settings import Geometry

    flags = {
        "layout": layout, "membership": membership, "spot_um": spot_um, "spot_tile_um": spot_tile_um,
        "pitch_um": pitch_um, "cell_tile_um": cell_tile_um, "margin_um": margin_um, "overlap": overlap,
    }  # fmt: skip
    home = Project(project)
    sources = Sources(
        slide, cells, counts, spots, visium, raw, x_column, y_column, id_column, mpp, keep_matching, trust_coordinates
    )
    with console.progress() as tell:
        done = prepare(home, sources, home.settings(Geometry, flags), sample, donor, cohort, dry_run, force, tell)
    for warning in done.warnings:
        console.warn(warning)
    name = done.folder.name
    if done.unchanged:
        console.note(f"{name} is up to date")
    else:
        console.note(
            f"{name}: {done.n_cells:,} cells, {done.n_inside:,} in {done.n_spots:,} spots, {done.n_genes:,} genes"
            + ("; nothing was written" if dry_run else f"; look at {done.folder / schema.OVERLAY_FILE}")
        )
    console.result(
        [done.folder],
        {
            "sample": name, "folder": done.folder, "unchanged": done.unchanged, "cells": done.n_cells,
            "cells_inside": done.n_inside, "spots": done.n_spots, "genes": done.n_genes, "warnings": done.warnings,
        },
    )  # fmt: skip
