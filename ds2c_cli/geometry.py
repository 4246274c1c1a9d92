"""Spots, tiles, membership and neighbours; the only place where microns become pixels and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.spatial import cKDTree

from .choices import Layout
from .settings import Geometry

NEIGHBOURS = {"grid": 8, "hex": 6}
# How far a neighbour is, in pitches: on a grid the diagonal is at 1.41 and the next ring at 2, on a hexagonal
# layout the ring is at 1 and the next at 1.73. Half-way between, so that jitter of the array does not matter.
REACH = {"grid": 1.7, "hex": 1.35}


@dataclass(frozen=True)
class Lattice:
    """What the spots' positions say of their array."""

    layout: Layout
    pitch_px: float


@dataclass(frozen=True)
class MicronsToPixels:
    """How an instrument's microns become level-0 pixels of a slide: pixels = matrix @ microns + offset."""

    matrix: np.ndarray  # (2, 2)
    offset: np.ndarray  # (2,)

    @property
    def mpp(self) -> float:
        """Microns a pixel of the slide, the mean of both directions."""
        return float(1 / np.sqrt(abs(np.linalg.det(self.matrix))))

    def points(self, microns: np.ndarray) -> np.ndarray:
        """Points (n, 2) in pixels."""
        return microns @ self.matrix.T + self.offset

    def outlines(self, microns: np.ndarray) -> np.ndarray:
        """Shapely outlines (n,) in pixels."""
        return shapely.transform(microns, self.points)


def through_alignment(alignment: np.ndarray, pixel_um: float) -> MicronsToPixels:
    """Microns to slide pixels by a (3, 3) affine matrix from the slide's pixels to those of the instrument's image,
    which are `pixel_um` wide.
    """
    inverse = np.linalg.inv(alignment)
    return MicronsToPixels(inverse[:2, :2] / pixel_um, inverse[:2, 2])


def fit_alignment(slide: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, float]:
    """The affine (3, 3) that takes points of a slide (n, 2) nearest to their places in an image (n, 2), by least
    squares; and how far from them it leaves the worst. Raises numpy's LinAlgError where the points are on one line.
    """
    design = np.column_stack([slide, np.ones(len(slide))])
    solution, _, rank, _ = np.linalg.lstsq(design, image, rcond=None)
    if rank < 3:
        raise np.linalg.LinAlgError("the points are on one line")
    worst = float(np.hypot(*(design @ solution - image).T).max())
    return np.vstack([solution.T, [0.0, 0.0, 1.0]]), worst


def pseudo_spots(width: int, height: int, *, mpp: float, geometry: Geometry) -> np.ndarray:
    """Centres (n, 2) in pixels of the pseudo-spots whose whole tile lies on the slide, row by row.

    `grid`: adjoining square tiles with a disc in the centre of each; `hex`: rows half a pitch apart in x and
    sqrt(3)/2 pitches in y, as Visium's.
    """
    half = geometry.spot_tile_um / mpp / 2
    pitch = (geometry.spot_tile_um if geometry.layout == "grid" else geometry.pitch_um) / mpp
    row_pitch = pitch if geometry.layout == "grid" else pitch * np.sqrt(3) / 2
    ys = np.arange(half, height - half + 1e-6, row_pitch)
    rows = []
    for row, y in enumerate(ys):
        shift = pitch / 2 if geometry.layout == "hex" and row % 2 else 0.0
        xs = np.arange(half + shift, width - half + 1e-6, pitch)
        rows.append(np.column_stack([xs, np.full(len(xs), y)]))
    return np.concatenate(rows) if rows else np.empty((0, 2))


def square_tiles(x: np.ndarray, y: np.ndarray, side: np.ndarray | float) -> np.ndarray:
    """Tiles (n, 3): upper left x, y and side, centred on x, y (n,)."""
    side = np.broadcast_to(side, x.shape)
    return np.column_stack([x - side / 2, y - side / 2, side])


def cell_tiles(outline: np.ndarray, mpp: float, smallest_um: float) -> np.ndarray:
    """The smallest square around each cell, centred on its bounding box, of at least `smallest_um`: (n, 3) pixels."""
    x0, y0, x1, y1 = shapely.bounds(outline).T
    side = np.maximum(np.maximum(x1 - x0, y1 - y0), max(smallest_um / mpp, 1.0))
    return square_tiles((x0 + x1) / 2, (y0 + y1) / 2, side)


