"""The demo's generated tissue: an H&E slide, its cells and their counts, drawn from a seed; nothing is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from scipy import sparse
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from .. import schema
from ..project import replacing

SLIDE_FILE = "slide.tif"
# Optical density of (haematoxylin, eosin) in R, G, B: the reference stain matrix of Macenko et al., ISBI 2009.
STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
GLASS = np.array([243.0, 241.0, 242.0])  # RGB of the empty slide
COARSE = 8  # pixels a side of one point of the layout's maps
BASE_UM = 12.0  # from a lumen to the nuclei around it
ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)  # directions of a cell's outline

Gland = tuple[np.ndarray, np.ndarray]  # centre (2,) and the lumen's radius in each of ANGLES, pixels


@dataclass(frozen=True)
class Layout:
    """Maps of the tissue, (h, w) each: signed distances in um, positive inside, and a standard normal field."""

    tissue: np.ndarray
    nest: np.ndarray  # tumour nests
    lumen: np.ndarray  # the holes of the glands
    immune: np.ndarray  # high where lymphocytes gather

    def across_um(self) -> np.ndarray:
        """How far (h, w) one is across the stroma's fibres, which wrap the nests and glands in waves."""
        return gaussian_filter(20 * self.immune - np.maximum(self.nest, self.lumen), 2)

    def fibres(self) -> np.ndarray:
        """The direction (h, w) of the stroma's fibres in radians."""
        down, right = np.gradient(self.across_um())
        return np.arctan2(right, -down)

    def at(self, points: np.ndarray) -> Layout:
        """The maps' values (n,) at pixels `points` (n, 2)."""
        grid = points.T[::-1] / COARSE - 0.5
        maps = (self.tissue, self.nest, self.lumen, self.immune)
        return Layout(*(map_coordinates(values, grid, order=1, mode="nearest") for values in maps))


@dataclass(frozen=True, kw_only=True)
class CellType:
    """How cells of one type lie, look and express; semi-axes in um along and across, stains in optical density."""

    markers: str
    pitch: float  # um between neighbours where they are densest
    where: Callable[[Layout], np.ndarray] | None  # the share of places that are taken; None: around the lumens
    cell: tuple[float, float]
    nucleus: tuple[float, float]
    chromatin: float  # haematoxylin of the nucleus
    clumps: float  # contrast of the chromatin
    vesicular: float = 0.0  # how pale the nucleus' centre is
    nucleoli: int = 0
    cytoplasm: tuple[float, float]  # haematoxylin, eosin
    foam: float = 0.0  # vacuoles of the cytoplasm
    polarity: float = 0.0  # how much further the cell reaches ahead of its nucleus than behind
    along_fibres: bool = False


def _in_stroma(at: Layout) -> np.ndarray:
    return (at.tissue > 8) & (at.nest < -3) & (at.lumen < -BASE_UM - 8)


