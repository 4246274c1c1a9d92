"""The generated tissue's architecture: outline, tumour nests, glands, immune aggregates and the stroma's fibres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

COARSE = 8  # pixels a side of one point of the layout's maps
ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)  # directions in which outlines of cells and lumens are given
BASE_UM = 12.0  # from a lumen's edge to the nuclei around it
Gland = tuple[np.ndarray, np.ndarray]  # centre (2,) and the lumen's radius in each of ANGLES, pixels


@dataclass(frozen=True)
class Layout:
    """Maps of the tissue, (h, w) each or (n,) at points: signed distances in um, positive inside, and one field."""

    tissue: np.ndarray
    nest: np.ndarray  # tumour nests
    lumen: np.ndarray  # the holes of the glands
    immune: np.ndarray  # about standard normal, high where lymphocytes gather

    def at(self, points: np.ndarray) -> Layout:
        """Give the maps' values (n,) at pixels `points` (n, 2)."""
        grid = points.T[::-1] / COARSE - 0.5
        maps = (self.tissue, self.nest, self.lumen, self.immune)
        return Layout(*(map_coordinates(values, grid, order=1, mode="nearest") for values in maps))

    def in_nest(self) -> np.ndarray:
        """Where tumour cells have room."""
        return (self.tissue > 8) & (self.nest > 2)

    def in_stroma(self) -> np.ndarray:
        """Where the cells of the stroma have room."""
        return (self.tissue > 13) & (self.nest < -3) & (self.lumen < -BASE_UM - 8)

    def across_um(self) -> np.ndarray:
        """How far (h, w) one is across the stroma's fibres, which wrap the nests and glands in waves."""
        return gaussian_filter(20 * self.immune - np.maximum(self.nest, self.lumen), 2)

    def fibres(self, points: np.ndarray) -> np.ndarray:
        """Give the direction (n,) in radians of the stroma's fibres at pixels `points` (n, 2)."""
        down, right = np.gradient(self.across_um())
        nearest = tuple(np.clip(points.T[::-1] // COARSE, 0, len(down) - 1).astype(int))
        return np.arctan2(right, -down)[nearest]


def lay_out(rng: np.random.Generator, *, size_px: int, mpp: float) -> tuple[Layout, list[Gland]]:
    """Draw the maps and the glands of a square slide, `mpp` microns per pixel."""
    points, point_um = -(-size_px // COARSE), COARSE * mpp
    y, x = np.mgrid[:points, :points] + 0.5
    from_edge = np.minimum(np.minimum(x, points - x), np.minimum(y, points - y)) * point_um
    radius = np.hypot(x / points - 0.5, y / points - 0.5) + 0.03 * field(rng, size=points, scale=points / 5)
    tissue = _signed_um((radius < 0.435) & (from_edge > 24), point_um)
    texture = field(rng, size=points, scale=130 / point_um) + 0.35 * field(rng, size=points, scale=40 / point_um)

    lumen = np.full((points, points), -1e4)
    glands = []
    for _ in range(max(2, round((tissue > 0).sum() * point_um**2 / 70_000))):
        free = np.minimum(tissue, -lumen)  # um to whatever is nearest
        if free.max() < 38:
            break  # no room for another gland
        places = rng.choice(np.argwhere(free >= min(60, free.max())), 8)
        row, column = places[texture[tuple(places.T)].argmin()]  # away from where the nests will be
        lobes = np.arange(2, 5)
        waves = 1 + rng.normal(0, 0.16 / lobes) @ np.cos(np.outer(lobes, ANGLES) + rng.uniform(0, 2 * np.pi, (3, 1)))
        outline = waves / waves.max() * min(rng.uniform(14, 36), free[row, column] - 24)
        dx, dy = (x - 0.5 - column) * point_um, (y - 0.5 - row) * point_um
        lumen = np.maximum(lumen, np.interp(np.arctan2(dy, dx), ANGLES, outline, period=2 * np.pi) - np.hypot(dx, dy))
        glands.append((np.array([column + 0.5, row + 0.5]) * COARSE, outline / mpp))
    nests = texture > np.quantile(texture[tissue > 0], rng.uniform(0.71, 0.80))
    nest = _signed_um(nests & (lumen < -BASE_UM - 12), point_um)
    return Layout(tissue, nest, lumen, field(rng, size=points, scale=100 / point_um)), glands


def enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """Make a smooth float32 map (size, size) from a coarser one."""
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))


def field(rng: np.random.Generator, *, size: int, scale: float) -> np.ndarray:
    """Draw a smooth random map (size, size) with mean 0 and standard deviation 1 that varies over `scale` points."""
    values = enlarge(rng.normal(size=(int(size / scale) + 4,) * 2), size)
    return (values - values.mean()) / values.std()


def _signed_um(inside: np.ndarray, point_um: float) -> np.ndarray:
    """Measure the distance in um to a mask's edge, positive inside, smoothed over the mask's steps."""
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    return gaussian_filter(distance, 1.5) * point_um
