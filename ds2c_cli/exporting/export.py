"""Predictions and samples in the formats of other software."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from .. import __version__, schema
from ..choices import ExportFormat
from ..errors import InputError, UsageError
from ..expression import find_genes
from ..files import file_hash, recipe_hash, replacing, replacing_folder
from ..io.slides import open_slide
from ..prediction.file import PredictionFile
from ..progress import silent
from ..project import Project, Sample, must_run
from ..workspace import Workspace
from .anndata_zarr import made_from as zarr_made_from
from .anndata_zarr import write_anndata_zarr
from .formats import Classes, Export, Place
from .long_tables import equals_csv, parquet_made_from, weigh_csv, weigh_parquet, write_csv, write_parquet
from .qupath import qupath_made_from, weigh_qupath, write_qupath
from .spatialdata import write_spatialdata

FOLDER = "exports"
ALL_GENES, BY_GENES = "all", "genes"
LARGEST_UNASKED = 10**9  # bytes: a larger file of every gene is written only when asked for
MOST_CLASSES = 256


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
        found = of_prediction(project, prediction, genes, how.places, image)
    else:
        found = of_sample(project.sample(source), genes, how.places, image)
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
    found = replace(found, about=about, classes=_classes(found, class_by))
    done = Exported(source, to, path, len(found), len(found.genes))
    recorded = None if force else _recorded(how, path, found, options)
    if not must_run(f"{path}", recorded, found.about["recipe"], force):
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


def _recorded(how: Format, path: Path, found: Export, options: dict[str, Any]) -> str | None:
    """The recipe of what stands at a path; empty where it is no export of this format, None where nothing stands."""
    if not path.exists():
        return None
    if how.made_from:
        return how.made_from(path)
    return found.about["recipe"] if equals_csv(path, found, silent, **options) else ""


def find_prediction(project: Project, source: str) -> Path | None:
    """The file of a prediction by its path or its NAME/SAMPLE in the project; None where the name is a sample's.

    Raises InputError when it is neither.
    """
    folder = project.predictions("")
    known = [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.glob("*/*.h5ad"))]
    if source.endswith(".h5ad"):
        return Path(source)
    if source in known:
        return project.predictions(f"{source}.h5ad")
    samples = project.sample_names()
    if source in samples:
        return None
    raise InputError(
        f"there is no prediction or sample {source} (the project has the predictions "
        f"{', '.join(known) or 'none yet'} and the samples {', '.join(samples) or 'none yet'})",
        "Give the file that `ds2c predict` wrote, or one of these names.",
    )


def of_prediction(project: Project, path: Path, genes: Sequence[str], places: bool, image: bool) -> Export:
    """A prediction's cells, which may be some of the sample's only; with `places` their outlines from the project."""
    file = PredictionFile(path)
    names, columns = _chosen(file.genes, genes)
    sample = project.sample(file.info.sample.name) if places else None
    about = {
        "prediction": {"sha256": file_hash(path), "mode": file.info.mode},
        "checkpoint": {"name": file.info.checkpoint.name, "hash": file.info.checkpoint.hash},
        "sample": file.info.sample.document(),
        "prepared": sample.record.recipe if sample else None,  # its outlines
    }
    matrices = {key: partial(_columns, partial(file.block, key), columns) for key in file.matrices}
    obs = file.obs.set_axis(file.obs.index.astype(str)).rename_axis("cell_id")
    place = _place(sample, obs.index, file.info.sample.slide_fingerprint, image) if sample else None
    colours = {key: value for key, value in file.uns.items() if key.endswith("_colors")}
    found = Export(file.info.sample.name, about, obs, names, len(file.genes), matrices, file.obsm, place)
    return replace(found, colours=colours)


def of_sample(sample: Sample, genes: Sequence[str], places: bool, image: bool) -> Export:
    """A sample as it was prepared, with the counts of its cells where they were measured."""
    cells = sample.cells
    obs = cells.drop(columns="cell_id").set_index(pd.Index(cells["cell_id"].astype(str), name="cell_id"))
    names: list[str] = []
    matrices, panel = {}, 0
    if sample.has_cell_truth:
        counts = sample.cell_counts()
        names, columns = _chosen(list(counts.genes), genes)
        panel = len(counts.genes)
        matrix = counts.matrix if columns is None else counts.matrix[:, columns]
        matrices = {schema.LAYER_COUNTS: lambda begin, end: matrix[begin:end].toarray()}
    elif genes:
        raise InputError(f"sample {sample.name} has no counts of cells to choose genes of", "Leave out --genes.")
    about = {
        "prepared": sample.record.recipe,
        "sample": {"name": sample.name, "slide_fingerprint": sample.slide_fingerprint, "mpp": sample.mpp},
    }
    centre = cells[["x", "y"]].to_numpy()
    obsm = {schema.OBSM_UM: centre * sample.mpp, schema.OBSM_PX: centre}
    place = _place(sample, obs.index, sample.slide_fingerprint, image) if places else None
    return Export(sample.name, about, obs, names, panel, matrices, obsm, place)


def _chosen(genes: list[str], wanted: Sequence[str]) -> tuple[list[str], np.ndarray | None]:
    """The genes wanted and their columns; None for all of them."""
    if not wanted or list(wanted) == [ALL_GENES]:
        return genes, None
    columns = find_genes(genes, wanted)
    return [genes[i] for i in columns], columns


def _columns(rows: Callable[[int, int], np.ndarray], columns: np.ndarray | None, begin: int, end: int) -> np.ndarray:
    return rows(begin, end) if columns is None else rows(begin, end)[:, columns]


def _place(sample: Sample, cell_id: pd.Index, slide_fingerprint: str, image: bool) -> Place:
    """Where cells of a sample lie; raises InputError when the sample is not the one they were predicted on."""
    row = pd.Index(sample.cells["cell_id"].astype(str)).get_indexer(cell_id)
    if sample.slide_fingerprint != slide_fingerprint or (row < 0).any():
        lacking = f"has no cell {cell_id[row < 0][0]}" if (row < 0).any() else "has another slide"
        raise InputError(
            f"the sample {sample.name} of the project is not the one that was predicted: it {lacking}",
            "Name the project with --project, or predict again.",
        )
    slide = None
    if image:
        if not sample.slide.is_file():
            raise InputError(f"the slide {sample.slide} of {sample.name} is gone", "Leave it out with --no-image.")
        slide = open_slide(sample.slide)
        if slide.fingerprint() != sample.slide_fingerprint:
            raise InputError(f"{sample.slide} has changed since it was prepared", "Run `ds2c prepare --force`.")
    counts = sample.spot_counts() if sample.has_spot_counts else None
    return Place(
        sample.outlines()[row], sample.mpp, slide, sample.spots, sample.geometry.in_microns(sample.mpp).spot_um, counts
    )


# Classes


def _classes(found: Export, by: str) -> Classes | None:
    if not by:
        return None
    if by in found.obs:
        return _classes_of_column(found.obs[by], found.colours.get(f"{by}_colors"))
    if by == BY_GENES:
        return _classes_of_genes(found)
    raise UsageError(
        f"the cells have no column {by!r}: they have {', '.join(map(str, found.obs.columns))}",
        f"--class-by takes one of them, or {BY_GENES!r}.",
    )


def _classes_of_column(column: pd.Series, colours: Any) -> Classes:
    """A class for each value of a column of names, flags or whole numbers; with scanpy's colours where it has some."""
    if pd.api.types.is_float_dtype(column):
        raise UsageError(
            f"--class-by needs a column of classes, {column.name} has measured numbers",
            "QuPath colours numbers by itself: give genes, and look at its measurement maps.",
        )
    if pd.api.types.is_bool_dtype(column):
        column = column.map({True: str(column.name), False: f"not {column.name}"})
    values = column.astype("category").cat
    names = [str(value) for value in values.categories]
    if len(names) > MOST_CLASSES:
        raise UsageError(f"{column.name} has {len(names):,} values, too many to be classes", "Choose another column.")
    codes = values.codes.to_numpy()
    if colours is None or len(colours) < len(names):
        return Classes(names, spread_colours(len(names)), _slice_of(codes))
    return Classes(names, [_bytes_of(to_rgb(str(colour))) for colour in colours], _slice_of(codes))


