"""Visium: the folder that Space Ranger writes, of every generation: spots, their array, their counts, their scale."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError
from .counts import Counts, read_counts
from .spots import SpotTable
from .tables import column_names, identifiers, listed, numbers, read_columns, readable, require_unique

POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
SCALE_FILE = "scalefactors_json.json"
MATRICES = ("{}_feature_bc_matrix.h5", "{}_feature_bc_matrix/matrix.mtx.gz", "{}_feature_bc_matrix/matrix.mtx")
PITCH_UM = 100.0  # centre to centre, of the 6.5 and the 11 mm capture areas
ARRAY_TOLERANCE = 0.1  # of a pitch: how far a spot may lie from where its row and column put it


@dataclass(frozen=True)
class Visium:
    """Spots with counts, in the order of the counts, and their places in the array."""

    spots: SpotTable
    counts: Counts
    array: np.ndarray  # (n, 2) int64: row, column; spots of one row are two columns apart
    pitch_px: float  # centre to centre, in pixels of the full-resolution image
    hires_scale: float  # pixels of tissue_hires_image.png a full-resolution pixel

    @property
    def mpp(self) -> float:
        """Microns a pixel of the full-resolution image, from the pitch of the spots."""
        return PITCH_UM / self.pitch_px


def visium_files(folder: Path, *, raw: bool = False) -> tuple[Path, Path, Path]:
    """Find the positions, scale factors and counts of a Space Ranger `outs` folder; with `raw` those of every spot.

    Raises InputError for a file that is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "Give the outs folder of Space Ranger, which holds spatial/.")
    spatial = folder / "spatial"
    positions = _first(spatial, POSITIONS, what="positions of the spots")
    matrix = _first(
        folder, [name.format("raw" if raw else "filtered") for name in MATRICES], what="counts of the spots"
    )
    if not (spatial / SCALE_FILE).is_file():
        raise InputError(f"{spatial / SCALE_FILE} does not exist", "Keep Space Ranger's spatial folder whole.")
    return positions, spatial / SCALE_FILE, matrix


def read_visium(folder: Path, *, raw: bool = False) -> Visium:
    """Read the in-tissue spots of a Space Ranger `outs` folder with their filtered counts; with `raw` every spot.

    Raises InputError for a file that is missing or malformed, a barcode without a position, positions that do not stand
    on Visium's array, and for Visium HD, whose bins are no spots.
    """
    positions, scale_file, matrix = visium_files(folder, raw=raw)
    scale = _hires_scale(scale_file)
    table, array = _positions(positions)
    counts = read_counts(matrix)
    at = pd.Index(table.spot_id).get_indexer(pd.Index(counts.ids))
    if (at < 0).any():
        raise InputError(
            f"{(at < 0).sum():,} barcodes of {matrix} have no position in {positions}, the first is "
            f"{counts.ids[at < 0][0]}",
            "Give the files of one run.",
        )
    kept = np.flatnonzero(table.in_tissue[at] | raw)
    if not len(kept):
        raise InputError(f"no spot of {positions} is in tissue", "Give a run in which tissue was found, or add --raw.")
    pitch = _pitch(positions, table, array=array)
    rows = at[kept]
    spots = table.only(rows)
    chosen = Counts(counts.ids[kept], counts.genes, counts.matrix[kept], counts.note)
    return Visium(spots, chosen, array[rows], pitch, scale)


def check_full_resolution(visium: Visium, *, width: int, height: int, slide: Path) -> None:
    """Raise InputError where the slide (width, height in pixels) is Space Ranger's small picture of the slide."""
    far = np.array([visium.spots.x.max(), visium.spots.y.max()])
    size = np.array([width, height])
    if (far > size).any() and (far * visium.hires_scale <= size).all():
        raise InputError(
            f"{slide} is {width} x {height} pixels and the spots reach to x {far[0]:.0f}, y {far[1]:.0f}: it is the "
            "reduced tissue_hires_image.png or one like it",
            "Give the full-resolution image that Space Ranger was given with --image.",
        )


def _first(folder: Path, names: list[str] | tuple[str, ...], *, what: str) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder} has no {what}: none of {', '.join(names)}", "Give the outs folder of Space Ranger.")
    return found


def _hires_scale(path: Path) -> float:
    with readable(path, "scale factors"):
        factors = json.loads(path.read_text())
        if "bin_size_um" in factors:
            raise InputError(
                f"{path} is of Visium HD, with bins of {factors['bin_size_um']:g} um: they are smaller than spots",
                "Give counts of segmented cells with --cells and --counts.",
            )
        return float(factors["tissue_hires_scalef"])


def _positions(path: Path) -> tuple[SpotTable, np.ndarray]:
    """All positions of the array, and their rows and columns (n, 2)."""
    if path.name == POSITIONS[-1]:  # before Space Ranger 2: no header
        with readable(path, "positions"):
            frame = pd.read_csv(path, header=None, names=list(COLUMNS), dtype=str)
    else:
        absent = [name for name in COLUMNS if name not in column_names(path)]
        if absent:
            raise InputError(f"{path} has no column {listed(absent)}", "Give Space Ranger's own file.")
        frame = read_columns(path, COLUMNS)
    ids = identifiers(path, frame["barcode"], noun="spot")
    require_unique(path, ids, noun="spot")
    in_tissue, row, column, y, x = (numbers(path, frame, column=name, ids=ids, noun="spot") for name in COLUMNS[1:])
    return SpotTable(ids, x, y, in_tissue == 1), np.column_stack([row, column]).astype(np.int64)


def _pitch(path: Path, table: SpotTable, *, array: np.ndarray) -> float:
    """Pixels from spot to spot: twice a column's step, and 2 / sqrt(3) times a row's, of the affine map from the array
    to the image that fits best.
    """
    points = table.centres
    design = np.column_stack([array, np.ones(len(array))])
    if np.linalg.matrix_rank(design) < 3:
        raise InputError(f"{path} has its spots on one line", "Give Space Ranger's own file.")
    step, *_ = np.linalg.lstsq(design, points, rcond=None)
    by_row, by_column = np.hypot(*step[0]) * 2 / np.sqrt(3), np.hypot(*step[1]) * 2
    pitch = float((by_row + by_column) / 2)
    apart = np.hypot(*(design @ step - points).T)
    worst = int(apart.argmax())
    if abs(by_row / by_column - 1) > ARRAY_TOLERANCE or apart[worst] > ARRAY_TOLERANCE * pitch:
        raise InputError(
            f"{path}: the pixels of the spots do not stand on Visium's array (spot {table.spot_id[worst]} is "
            f"{apart[worst]:.0f} px from where row {array[worst, 0]} and column {array[worst, 1]} put it; pitch "
            f"{by_column:.0f} px along rows, {by_row:.0f} px across)",
            "Were the columns changed? Give Space Ranger's own file.",
        )
    return pitch
