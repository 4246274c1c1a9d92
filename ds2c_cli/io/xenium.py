"""Xenium: the folder of a run, of every version: outlines and transcripts in microns, counts, the way to the slide."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..choices import Boundaries
from ..errors import InputError
from ..geometry import MicronsToPixels, fit_alignment, through_alignment
from .cell_tables import ID_COLUMNS, VERTEX, read_vertices
from .cells import Cells, checked_cells
from .tables import column_names, find_columns, no_columns, numbers, read_columns, readable

EXPERIMENT = "experiment.xenium"
MATRICES = ("cell_feature_matrix.h5", "cell_feature_matrix/matrix.mtx.gz", "cell_feature_matrix/matrix.mtx")
TRANSCRIPTS = ("transcripts.parquet", "transcripts.csv.gz", "transcripts.csv")
ALIGNMENTS = ("*imagealignment*.csv", "*image_alignment*.csv", "*keypoints*.csv")
KEYPOINTS = ("alignmentx", "alignmenty", "fixedx", "fixedy")  # of the slide's image; of the run's
KEYPOINT_UM = 20.0  # a pair of keypoints further apart than a cell or two is told
TAG_TOLERANCE = 0.1  # of the pixel size an alignment implies, against that of the slide


@dataclass(frozen=True)
class Xenium:
    """Where the files of a run are, and what its image's pixels measure."""

    folder: Path
    pixel_um: float
    boundaries: Path
    matrix: Path
    transcripts: Path | None
    alignment: Path | None

    @property
    def files(self) -> list[Path]:
        """What a sample of cells with their counts is made from; the transcripts are read on request."""
        return [self.folder / EXPERIMENT, self.boundaries, self.matrix, *([self.alignment] if self.alignment else [])]


def open_xenium(folder: Path, *, boundaries: Boundaries = "cell", alignment: Path | None = None) -> Xenium:
    """Find the run in a folder that holds experiment.xenium. Without `alignment` the folder's own file of that kind is
    taken, if it has one.

    Raises InputError for a file that is missing, or several alignments.
    """
    if not (folder / EXPERIMENT).is_file():
        raise InputError(f"{folder} has no {EXPERIMENT}", "Give the output folder of one region of a Xenium run.")
    with readable(folder / EXPERIMENT, "JSON"):
        pixel_um = float(json.loads((folder / EXPERIMENT).read_text())["pixel_size"])
    if not 0.01 <= pixel_um <= 10:
        raise InputError(f"{folder / EXPERIMENT} has a pixel_size of {pixel_um:g} um", "Copy the run again.")
    outlines = _first(folder, tuple(f"{boundaries}_boundaries{suffix}" for suffix in (".parquet", ".csv.gz", ".csv")))
    if alignment is None:
        found = sorted({path for pattern in ALIGNMENTS for path in folder.glob(pattern)})
        if len(found) > 1:
            raise InputError(
                f"{folder} has {len(found)} alignments: {', '.join(path.name for path in found)}",
                "Name the slide's with --alignment.",
            )
        alignment = found[0] if found else None
    transcripts = next((folder / name for name in TRANSCRIPTS if (folder / name).is_file()), None)
    return Xenium(
        folder=folder,
        pixel_um=pixel_um,
        boundaries=outlines,
        matrix=_first(folder, MATRICES),
        transcripts=transcripts,
        alignment=alignment,
    )


def way_to_slide(run: Xenium, *, slide_mpp: float | None, given_mpp: float | None) -> tuple[MicronsToPixels, str]:
    """How the run's microns become the slide's level-0 pixels, and a sentence about it or nothing.

    Through the alignment, whose matrix takes the slide's pixels to those of the run's image (Xenium Explorer's
    export); without one the slide shows what the run's image shows, from the same corner on, at its own pixel size.

    Raises InputError for an alignment that is none, or that fits the slide's own pixel size only the other way round.
    """
    if run.alignment is None:
        mpp = given_mpp or slide_mpp or run.pixel_um
        return MicronsToPixels(np.eye(2) / mpp, np.zeros(2)), (
            f"{run.folder} has no alignment: the slide is taken to show the run's image from the same corner on"
        )
    matrix, note = read_alignment(run.alignment, run.pixel_um)
    way = through_alignment(matrix, run.pixel_um)
    known = given_mpp or slide_mpp
    if known is not None and abs(way.mpp / known - 1) > TAG_TOLERANCE:
        other = through_alignment(np.linalg.inv(matrix), run.pixel_um)
        if abs(other.mpp / known - 1) < TAG_TOLERANCE:
            raise InputError(
                f"{run.alignment} takes the run's image to the slide: by its direction the slide would have "
                f"{way.mpp:.3f} um a pixel, and it has {known:.3f}",
                "Export the alignment of the H&E image to the Xenium image, or invert the matrix.",
            )
    return way, note


def read_alignment(path: Path, pixel_um: float) -> tuple[np.ndarray, str]:
    """Read the affine (3, 3) from the slide's pixels to the run's image, of Xenium Explorer's matrix or keypoints.

    And a sentence where keypoints lie far apart.

    Raises InputError for a file that is neither.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist", "Give Xenium Explorer's alignment CSV.")
    with readable(path, "an alignment"):
        first = path.read_text().lstrip("\ufeff").splitlines()[0]
    if any(name in first.lower() for name in KEYPOINTS):
        header = column_names(path)
        columns = find_columns(header, [KEYPOINTS])
        if not columns:
            raise no_columns(path, header, what="keypoints", candidates=[KEYPOINTS])
        frame = read_columns(path, columns)
        ids = np.arange(1, len(frame) + 1).astype(str)
        sx, sy, ix, iy = (numbers(path, frame, column=name, ids=ids, noun="keypoint") for name in columns)
        try:
            matrix, worst = fit_alignment(np.column_stack([sx, sy]), np.column_stack([ix, iy]))
        except np.linalg.LinAlgError:
            raise InputError(
                f"{path} has {len(frame)} keypoints, which fix no alignment", "Give at least 3 that are not on a line."
            ) from None
        far = worst * pixel_um
        note = f"keypoints of {path} are up to {far:.0f} um apart after alignment" if far > KEYPOINT_UM else ""
    else:
        with readable(path, "a matrix"):
            matrix, note = pd.read_csv(path, header=None).to_numpy(np.float64), ""
    if (
        matrix.shape != (3, 3)
        or not np.isfinite(matrix).all()
        or not np.allclose(matrix[2], (0, 0, 1))
        or abs(np.linalg.det(matrix)) < 1e-9
    ):
        raise InputError(
            f"{path} is no alignment: a matrix of 3 x 3 numbers that ends in 0, 0, 1, or keypoints",
            "Export it from Xenium Explorer.",
        )
    return matrix, note


def read_boundaries(run: Xenium, way: MicronsToPixels) -> Cells:
    """Read the outlines of cells or nuclei, in the slide's pixels; a cell of several nuclei has them all."""
    header = column_names(run.boundaries)
    columns = find_columns(header, [VERTEX])
    if not columns:
        raise no_columns(run.boundaries, header, what="vertices", candidates=[VERTEX])
    found, outline = read_vertices(
        run.boundaries, header=header, id_column=find_columns(header, ID_COLUMNS), vertex=columns
    )
    cells = checked_cells(found, outline)
    return Cells(cells.cell_id, way.outlines(cells.outline), note=cells.note)


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder} has none of {', '.join(names)}", "Give the whole output folder of the run.")
    return found
