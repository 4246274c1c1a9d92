"""Predictions and samples in the formats of other software."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import schema
from ..choices import ExportFormat
from ..errors import InputError, UsageError
from ..files import recipe_hash, replacing, replacing_folder
from ..progress import silent
from ..project import Project, Workspace, must_run
from ..version import __version__
from .anndata_zarr import made_from as zarr_made_from
from .anndata_zarr import write_anndata_zarr
from .classes import classes_of
from .contents import ALL_GENES, find_prediction, of_prediction, of_sample
from .formats import Export
from .long_tables import equals_csv, parquet_made_from, weigh_csv, weigh_parquet, write_csv, write_parquet
from .qupath import qupath_made_from, weigh_qupath, write_qupath
from .spatialdata import write_spatialdata

FOLDER = "exports"
LARGEST_UNASKED = 10**9  # bytes: a larger file of every gene is written only when asked for


@dataclass(frozen=True)
class Format:
    """How one format is written, and how a written one is known again."""

    suffixes: tuple[str, ...]  # the first is the default's
    write: Callable[..., None]  # (path, export, progress[, compressed])
    made_from: Callable[[Path], str] | None = None  # the recipe in it; None where it has no room for one
    weigh: Callable[[Export], int] | None = None  # about how many bytes, where a gene is text in every cell
    folder: bool = False
    places: bool = False  # it has outlines, so that the sample is needed
    pictures: bool = False  # and pixels, so that the slide is
    needs_genes: bool = True


FORMATS: dict[ExportFormat, Format] = {
    "spatialdata": Format(
        (".spatialdata.zarr", ".zarr"),
        write_spatialdata,
        zarr_made_from,
        folder=True,
        places=True,
        pictures=True,
        needs_genes=False,
    ),
    "geojson": Format(
        (".geojson", ".geojson.gz"), write_qupath, qupath_made_from, weigh_qupath, places=True, needs_genes=False
    ),
    "parquet": Format((".parquet",), write_parquet, parquet_made_from, weigh_parquet),
    "csv": Format((".csv", ".csv.gz"), write_csv, None, weigh_csv),
    "zarr": Format((".zarr",), write_anndata_zarr, zarr_made_from, folder=True),
}


@dataclass
class Exported:
    """What `export` did for one prediction or sample."""

    source: str
    format: ExportFormat
    path: Path
    cells: int = 0
    genes: int = 0
    unchanged: bool = False


def export(
    workspace: Workspace | Project,
    sources: Sequence[str],
    *,
    to: ExportFormat,
    genes: Sequence[str] = (),
    class_by: str = "",
    image: bool = True,
    output: Path | None = None,
    force: bool = False,
) -> list[Exported]:
    """Write predictions (files, or NAME/SAMPLE of the project) or samples, each as one file or folder of a format.

    `genes` are all by default; `class_by` is a column of the cells, or "genes": of the genes the one that is highest
    in the cell, in standard deviations above its mean. Raises InputError for an unknown gene, a sample that is not
    there or has no outlines; UsageError for a format, column or output that does not fit, or a file that every gene
    would make larger than a gigabyte.
    """
    workspace = Workspace.of(workspace)
    if to not in FORMATS:
        raise UsageError(f"--to must be one of {', '.join(FORMATS)}, not {to!r}")
    if class_by and to != "geojson":
        raise UsageError(f"--class-by colours the cells of a GeoJSON; {to} has no classes", "Leave it out.")
    if output is not None and len(sources) > 1:
        raise UsageError(f"one output {output} cannot hold {len(sources)} exports", "Name one, or leave out -o.")
    return [
        _export(workspace, source, to=to, genes=genes, class_by=class_by, image=image, output=output, force=force)
        for source in sources
    ]


def _export(
    workspace: Workspace,
    source: str,
    *,
    to: ExportFormat,
    genes: Sequence[str],
    class_by: str,
    image: bool,
    output: Path | None,
    force: bool,
) -> Exported:
    """Write one export, unless what stands there is equal."""
    project = workspace.project
    how = FORMATS[to]
    image = image and how.pictures
    prediction = find_prediction(project, source)
    name = f"{prediction.parent.name}/{prediction.stem}" if prediction else source
    path = output or project.root / FOLDER / f"{name}{how.suffixes[0]}"
    suffix = next((suffix for suffix in how.suffixes if path.name.lower().endswith(suffix)), "")
    if not suffix:
        raise UsageError(f"{path} has no name for {to}", f"End it in {' or '.join(how.suffixes)}.")
    if prediction:
        found = of_prediction(project, prediction, genes=genes, places=how.places, image=image)
    else:
        found = of_sample(project.sample(source), genes=genes, places=how.places, image=image)
    if not len(found):
        raise InputError(f"{source} has no cells", "Predict again.")
    if how.needs_genes and not found.genes:
        raise InputError(
            f"sample {source} has no counts of cells, and there is nothing else to write as {to}",
            "Export a prediction of it.",
        )
    options = {"compressed": True} if suffix.endswith(".gz") else {}
    recipe = {
        "from": found.about, "format": to, "genes": found.genes, "class_by": class_by, "image": image,
        "version": schema.EXPORT_VERSION,
    }  # fmt: skip
    about = {"recipe": recipe_hash(recipe), "ds2c": __version__, **found.about}
    found = replace(found, about=about, classes=classes_of(found, class_by))
    done = Exported(source, to, path, len(found), len(found.genes))
    recorded = None if force else _recorded(how, path, found=found, options=options)
    if not must_run(f"{path}", recorded, wanted=found.recipe, force=force):
        return replace(done, unchanged=True)
    if how.folder and path.exists() and not _is_zarr(path):
        raise UsageError(f"{path} is no Zarr store, and is not replaced", "Choose another name with -o.")
    if how.weigh and not genes and (bytes_ := how.weigh(found)) > LARGEST_UNASKED:
        raise UsageError(
            f"all {len(found.genes):,} genes of {len(found):,} cells would make {path} about {bytes_ / 1e9:,.0f} GB",
            f"Choose some with --genes A,B, or say --genes {ALL_GENES}.",
        )
    with (replacing_folder if how.folder else replacing)(path) as part:
        how.write(part, found, workspace.progress, **options)
    return done


def _recorded(how: Format, path: Path, *, found: Export, options: dict[str, bool]) -> str | None:
    """Read the recipe of what stands at a path; empty where that is no export of this format, None where nothing is."""
    if not path.exists():
        return None
    if how.made_from:
        return how.made_from(path)
    return found.recipe if equals_csv(path, found, progress=silent, **options) else ""


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