# In order of precedence: a cell yields its place to those of the types above its own.
CELL_TYPES = {
    "epithelium": CellType(
        markers="PIGR MUC5B AGR2 TFF3 SLPI WFDC2 LCN2 ELF3 CLDN3 KRT7",
        pitch=6.5,
        where=None,
        cell=(8, 4),
        nucleus=(4.2, 2.6),
        polarity=0.5,
        chromatin=0.50,
        clumps=0.25,
        vesicular=0.2,
        cytoplasm=(0.07, 0.15),
        foam=0.3,
    ),
    "lymphocyte": CellType(
        markers="CD3D CD3E CD2 CD8A IL7R CCR7 TRAC GZMK MS4A1 CD79A",
        pitch=8,
        where=lambda at: np.where(_in_stroma(at), np.clip(4 * at.immune - 4.4, 0.01, 1), 0.01 * (at.nest > 0)),
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
        where=lambda at: 0.3 * _in_stroma(at) * np.exp(np.minimum(at.nest, 0) / 60),
        cell=(9, 7.5),
        nucleus=(3.9, 2.7),
        polarity=0.35,
        chromatin=0.45,
        clumps=0.2,
        vesicular=0.2,
        cytoplasm=(0.04, 0.11),
        foam=0.8,
    ),
    "tumour": CellType(
        markers="ERBB2 GRB7 MUC1 CLDN4 TACSTD2 KRT19 CEACAM6 S100P MKI67 TOP2A",
        pitch=14,
        where=lambda at: 0.97 * ((at.nest > 2) & (at.tissue > 8)),
        cell=(9.5, 8.5),
        nucleus=(5.2, 4.2),
        polarity=0.12,
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
        where=lambda at: 0.6 * _in_stroma(at),
        along_fibres=True,
        cell=(13, 2.8),
        nucleus=(7.5, 1.6),
        chromatin=0.60,
        clumps=0.2,
        cytoplasm=(0.04, 0.28),
    ),
}
TYPES = tuple(CELL_TYPES)
SHARED = {
    ("tumour", "epithelium"): "EPCAM KRT8 KRT18 CDH1 CLDN7",
    ("lymphocyte", "macrophage"): "PTPRC CD74 HLA-DRA CXCR4 CD53",
    ("fibroblast", "macrophage"): "VIM SPARC LGALS1 TIMP1 FN1",
}
HOUSEKEEPING = "ACTB GAPDH B2M EEF1A1 TPT1 RPLP0 RPL13 RPL32 RPS18 RPS6 UBC PPIA TUBA1B HSP90AB1 FTL FTH1 PFN1 MYL6"
BACKGROUND = (
    "NEAT1 MALAT1 XBP1 JUN FOS EGR1 MYC CCND1 STAT1 IRF1 HIF1A VEGFA SOD2 TXNIP DUSP1 KLF6 ZFP36 SAT1 NFKBIA IFI6 "
    "ISG15 "
    "CD9 CD24 CD44 ANXA1 ANXA2"
)
RARE = "CHGA IL2 FOXP3 AICDA INS CALCA"
GRADIENT = "MMP11"  # falls off with the distance to the nearest tumour nest, in every type
GENES = tuple(
    " ".join(
        [*(kind.markers for kind in CELL_TYPES.values()), *SHARED.values(), HOUSEKEEPING, BACKGROUND, RARE, GRADIENT]
    ).split()
)
COUNTS_PER_UM2 = 1.2
DISPERSION = 0.4  # of the gamma-Poisson: variance = mean + dispersion * mean^2


def paint_sample(folder: Path, seed: int, size_px: int = 2560, mpp: float = 0.5) -> None:
    """Write `slide.tif`, `cells.parquet` (Xenium's long form, level-0 pixels) and `cell_counts.h5ad` of one donor.

    The seed draws the layout, the stain and the counts; which gene marks which type is the same for every seed.
    `mpp` is in microns a pixel.
    """
    rng = np.random.default_rng(seed)
    layout, glands = _lay_out(rng, size_px, mpp)
    kind, centre, axis = _place(rng, layout, glands, size_px, mpp)
    size, darkness = rng.normal(size=(2, len(kind)))
    outline, nucleus = _outlines(rng, kind, centre, axis, np.exp(0.1 * size) / mpp)
    pixels = _paint(rng, layout, kind, centre, outline, nucleus, darkness, size_px, mpp)
    x = np.clip(centre[:, :1] + outline * np.cos(ANGLES), 0, size_px)
    y = np.clip(centre[:, 1:] + outline * np.sin(ANGLES), 0, size_px)
    area_um2 = 0.5 * (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1) * mpp**2  # the shoelace formula
    counts = _express(rng, kind, area_um2, size, darkness, layout.at(centre).nest)

    cell_ids = np.array([f"cell_{i:06d}" for i in range(len(kind))], object)
    vertices = {"cell_id": np.repeat(cell_ids, len(ANGLES)), "vertex_x": x.ravel(), "vertex_y": y.ravel()}
    obs = pd.DataFrame({"type": pd.Categorical(np.array(TYPES)[kind], TYPES)}, index=cell_ids)
    with replacing(folder / SLIDE_FILE) as part:
        _write_pyramid(part, pixels, mpp)
    with replacing(folder / schema.CELLS_FILE) as part:
        pd.DataFrame(vertices).astype({"vertex_x": "float32", "vertex_y": "float32"}).to_parquet(part, index=False)
    with replacing(folder / schema.CELL_COUNTS_FILE) as part:
        ad.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=list(GENES))).write_h5ad(part)


