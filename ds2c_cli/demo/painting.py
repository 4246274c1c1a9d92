"""Painting the generated tissue: stain densities cell by cell, then pixels through Beer-Lambert's law."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from .cells import CELL_TYPES, Cells
from .layout import ANGLES, Layout, enlarge, field

# Optical density of haematoxylin and of eosin in R, G, B: the reference stain matrix of Macenko et al., ISBI 2009.
STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
GLASS = np.array([243, 241, 242], np.float32)  # RGB of the empty slide


def paint(rng: np.random.Generator, layout: Layout, *, cells: Cells, size_px: int, mpp: float) -> np.ndarray:
    """Paint the slide (size_px, size_px, 3) uint8 as this donor's dyes, section and objective show it."""
    haematoxylin, eosin = _paint_stroma(rng, layout, size_px=size_px, mpp=mpp)
    _paint_cells(rng, cells, haematoxylin=haematoxylin, eosin=eosin, mpp=mpp)
    stains = (STAINS + rng.normal(0, 0.02, STAINS.shape)) * rng.normal(1, 0.07, (2, 1))
    for density in (haematoxylin, eosin):
        gaussian_filter(density, 0.3 / mpp, output=density)  # the objective's blur
    density = np.stack([haematoxylin, eosin], -1) @ stains.astype(np.float32)
    pixels = GLASS * 10**-density + 1.2 * rng.standard_normal((size_px, size_px, 1), np.float32)
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


def _paint_stroma(
    rng: np.random.Generator, layout: Layout, *, size_px: int, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin densities, (size_px, size_px) each, of everything between the cells."""
    maps = (layout.tissue, layout.nest, layout.lumen, layout.across_um())
    tissue, nest, lumen, across = (enlarge(values, size_px) for values in maps)
    across = (
        across + 2.5 * field(rng, size=size_px, scale=14 / mpp) + 0.8 * field(rng, size=size_px, scale=4 / mpp)
    )  # fibres are crimped
    along = np.add.outer(np.arange(size_px) * 0.6, np.arange(size_px) * 0.8).astype(np.float32) * mpp
    threads, bundles = (
        map_coordinates(
            rng.standard_normal((256, 256), np.float32), (across / width, along / length), order=1, mode="grid-wrap"
        )
        for width, length in ((1.0, 14), (5, 30))  # um
    )
    patches, mottle = field(rng, size=size_px, scale=60 / mpp), field(rng, size=size_px, scale=3 / mpp)
    fibres = np.clip(1 + 0.20 * threads + 0.16 * bundles + 0.14 * patches + 0.08 * mottle, 0.12, 2)
    holds = np.clip(tissue / mpp + 0.5, 0, 1) * np.clip(0.5 - lumen / mpp, 0, 1)  # edges one pixel soft
    in_nest = np.clip(nest / 4 + 0.5, 0, 1)
    eosin = holds * fibres * (0.21 - 0.08 * in_nest)
    haematoxylin = holds * (0.035 + 0.01 * patches + 0.01 * mottle + 0.02 * in_nest)
    return haematoxylin.astype(np.float32), eosin.astype(np.float32)


def _paint_cells(
    rng: np.random.Generator, cells: Cells, *, haematoxylin: np.ndarray, eosin: np.ndarray, mpp: float
) -> None:
    """Lay every cell over the densities, in place."""
    noise = rng.standard_normal(eosin.shape, np.float32)
    grain, clump = (blurred / blurred.std() for blurred in (gaussian_filter(noise, um / mpp) for um in (0.35, 0.8)))
    looks = [*CELL_TYPES.values()]
    for i, look in enumerate(looks[kind] for kind in cells.kind):
        x, y = cells.centre[i]
        reach = int(cells.outline[i].max()) + 3
        patch = slice(max(int(y) - reach, 0), int(y) + reach), slice(max(int(x) - reach, 0), int(x) + reach)
        h, e, fine, coarse = haematoxylin[patch], eosin[patch], grain[patch], clump[patch]
        dy, dx = np.arange(len(h))[:, None] + patch[0].start + 0.5 - y, np.arange(h.shape[1]) + patch[1].start + 0.5 - x
        radius, turn = np.hypot(dx, dy), np.arctan2(dy, dx)
        edge, core = (np.interp(turn, ANGLES, r[i], period=2 * np.pi) for r in (cells.outline, cells.nucleus))

        body = np.clip(edge - radius + 0.5, 0, 1)
        rim = 1 - 0.3 * np.exp(-(((edge - radius) * mpp / 0.5) ** 2))  # cells draw back from each other in fixation
        texture = rim * (1 - look.foam * np.clip(0.8 * coarse, -0.3, 1))
        h += body * (look.cytoplasm[0] * texture + 0.015 * fine - h)
        e += body * (look.cytoplasm[1] * texture + 0.02 * coarse - e)

        depth = np.minimum(radius / core, 1)
        chromatin = 1 + look.clumps * (0.5 * coarse + 0.3 * fine) - look.vesicular * (1 - depth**3)
        for at_x, at_y in rng.normal(0, 0.3 * core.min(), (look.nucleoli, 2)):
            chromatin += 0.9 * np.exp(-((dx - at_x) ** 2 + (dy - at_y) ** 2) / (2 * (0.55 / mpp) ** 2))
        darkness = look.chromatin * max(1 + 0.16 * cells.darkness[i], 0.5)
        inside = np.clip(core - radius + 0.5, 0, 1)
        h += inside * (darkness * np.maximum(chromatin, 0.2) - h)
        e += inside * (0.10 - e)
