"""The generated cells: the table of cell types, where each cell lies and the outlines of it and its nucleus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .layout import ANGLES, BASE_UM, Gland, Layout

NEIGHBOURS = 25  # more than can touch one cell
SIZE_SPREAD = 0.1  # of the logarithm of a cell's diameter within its type


@dataclass(frozen=True, kw_only=True)
class CellType:
    """How cells of one type lie, look and express; semi-axes (along, across) in um, stains in optical density."""

    markers: str  # genes
    pitch: float  # um between neighbours where they are densest
    where: Callable[[Layout], np.ndarray] | None  # the share of places that are taken; None: around the lumens
    along_fibres: bool = False
    cell: tuple[float, float]
    polarity: float = 0.0  # how much further the cell reaches ahead of its nucleus than behind
    nucleus: tuple[float, float]
    chromatin: float  # haematoxylin of the nucleus
    clumps: float  # contrast of the chromatin
    vesicular: float = 0.0  # how pale the nucleus' centre is
    nucleoli: int = 0
    cytoplasm: tuple[float, float]  # haematoxylin, eosin
    foam: float = 0.0  # vacuoles of the cytoplasm


# In order of precedence: a cell yields its place to those of the types above its own.
CELL_TYPES = {
    "epithelium": CellType(
        markers="PIGR MUC5B AGR2 TFF3 SLPI WFDC2 LCN2 ELF3 CLDN3 KRT7",
        pitch=6.5,
        where=None,
        cell=(8, 4),
        polarity=0.5,
        nucleus=(4.2, 2.6),
        chromatin=0.50,
        clumps=0.25,
        vesicular=0.2,
        cytoplasm=(0.07, 0.15),
        foam=0.3,
    ),
    "lymphocyte": CellType(
        markers="CD3D CD3E CD2 CD8A IL7R CCR7 TRAC GZMK MS4A1 CD79A",
        pitch=8,
        where=lambda at: np.where(at.in_stroma(), np.clip(4 * at.immune - 5.8, 0.01, 1), 0.01 * at.in_nest()),
        cell=(4, 3.8),
        nucleus=(3.0, 2.8),
        chromatin=0.85,
        clumps=0.35,
        vesicular=-0.1,
        cytoplasm=(0.10, 0.12),
    ),
    "macrophage": CellType(
        markers="CD68 CD163 CD14 LYZ C1QA C1QB CSF1R MRC1 APOE FCGR3A",
        pitch=15,
        where=lambda at: 0.16 * at.in_stroma() * np.exp(np.minimum(at.nest, 0) / 60),
        cell=(8, 6.5),
        polarity=0.35,
        nucleus=(3.9, 2.7),
        chromatin=0.45,
        clumps=0.2,
        vesicular=0.2,
        cytoplasm=(0.05, 0.15),
        foam=0.6,
    ),
    "tumour": CellType(
        markers="ERBB2 GRB7 MUC1 CLDN4 TACSTD2 KRT19 CEACAM6 S100P MKI67 TOP2A",
        pitch=14,
        where=lambda at: 0.97 * at.in_nest(),
        cell=(10.5, 9.5),
        polarity=0.12,
        nucleus=(5.2, 4.2),
        chromatin=0.40,
        clumps=0.3,
        vesicular=0.4,
        nucleoli=2,
        cytoplasm=(0.10, 0.19),
        foam=0.1,
    ),
    "fibroblast": CellType(
        markers="COL1A1 COL1A2 COL3A1 DCN LUM FAP PDGFRA PDGFRB POSTN FBLN1",
        pitch=17,
        where=lambda at: 0.42 * at.in_stroma(),
        along_fibres=True,
        cell=(13, 2.6),
        nucleus=(7, 1.5),
        chromatin=0.60,
        clumps=0.2,
        cytoplasm=(0.04, 0.28),
    ),
}
TYPES = tuple(CELL_TYPES)


@dataclass(frozen=True)
class Cells:
    """The n cells of a slide; pixels."""

    kind: np.ndarray  # (n,) row in TYPES
    centre: np.ndarray  # (n, 2) of the nucleus
    outline: np.ndarray  # (n, len(ANGLES)) radius of the cell around `centre`
    nucleus: np.ndarray  # (n, len(ANGLES)) radius of the nucleus
    size: np.ndarray  # (n,) standard normal: how large the cell is for its type
    darkness: np.ndarray  # (n,) standard normal: how dark its chromatin is for its type

    def vertices(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y, (n, len(ANGLES)) each, of the cells' polygons."""
        x, y = self.centre.T[..., None]
        return x + self.outline * np.cos(ANGLES), y + self.outline * np.sin(ANGLES)


def grow_cells(rng: np.random.Generator, layout: Layout, *, glands: list[Gland], size_px: int, mpp: float) -> Cells:
    """Fill the tissue with cells that do not overlap."""
    kind, centre, axis = _place(rng, layout, glands=glands, size_px=size_px, mpp=mpp)
    size, darkness = rng.normal(size=(2, len(kind)))
    outline, nucleus = _outlines(rng, kind, centre=centre, axis=axis, scale=np.exp(SIZE_SPREAD * size) / mpp)
    return Cells(kind, centre, outline=outline, nucleus=nucleus, size=size, darkness=darkness)