def pixel_boxes(tiles: np.ndarray) -> np.ndarray:
    """Tiles (n, 3) of floats as whole level-0 pixels (n, 3) int64: what is cropped and what names the cache key."""
    side = np.maximum(np.rint(tiles[:, 2]), 1)
    corner = np.rint(tiles[:, :2] + (tiles[:, 2:] - side[:, None]) / 2)
    return np.column_stack([corner, side]).astype(np.int64)


def member_of(outline: np.ndarray, spots: np.ndarray, *, mpp: float, geometry: Geometry) -> np.ndarray:
    """The spot (row of `spots` (n, 2), pixels) each cell is a member of, -1 for none: (cells,) int32.

    `margin`: centroid at least `margin_um` inside the disc's edge (the paper's text); `overlap`: at least that
    share of the cell's area in the disc (its published code); `centroid`: centroid in the disc.
    """
    member = np.full(len(outline), -1, np.int32)
    if not len(spots) or not len(outline):
        return member
    radius = geometry.spot_um / mpp / 2
    if geometry.membership == "overlap":
        discs = shapely.buffer(shapely.points(spots), radius, quad_segs=32)
        cell, spot = shapely.STRtree(discs).query(outline, predicate="intersects")
        with np.errstate(divide="ignore", invalid="ignore"):
            share = shapely.area(shapely.intersection(outline[cell], discs[spot])) / shapely.area(outline[cell])
        enough = share >= geometry.overlap
        best = np.lexsort((share[enough], cell[enough]))  # where discs overlap, the largest share is written last
        member[cell[enough][best]] = spot[enough][best]
        return member
    if geometry.membership == "margin":
        radius -= geometry.margin_um / mpp
    return disc_of(centroids(outline), spots, radius)


def disc_of(points: np.ndarray, spots: np.ndarray, radius: float) -> np.ndarray:
    """The disc around a spot (n, 2) that each point (m, 2) lies in, that of the nearest; -1 for none: (m,) int32."""
    distance, nearest = cKDTree(spots).query(points)
    return np.where(distance <= radius, nearest, -1).astype(np.int32)


def centroids(outline: np.ndarray) -> np.ndarray:
    """Centroids (n, 2) of shapely outlines."""
    return shapely.get_coordinates(shapely.centroid(outline))


def context_of(cells: np.ndarray, member: np.ndarray, spots: np.ndarray, tile_side: float) -> np.ndarray:
    """The spot whose tiles each cell (n, 2) sees: its own, else the one whose tile contains it, else the nearest."""
    if not len(spots):
        return np.full(len(cells), -1, np.int32)
    tree = cKDTree(spots)
    _, nearest = tree.query(cells)
    distance, holder = tree.query(cells, p=np.inf)  # Chebyshev: tiles are squares of one side
    context = np.where(distance <= tile_side / 2, holder, nearest)
    return np.where(member >= 0, member, context).astype(np.int32)


def lattice_of(spots: np.ndarray) -> Lattice:
    """Whether measured spots (n, 2) stand on a square or a hexagonal array, and their pitch in pixels.

    Within 1.25 pitches a spot inside a square array has 4 others, inside a hexagonal one 6.
    """
    if len(spots) < 2:
        return Lattice("grid", float("inf"))
    tree = cKDTree(spots)
    pitch = float(np.median(tree.query(spots, k=[2])[0]))
    around = tree.query_ball_point(spots, 1.25 * pitch, return_length=True) - 1
    return Lattice("hex" if np.percentile(around, 75) > 4 else "grid", pitch)


def neighbours_of(spots: np.ndarray, lattice: Lattice) -> np.ndarray:
    """The spots around each spot, nearest first: (n, 8) int32 on a grid, (n, 6) on hexagons; -1 where missing."""
    k = NEIGHBOURS[lattice.layout]
    neighbours = np.full((len(spots), k), -1, np.int32)
    if len(spots) < 2:
        return neighbours
    distance, index = cKDTree(spots).query(
        spots, k=min(k + 1, len(spots)), distance_upper_bound=REACH[lattice.layout] * lattice.pitch_px
    )
    index = np.where(np.isfinite(distance), index, -1)[:, 1:]
    neighbours[:, : index.shape[1]] = index
    return neighbours


def array_neighbours(array: np.ndarray) -> np.ndarray:
    """The spots around each spot of a Visium array: (n, 6) int32, -1 where missing.

    `array` is (n, 2), row and column; spots of one row are two columns apart, those of the next one column aside.
    """
    row_of = {(row, column): index for index, (row, column) in enumerate(array.tolist())}
    around = ((0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1))
    found = [[row_of.get((row + up, column + aside), -1) for up, aside in around] for row, column in array.tolist()]
    return np.array(found, np.int32).reshape(-1, len(around))
