"""Step 1: slide, cells and expression become the tables of a sample."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .. import schema
from ..errors import UsageError
from ..io.tissue import TissueMask, tissue_mask
from ..project import Project, Workspace, must_run
from ..settings import Geometry
from .checks import check
from .ingest import read
from .inputs import SampleInputs
from .place import place
from .recipe import Recipe
from .sources import Sources
from .write import write

THUMBNAIL = 2048  # pixels of the longer side, in which tissue is looked for


@dataclass
class Prepared:
    """What `prepare` did. `warnings` are sentences for a person."""

    folder: Path
    unchanged: bool = False
    n_cells: int = 0
    n_inside: int = 0
    n_spots: int = 0
    n_genes: int = 0
    warnings: list[str] = field(default_factory=list)


def prepare(
    workspace: Workspace | Project,
    sources: Sources,
    *,
    geometry: Geometry = Geometry(),  # noqa: B008  (frozen)
    sample: str = "",
    donor: str = "",
    cohort: str = "",
    dry_run: bool = False,
    force: bool = False,
) -> Prepared:
    """Read one slide with its cells and, where given, its expression, and write samples/<sample>/.

    Cell counts make pseudo-spots with known single-cell truth; a spot table with counts makes measured spots;
    cells alone make a sample to predict on, with pseudo-spots for context only.
    Raises InputError for anything missing, malformed or contradictory in the files.
    """
    workspace = Workspace.of(workspace)
    project, progress = workspace.project, workspace.progress
    name = sample_name(sample or sources.slide.name.split(".")[0])
    sources.check()
    inputs = SampleInputs(sources)
    slide = inputs.slide
    recipe = Recipe.of(inputs, geometry=geometry, donor=donor or name, cohort=cohort or "cohort")
    folder = project.samples_folder / name
    recorded = project.sample(name).record.recipe if (folder / schema.SAMPLE_FILE).exists() and not force else None
    if not must_run(f"sample {name}", recorded, wanted=recipe.hash(), force=force or dry_run):
        return Prepared(folder, unchanged=True)

    progress("prepare", 0, 4, "slide")
    thumbnail, scale = slide.thumbnail(THUMBNAIL)
    tissue = TissueMask(tissue_mask(thumbnail), scale)
    progress("prepare", 1, 4, "cells")
    material = read(inputs, tissue)
    doubts = check(inputs, material, tissue=tissue, geometry=geometry)
    progress("prepare", 2, 4, "membership")
    placed = place(material, slide, geometry=geometry)
    done = Prepared(
        folder,
        n_cells=len(placed.points),
        n_inside=int((placed.member >= 0).sum()),
        n_spots=len(placed.n_cells),
        n_genes=int(placed.genes.sum()),
        warnings=material.notes + doubts + placed.notes,
    )
    if dry_run:
        return done

    progress("prepare", 3, 4, "write")
    write(folder, recipe, slide=slide, tissue=tissue, material=material, placed=placed, warnings=done.warnings)
    progress("prepare", 4, 4, "")
    return done


def sample_name(name: str) -> str:
    """Give the name back if it can name a folder; raises UsageError."""
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a sample", "Use letters, digits, '_', '-', '+' and '.' with --sample.")
    return name