def _enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """A smooth (size, size) map from a coarser one."""
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))


def _field(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """A smooth random field (size, size), about standard normal, that varies over `scale` points."""
    field = _enlarge(rng.normal(size=(int(size / scale) + 4,) * 2), size)
    return (field - field.mean()) / field.std()


def _signed_um(inside: np.ndarray, point_um: float) -> np.ndarray:
    """The distance in um to a mask's edge, positive inside, smoothed over the mask's steps."""
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    return gaussian_filter(distance, 1.5) * point_um


def _lay_out(rng: np.random.Generator, size_px: int, mpp: float) -> tuple[Layout, list[Gland]]:
    """The tissue's maps, and its glands."""
    points, point_um = -(-size_px // COARSE), COARSE * mpp
    y, x = np.mgrid[:points, :points] + 0.5
    from_edge = np.minimum(np.minimum(x, points - x), np.minimum(y, points - y)) * point_um
    radius = np.hypot(x / points - 0.5, y / points - 0.5) + 0.035 * _field(rng, points, points / 5)
    tissue = _signed_um((radius < 0.475) & (from_edge > 24), point_um)
    texture = _field(rng, points, 130 / point_um) + 0.35 * _field(rng, points, 40 / point_um)
    nest = _signed_um(texture > np.quantile(texture[tissue > 0], 0.70), point_um)

    lumen = np.full((points, points), -1e4)
    glands = []
    for _ in range(max(2, round((tissue > 0).sum() * point_um**2 / 50_000))):
        free = np.minimum(np.minimum(-nest, tissue), -lumen)  # um to whatever is nearest
        if free.max() < 38:
            break  # no room for another gland
        row, column = rng.choice(np.argwhere(free >= min(60, free.max())))
        waves = np.ones(len(ANGLES))
        for k in (2, 3, 4):
            waves += rng.normal(0, 0.16 / k) * np.cos(k * ANGLES + rng.uniform(0, 6.3))
        outline = waves / waves.max() * min(rng.uniform(14, 36), free[row, column] - 24)
        dx, dy = (x - 0.5 - column) * point_um, (y - 0.5 - row) * point_um
        lumen = np.maximum(lumen, np.interp(np.arctan2(dy, dx), ANGLES, outline, period=2 * np.pi) - np.hypot(dx, dy))
        glands.append((np.array([column + 0.5, row + 0.5]) * COARSE, outline / mpp))
    return Layout(tissue, nest, lumen, _field(rng, points, 100 / point_um)), glands


def _gland_cells(glands: list[Gland], pitch_um: float, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells side by side around each lumen, nucleus at the base: centre (n, 2) in pixels, direction (n,) inwards."""
    centres, axes = [], []
    for centre, lumen in glands:
        ring = lumen + BASE_UM / mpp
        turn = np.linspace(0, 2 * np.pi, round(2 * np.pi * ring.mean() * mpp / pitch_um), endpoint=False)
        radius = np.interp(turn, ANGLES, ring, period=2 * np.pi)
        centres.append(centre + radius[:, None] * np.column_stack([np.cos(turn), np.sin(turn)]))
        axes.append(turn + np.pi)
    return np.concatenate(centres), np.concatenate(axes)


def _lattice_cells(
    rng: np.random.Generator, layout: Layout, cell: CellType, size_px: int, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cells on a shaken hexagonal lattice where their type grows: centre (n, 2) in pixels, direction (n,)."""
    assert cell.where is not None
    pitch = cell.pitch / mpp
    steps = np.arange(0, size_px, pitch)
    centre = np.stack(np.meshgrid(steps, steps * np.sqrt(3) / 2), -1)
    centre[1::2, :, 0] += pitch / 2
    centre = centre.reshape(-1, 2) + rng.normal(0, 0.16 * pitch, (steps.size**2, 2))
    centre = centre[rng.random(len(centre)) < cell.where(layout.at(centre))]
    if not cell.along_fibres:
        return centre, rng.uniform(0, 2 * np.pi, len(centre))
    fibres = layout.fibres()[tuple(np.clip(centre.T[::-1] // COARSE, 0, len(layout.nest) - 1).astype(int))]
    return centre, fibres + rng.normal(0, 0.15, len(centre))


def _place(
    rng: np.random.Generator, layout: Layout, glands: list[Gland], size_px: int, mpp: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Type (n,) as its row in CELL_TYPES, centre (n, 2) in pixels and direction (n,) in radians of every cell."""
    drawn = [
        _gland_cells(glands, cell.pitch, mpp) if cell.where is None else _lattice_cells(rng, layout, cell, size_px, mpp)
        for cell in CELL_TYPES.values()
    ]
    kind = np.repeat(np.arange(len(drawn)), [len(centre) for centre, _ in drawn])
    centre, axis = (np.concatenate(part) for part in zip(*drawn, strict=True))
    room = _column("pitch", kind) / 2 / mpp
    pairs = cKDTree(centre).query_pairs(2 * room.max(), output_type="ndarray")
    near = np.hypot(*(centre[pairs[:, 0]] - centre[pairs[:, 1]]).T) < 0.7 * room[pairs].sum(1)
    pairs = pairs[near][np.lexsort(pairs[near].T)]  # by the later cell: the earlier ones are settled by then
    keep = np.ones(len(kind), bool)
    for first, second in pairs:
        keep[second] &= not keep[first]
    return kind[keep], centre[keep], axis[keep]


def _column(name: str, kind: np.ndarray) -> np.ndarray:
    """A column of CELL_TYPES for every cell: (n, ...)."""
    return np.array([getattr(cell, name) for cell in CELL_TYPES.values()], float)[kind]


def _reach(semi: np.ndarray, polarity: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Radius (n, m) of ellipses with semi-axes (n, 2), drawn out ahead by polarity (n,), at `turn` off their axis."""
    along, across = semi[:, :1], semi[:, 1:]
    radius = along * across / np.hypot(across * np.cos(turn), along * np.sin(turn))
    return radius * (1 + polarity[:, None] * np.cos(turn))


def _outlines(
    rng: np.random.Generator, kind: np.ndarray, centre: np.ndarray, axis: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Radius (n, len(ANGLES)) in pixels of every cell and of its nucleus; `scale` (n,) is pixels a micron, times size.

    Neighbours share a straight wall, each having its part of the distance between them, so cells do not overlap.
    """
    semi, polarity = _column("cell", kind) * scale[:, None], _column("polarity", kind)
    distance, other = (np.asarray(part)[:, 1:] for part in cKDTree(centre).query(centre, 25))
    ahead = centre[other] - centre[:, None]
    bearing = np.arctan2(ahead[..., 1], ahead[..., 0])
    own = _reach(semi, polarity, bearing - axis[:, None])
    flat = other.ravel()
    back = (bearing + np.pi).ravel() - axis[flat]
    theirs = _reach(semi[flat], polarity[flat], back[:, None]).reshape(own.shape)
    cosine = np.cos(ANGLES - bearing[..., None])
    wall = np.where(cosine > 0.02, (distance * own / (own + theirs))[..., None] / np.maximum(cosine, 0.02), np.inf).min(
        1
    )
    waves = rng.normal(0, 0.05, (2, len(kind), 1)) * np.cos(np.array([2, 3])[:, None, None] * ANGLES)
    outline = np.minimum(_reach(semi, polarity, ANGLES - axis[:, None]) * (1 + waves[0]), wall)
    nucleus = _reach(_column("nucleus", kind) * scale[:, None], 0 * polarity, ANGLES - axis[:, None]) * (1 + waves[1])
    return outline, np.minimum(nucleus, 0.86 * outline)


def _paint(
    rng: np.random.Generator,
    layout: Layout,
    kind: np.ndarray,
    centre: np.ndarray,
    outline: np.ndarray,
    nucleus: np.ndarray,
    darkness: np.ndarray,
    size_px: int,
    mpp: float,
) -> np.ndarray:
    """The slide (size_px, size_px, 3) uint8: stain densities painted cell by cell, seen through Beer-Lambert's law."""
    haematoxylin, eosin = _paint_stroma(rng, layout, size_px, mpp)
    noise = rng.normal(size=(size_px, size_px)).astype(np.float32)
    grain, clump = (blurred / blurred.std() for blurred in (gaussian_filter(noise, s / mpp) for s in (0.35, 0.8)))
    for i, cell in enumerate([*CELL_TYPES.values()][row] for row in kind):
        reach = int(outline[i].max()) + 3
        column, row = np.floor(centre[i]).astype(int)
        patch = slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1)
        dy, dx = np.ogrid[patch]
        dy, dx = dy + 0.5 - centre[i, 1], dx + 0.5 - centre[i, 0]
        radius, turn = np.hypot(dx, dy), np.arctan2(dy, dx)
        edge, core = (np.interp(turn, ANGLES, r[i], period=2 * np.pi) for r in (outline, nucleus))
        h, e = haematoxylin[patch], eosin[patch]

        body = np.clip(edge - radius + 0.5, 0, 1)
        rim = 1 - 0.45 * np.exp(-(((edge - radius) * mpp / 0.5) ** 2))  # cells draw back from each other in fixation
        foam = 1 - cell.foam * np.clip(clump[patch] * 0.8, -0.3, 1)
        h += body * (cell.cytoplasm[0] * foam * rim + 0.015 * grain[patch] - h)
        e += body * (cell.cytoplasm[1] * foam * rim + 0.02 * clump[patch] - e)

        depth = np.minimum(radius / core, 1)
        chromatin = 1 + cell.clumps * (0.5 * clump[patch] + 0.3 * grain[patch]) - cell.vesicular * (1 - depth**3)
        for _ in range(cell.nucleoli):
            x, y = rng.normal(0, 0.3, 2) * core.min()
            chromatin += 0.9 * np.exp(-((dx - x) ** 2 + (dy - y) ** 2) / (2 * (0.55 / mpp) ** 2))
        inside = np.clip(core - radius + 0.5, 0, 1)
        h += inside * (cell.chromatin * max(1 + 0.16 * darkness[i], 0.5) * np.maximum(chromatin, 0.2) - h)
        e += inside * (0.10 - e)

    stains = STAINS + rng.normal(0, 0.02, STAINS.shape)  # this donor's dyes and how long the section lay in them
    strength = rng.normal(1, 0.07, 2)
    for density in (haematoxylin, eosin):
        gaussian_filter(density, 0.3 / mpp, output=density)  # the objective's blur
    density = (strength * np.stack([haematoxylin, eosin], -1)) @ stains
    pixels = GLASS * 10**-density + rng.normal(0, 1.2, (size_px, size_px, 1))
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


def _paint_stroma(rng: np.random.Generator, layout: Layout, size_px: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin densities, (size_px, size_px) each, of everything between the cells."""
    tissue, nest, lumen, across = (
        _enlarge(values, size_px) for values in (layout.tissue, layout.nest, layout.lumen, layout.across_um())
    )
    along = np.add.outer(np.arange(size_px) * 0.6, np.arange(size_px) * 0.8).astype(np.float32) * mpp
    threads, bundles = (
        map_coordinates(
            rng.normal(size=(256, 256)).astype(np.float32), (across / width, along / length), order=1, mode="grid-wrap"
        )
        for width, length in ((1.2, 25), (4.5, 60))
    )
    patches = _field(rng, size_px, 60 / mpp)
    fibres = np.clip(1 + 0.22 * threads + 0.28 * bundles + 0.15 * patches, 0.12, 2)
    holds = np.clip(tissue / mpp + 0.5, 0, 1) * np.clip(0.5 - lumen / mpp, 0, 1)
    in_nest = np.clip(nest / 4 + 0.5, 0, 1)
    eosin = holds * (0.24 * fibres * (1 - in_nest) + 0.12 * in_nest)
    haematoxylin = holds * (0.035 + 0.02 * patches + 0.03 * in_nest)
    return haematoxylin.astype(np.float32), eosin.astype(np.float32)


def _expected_shares() -> tuple[np.ndarray, np.ndarray]:
    """Share of each gene in a type's transcripts (types, genes), and how size and darkness change it (2, genes).

    Drawn from a seed of their own: every sample is of the same biology.
    """
    rng = np.random.default_rng(20_240)
    rate = rng.gamma(2, 0.08, (len(TYPES), len(GENES)))
    columns = {gene: column for column, gene in enumerate(GENES)}
    for genes, types, low, high in [
        *((cell.markers, (name,), 3, 12) for name, cell in CELL_TYPES.items()),
        *((genes, types, 2, 8) for types, genes in SHARED.items()),
        (HOUSEKEEPING, TYPES, 1.5, 5),
        (BACKGROUND, TYPES, 0.3, 1.5),
        (GRADIENT, TYPES, 8, 8),
    ]:
        at = [columns[gene] for gene in genes.split()]
        rows = [TYPES.index(name) for name in types]
        rate[np.ix_(rows, at)] += rng.uniform(low, high, len(at))
    rate[:, [columns[gene] for gene in RARE.split()]] = 0.02
    loading = rng.normal(0, 0.45, (2, len(GENES))) * (rng.random((2, len(GENES))) < 0.5)
    return rate / rate.sum(1, keepdims=True), loading


def _express(
    rng: np.random.Generator,
    kind: np.ndarray,
    area_um2: np.ndarray,
    size: np.ndarray,
    darkness: np.ndarray,
    nest_um: np.ndarray,
) -> np.ndarray:
    """Gamma-Poisson counts (n, genes) int32 of cells, from what can be seen of them and where they lie."""
    share, loading = _expected_shares()
    rate = share[kind] * np.exp(np.column_stack([size, darkness]) @ loading)
    rate[:, GENES.index(GRADIENT)] *= np.exp(np.minimum(nest_um, 0) / 50)
    total = COUNTS_PER_UM2 * area_um2 * rng.lognormal(0, 0.25, len(kind))
    mean = total[:, None] * rate / rate.sum(1, keepdims=True)
    return rng.poisson(mean * rng.gamma(1 / DISPERSION, DISPERSION, mean.shape)).astype(np.int32)


def _write_pyramid(path: Path, pixels: np.ndarray, mpp: float, levels: int = 3) -> None:
    """A tiled JPEG TIFF whose level k is 2^k times smaller and kept as a SubIFD of the first."""
    image = Image.fromarray(pixels)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            resolution = 1e4 / (mpp * 2**level)  # pixels a centimetre
            tiff.write(
                np.asarray(image.reduce(2**level) if level else image),
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 90},
                resolution=(resolution, resolution),
                resolutionunit="CENTIMETER",
                subifds=0 if level else levels - 1,
                subfiletype=1 if level else 0,
                metadata=None,
            )
