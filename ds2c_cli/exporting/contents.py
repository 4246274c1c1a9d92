"""What is exported: the cells of a prediction or of a sample, and where they lie on the slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import JsonValue

from .. import schema
from ..errors import InputError
from ..expression import find_genes
from ..files import file_hash
from ..io.slides import open_slide
from ..prediction.file import PredictionFile
from ..project import Project, Sample
from .formats import Export, Place

ALL_GENES = "all"


def find_prediction(project: Project, source: str) -> Path | None:
    """Find the file of a prediction by its path or its NAME/SAMPLE in the project; None where the name is a sample's.

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


def of_prediction(project: Project, path: Path, *, genes: Sequence[str], places: bool, image: bool) -> Export:
    """Take a prediction's cells, which may be some of the sample's; with `places` their outlines from the project."""
    file = PredictionFile(path)
    names, columns = _chosen(file.genes, genes)
    sample = project.sample(file.info.sample.name) if places else None
    about: dict[str, JsonValue] = {
        "prediction": {"sha256": file_hash(path), "mode": file.info.mode},
        "checkpoint": {"name": file.info.checkpoint.name, "hash": file.info.checkpoint.hash},
        "sample": file.info.sample.document(),
        "prepared": sample.record.recipe if sample else None,  # its outlines
    }
    matrices = {key: partial(_columns, partial(file.block, key), columns) for key in file.matrices}
    obs = file.obs.set_axis(file.obs.index.astype(str)).rename_axis("cell_id")
    place = _place(sample, obs.index, slide=file.info.sample.slide_fingerprint, image=image) if sample else None
    colours = {key: value for key, value in file.uns.items() if key.endswith("_colors")}
    return Export(
        name=file.info.sample.name,
        slide_fingerprint=file.info.sample.slide_fingerprint,
        about=about,
        obs=obs,
        genes=names,
        panel=len(file.genes),
        matrices=matrices,
        obsm=file.obsm,
        place=place,
        colours=colours,
    )


def of_sample(sample: Sample, *, genes: Sequence[str], places: bool, image: bool) -> Export:
    """Take a sample as it was prepared, with the counts of its cells where they were measured."""
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
    about: dict[str, JsonValue] = {
        "prepared": sample.record.recipe,
        "sample": {"name": sample.name, "slide_fingerprint": sample.slide_fingerprint, "mpp": sample.mpp},
    }
    centre = cells[["x", "y"]].to_numpy()
    obsm = {schema.OBSM_UM: centre * sample.mpp, schema.OBSM_PX: centre}
    place = _place(sample, obs.index, slide=sample.slide_fingerprint, image=image) if places else None
    return Export(
        name=sample.name,
        slide_fingerprint=sample.slide_fingerprint,
        about=about,
        obs=obs,
        genes=names,
        panel=panel,
        matrices=matrices,
        obsm=obsm,
        place=place,
    )


def _chosen(genes: list[str], wanted: Sequence[str]) -> tuple[list[str], np.ndarray | None]:
    """Give the genes wanted and their columns; None for all of them."""
    if not wanted or list(wanted) == [ALL_GENES]:
        return genes, None
    columns = find_genes(genes, wanted)
    return [genes[i] for i in columns], columns


def _columns(rows: Callable[[int, int], np.ndarray], columns: np.ndarray | None, begin: int, end: int) -> np.ndarray:
    return rows(begin, end) if columns is None else rows(begin, end)[:, columns]


def _place(sample: Sample, cell_id: pd.Index, *, slide: str, image: bool) -> Place:
    """Say where cells of a sample lie.

    Raises InputError when the sample is not the one they were predicted on: it lacks one of the cells, or its slide has
    another fingerprint than `slide`.
    """
    row = pd.Index(sample.cells["cell_id"].astype(str)).get_indexer(cell_id)
    if sample.slide_fingerprint != slide or (row < 0).any():
        lacking = f"has no cell {cell_id[row < 0][0]}" if (row < 0).any() else "has another slide"
        raise InputError(
            f"the sample {sample.name} of the project is not the one that was predicted: it {lacking}",
            "Name the project with --project, or predict again.",
        )
    opened = None
    if image:
        if not sample.slide.is_file():
            raise InputError(f"the slide {sample.slide} of {sample.name} is gone", "Leave it out with --no-image.")
        opened = open_slide(sample.slide)
        if opened.fingerprint() != sample.slide_fingerprint:
            raise InputError(f"{sample.slide} has changed since it was prepared", "Run `ds2c prepare --force`.")
    counts = sample.spot_counts() if sample.has_spot_counts else None
    return Place(
        outline=sample.outlines()[row],
        mpp=sample.mpp,
        slide=opened,
        spots=sample.spots,
        spot_um=sample.geometry.in_microns(sample.mpp).spot_um,
        spot_counts=counts,
    )
