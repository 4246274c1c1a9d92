"""Do the files of a sample belong together: ids that match, coordinates on the tissue, a credible pixel size?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import shapely

from ..errors import InputError
from ..geometry import Lattice, centroids
from ..io.tissue import TissueMask
from ..settings import Geometry
from .inputs import SampleInputs
from .material import Material

TYPICAL_CELL_UM = (4.0, 40.0)  # equivalent diameter of a segmented nucleus or cell, beyond which mpp is doubted
PITCHES_UM = {"hex": (100.0,), "grid": (200.0, 100.0)}  # Visium; legacy Spatial Transcriptomics and 100 um arrays
PITCH_TOLERANCE = 0.15
TAG_TOLERANCE = 0.05
CHECK_BIN_UM = 150.0  # coordinates are compared with the tissue in squares of this side
CHECK_GAIN = 0.25  # how much better another reading of the coordinates must fit to be called the right one


def match(
    ids: np.ndarray, counted: np.ndarray, *, kind: str, source: str, counts_source: str, keep_matching: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of ids (n,) and of the counts' ids (m,) that are the same, in the order of the first.

    Raises InputError unless both hold the same ids; with `keep_matching` only when they share none.
    """
    position = pd.Index(counted).get_indexer(pd.Index(ids))
    common = position >= 0
    without, unknown = int((~common).sum()), len(counted) - int(common.sum())
    if not common.any():
        raise InputError(
            f"the {kind} ids of {source} ({', '.join(ids[:2])}, ...) and of {counts_source} "
            f"({', '.join(counted[:2])}, ...) have nothing in common",
            "Give files of the same run.",
        )
    if (without or unknown) and not keep_matching:
        example = ids[~common][0] if without else np.setdiff1d(counted, ids)[0]
        raise InputError(
            f"the {kind} ids don't match: {without:,} of {len(ids):,} in {source} have no counts, {unknown:,} of "
            f"{len(counted):,} in {counts_source} have no {kind} (for example {example})",
            f"Give files of the same run, or go on with the {int(common.sum()):,} in both by --keep-matching.",
        )
    return np.flatnonzero(common), position[common]


def check(inputs: SampleInputs, material: Material, *, tissue: TissueMask, geometry: Geometry) -> list[str]:
    """Check that cells and spots lie on the tissue, and say in sentences what else is to be doubted.

    Raises:
        InputError: Coordinates are not those of this slide, unless the user trusts them.
    """
    doubts: list[str] = []
    measured, mpp = material.measured, material.mpp
    if measured is not None:
        doubts += doubt_pitch(measured.lattice, mpp=mpp, geometry=geometry.in_microns(mpp))
        check_coordinates(
            inputs,
            measured.spots.centres,
            ids=measured.spots.spot_id,
            kind="spot",
            source=measured.spots_from,
            tissue=tissue,
            mpp=mpp,
        )
    if not inputs.sources.on_grid:
        cells = material.cells
        doubts += doubt_cell_size(cells.outline, mpp=mpp)
        check_coordinates(
            inputs,
            centroids(cells.outline),
            ids=cells.cell_id,
            kind="cell",
            source=material.cells_from,
            tissue=tissue,
            mpp=mpp,
        )
    return doubts


def check_coordinates(
    inputs: SampleInputs, points: np.ndarray, *, ids: np.ndarray, kind: str, source: str, tissue: TissueMask, mpp: float
) -> None:
    """Check that points lie on the slide and that no other reading of them fits the tissue far better.

    The other readings are the usual mistakes: x and y swapped, microns given as pixels, both. Nothing is checked where
    the user trusts the coordinates.

    Args:
        inputs: The sample's files.
        points: (n, 2) in level-0 pixels.
        ids: (n,) of the points.
        kind: What they are: cell, spot.
        source: Where they are from, for messages.
        tissue: Where the slide shows tissue.
        mpp: Microns per pixel.

    Raises:
        InputError: They don't fit the slide.
    """
    if inputs.sources.trust_coordinates:
        return
    slide = inputs.slide
    x, y = points.T
    outside = (x < 0) | (y < 0) | (x > slide.width) | (y > slide.height)
    bin_px = max(CHECK_BIN_UM / mpp, tissue.scale)
    readings = {
        "as given": (x, y),
        "with x and y swapped": (y, x),
        "as microns, not pixels": (x / mpp, y / mpp),
        "as microns with x and y swapped": (y / mpp, x / mpp),
    }
    fit = {name: tissue.jaccard(a, b, bin_px=bin_px) for name, (a, b) in readings.items()}
    best = max(fit, key=lambda name: fit[name])
    wrong = fit[best] > fit["as given"] + CHECK_GAIN
    if not outside.any() and not wrong:
        return
    size = f"{slide.width} x {slide.height} pixels of {slide.path}"
    if outside.any():
        first = int(np.argmax(outside))
        message = (
            f"{outside.sum():,} of {len(points):,} {kind}s of {source} lie outside the {size}, the first is "
            f"{ids[first]} at x {x[first]:.0f}, y {y[first]:.0f}"
        )
    else:
        message = f"the {kind}s of {source} do not lie on the tissue of the {size}"
    advice = f"They fit the tissue {fit[best]:.0%} {best}, {fit['as given']:.0%} as given. " if wrong else ""
    raise InputError(
        message, advice + "Give x and y in level-0 pixels of this slide, or overrule: --trust-coordinates."
    )


def doubt_pixel_size(mpp: float, tag: float | None) -> list[str]:
    """Say where the slide's own tag says another pixel size than the one that is used."""
    if tag is None or abs(tag / mpp - 1) <= TAG_TOLERANCE:
        return []
    return [f"the slide's tag says {tag:g} um a pixel, {mpp:g} is used"]


def doubt_cell_size(outline: np.ndarray, *, mpp: float) -> list[str]:
    """Say where the median cell (of shapely outlines, pixels) has no cell's size at this pixel size."""
    area = shapely.area(outline)
    if not (area > 0).any():
        return []
    diameter = 2 * np.sqrt(np.median(area[area > 0]) / np.pi) * mpp
    low, high = TYPICAL_CELL_UM
    if low <= diameter <= high:
        return []
    return [
        f"at {mpp:g} um a pixel the median cell is {diameter:.1f} um across, not between {low:g} and {high:g} um: "
        "check the pixel size"
    ]


def doubt_pitch(lattice: Lattice, *, mpp: float, geometry: Geometry) -> list[str]:
    """Say where measured spots stand closer than they are wide, or at no known array's distance."""
    pitch = lattice.pitch_px * mpp
    if not np.isfinite(pitch):
        return []
    says = f"at {mpp:g} um a pixel the spots are {pitch:.0f} um apart"
    if pitch < geometry.spot_um * 0.95:
        return [f"{says}, less than their diameter of {geometry.spot_um:g} um: check --mpp and --spot-um"]
    usual = PITCHES_UM[lattice.layout]
    if any(abs(pitch / known - 1) < PITCH_TOLERANCE for known in usual):
        return []
    known = " or ".join(f"{p:g}" for p in usual)
    return [f"{says} on a {lattice.layout} layout, where {known} um is usual: check the pixel size"]