def _place(
    rng: np.random.Generator, layout: Layout, *, glands: list[Gland], size_px: int, mpp: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Type (n,), centre (n, 2) in pixels and direction (n,) in radians of every cell."""
    drawn = [
        _gland_cells(glands, pitch_um=cell.pitch, mpp=mpp)
        if cell.where is None
        else _lattice_cells(rng, layout, cell=cell, size_px=size_px, mpp=mpp)
        for cell in CELL_TYPES.values()
    ]
    kind = np.repeat(np.arange(len(drawn)), [len(centre) for centre, _ in drawn])
    centre, axis = (np.concatenate(part) for part in zip(*drawn, strict=True))
    room = _column("pitch", kind) / 2 / mpp
    pairs = cKDTree(centre).query_pairs(2 * room.max(), output_type="ndarray")
    near = np.hypot(*(centre[pairs[:, 0]] - centre[pairs[:, 1]]).T) < 0.62 * room[pairs].sum(1)
    pairs = pairs[near][np.lexsort(pairs[near].T)]  # by the later cell: the earlier ones are settled by then
    keep = np.ones(len(kind), bool)
    for first, second in pairs:
        keep[second] &= not keep[first]
    return kind[keep], centre[keep], axis[keep]


def _gland_cells(glands: list[Gland], *, pitch_um: float, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells side by side around each lumen, nucleus at the base: centre (n, 2), direction (n,) to the lumen."""
    centres, axes = [], []
    for centre, lumen in glands:
        ring = lumen + BASE_UM / mpp
        turn = np.linspace(0, 2 * np.pi, round(2 * np.pi * ring.mean() * mpp / pitch_um), endpoint=False)
        radius = np.interp(turn, ANGLES, ring, period=2 * np.pi)
        centres.append(centre + radius[:, None] * np.column_stack([np.cos(turn), np.sin(turn)]))
        axes.append(turn + np.pi)
    return np.concatenate(centres), np.concatenate(axes)


def _lattice_cells(
    rng: np.random.Generator, layout: Layout, *, cell: CellType, size_px: int, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cells on a shaken hexagonal lattice where their type grows: centre (n, 2), direction (n,)."""
    assert cell.where is not None
    pitch = cell.pitch / mpp
    centre = np.stack(np.meshgrid(np.arange(0, size_px, pitch), np.arange(0, size_px, pitch * np.sqrt(3) / 2)), -1)
    centre[1::2, :, 0] += pitch / 2
    centre = centre.reshape(-1, 2)
    centre += rng.normal(0, 0.13 * pitch, centre.shape)
    centre = centre[rng.random(len(centre)) < cell.where(layout.at(centre))]
    if cell.along_fibres:
        return centre, layout.fibres(centre) + rng.normal(0, 0.15, len(centre))
    return centre, rng.uniform(0, 2 * np.pi, len(centre))


def _column(name: str, kind: np.ndarray) -> np.ndarray:
    """Give a column of CELL_TYPES for every cell: (n, ...)."""
    return np.array([getattr(cell, name) for cell in CELL_TYPES.values()], float)[kind]


def _reach(semi: np.ndarray, polarity: np.ndarray, *, turn: np.ndarray) -> np.ndarray:
    """Radius (n, m) of ellipses with semi-axes (n, 2), drawn out ahead by polarity (n,), at angles off their axis."""
    along, across = semi[:, :1], semi[:, 1:]
    radius = along * across / np.hypot(across * np.cos(turn), along * np.sin(turn))
    return radius * (1 + polarity[:, None] * np.cos(turn))


def _outlines(
    rng: np.random.Generator, kind: np.ndarray, *, centre: np.ndarray, axis: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Radius (n, len(ANGLES)) in pixels of every cell and of its nucleus; `scale` (n,) is pixels a micron, times size.

    Neighbours share a straight wall that parts the distance between them by how far each reaches for the other,
    so no two cells overlap.
    """
    semi, polarity = _column("cell", kind) * scale[:, None], _column("polarity", kind)
    distance, other = cKDTree(centre).query(centre, np.arange(2, NEIGHBOURS + 2))  # the first is the cell itself
    ahead = centre[other] - centre[:, None]
    bearing = np.arctan2(ahead[..., 1], ahead[..., 0])
    own = _reach(semi, polarity, turn=bearing - axis[:, None])
    flat = other.ravel()
    back = bearing.ravel() + np.pi - axis[flat]
    theirs = _reach(semi[flat], polarity[flat], turn=back[:, None]).reshape(own.shape)
    cosine = np.cos(ANGLES - bearing[..., None])
    wall = np.where(cosine > 0.02, (distance * own / (own + theirs))[..., None] / np.maximum(cosine, 0.02), np.inf)
    wobble, nuclear_wobble = rng.normal(0, 0.05, (2, len(kind), 2)) @ np.cos(np.outer([2, 3], ANGLES)) + 1
    outline = np.minimum(_reach(semi, polarity, turn=ANGLES - axis[:, None]) * wobble, wall.min(1))
    nucleus = (
        _reach(_column("nucleus", kind) * scale[:, None], 0 * polarity, turn=ANGLES - axis[:, None]) * nuclear_wobble
    )
    return outline, np.minimum(nucleus, 0.86 * outline)