def _classes_of_genes(found: Export) -> Classes:
    """The gene that is highest in each cell, in standard deviations above its mean over all cells; none where none is
    above its mean."""
    if len(found.genes) < 2 or len(found.genes) > MOST_CLASSES:
        raise UsageError(
            f"--class-by {BY_GENES} compares some genes, not {len(found.genes):,}", "Choose markers with --genes A,B,C."
        )
    rows = found.matrices.get("X", found.matrices.get(schema.LAYER_COUNTS))
    assert rows is not None
    total = np.zeros((2, len(found.genes)))
    for begin, end in found.blocks(len(found)):
        block = rows(begin, end).astype(np.float64)
        total += [block.sum(0), (block**2).sum(0)]
    mean = total[0] / len(found)
    spread = np.sqrt(np.maximum(total[1] / len(found) - mean**2, 0))

    def highest(begin: int, end: int) -> np.ndarray:
        above = (rows(begin, end) - mean) / np.where(spread > 0, spread, np.inf)
        return np.where(above.max(1) > 0, above.argmax(1), -1)

    return Classes(found.genes, spread_colours(len(found.genes)), highest)


def _slice_of(codes: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda begin, end: codes[begin:end]


def spread_colours(number: int) -> list[tuple[int, int, int]]:
    """Colours that differ: hues a golden ratio apart, as light as shows on H&E."""
    hues = ((0.61 + 0.618034 * i) % 1 for i in range(number))
    return [_bytes_of(colorsys.hls_to_rgb(hue, 0.45 + 0.1 * (i % 2), 0.95)) for i, hue in enumerate(hues)]


def _bytes_of(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
