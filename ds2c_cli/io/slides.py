"""Slides: open an image, know its size, pixel size and fingerprint, read regions and crops."""

from __future__ import annotations

import copy
import hashlib
import html
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from ..errors import InputError

PLAUSIBLE_MPP = (0.05, 5.0)  # a tag outside is a print resolution (72 dpi is 353 um), not a pixel size
BLOCK = 2048  # pixels a side; FACTS 1: decoding blocks and slicing is 60 times faster than a read a cell
FINGERPRINT_BYTES = 65_536  # FACTS 2: the first and last 64 kB of the encoded pixels
COLOURS = {1, 2, 6}  # TIFF's PhotometricInterpretation: grey, RGB, YCbCr; others need a conversion
UM = {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "pixel": float("nan"), "reference frame": float("nan")}  # OME; else microns
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"


class Slide(ABC):
    """One H&E image: uint8 RGB, x right, y down, level-0 pixels."""

    path: Path
    width: int
    height: int
    mpp: float | None  # microns a pixel from the file's own tags, None where they say nothing credible

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the pixels, not of the path or the time: equal for a renamed copy."""

    @abstractmethod
    def _levels(self) -> list[tuple[int, int]]:
        """(width, height) of every level, level 0 first."""

    @abstractmethod
    def _read(self, level: int, x: int, y: int, width: int, height: int, out: np.ndarray) -> None:
        """Fill `out` (height, width, 3) with a rectangle that lies inside the level."""

    def read(self, x: int, y: int, width: int, height: int, level: int = 0) -> np.ndarray:
        """A (height, width, 3) uint8 rectangle; what lies outside the slide has the background's colour."""
        level_width, level_height = self._levels()[level]
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, level_width), min(y + height, level_height)
        if (x0, y0, x1, y1) == (x, y, x + width, y + height):
            out = np.empty((height, width, 3), np.uint8)
            self._read(level, x, y, width, height, out)
            return out
        out = np.empty((height, width, 3), np.uint8)
        out[:] = self.background
        if x1 > x0 and y1 > y0:
            self._read(level, x0, y0, x1 - x0, y1 - y0, out[y0 - y : y1 - y, x0 - x : x1 - x])
        return out

    def thumbnail(self, longest: int = 1024) -> tuple[np.ndarray, float]:
        """The whole slide at most about `longest` pixels long: ((h, w, 3) uint8, level-0 pixels a thumbnail pixel)."""
        levels = self._levels()
        level = max((i for i, size in enumerate(levels) if max(size) >= longest), default=0)
        width, height = levels[level]
        factor = max(1, min(-(-max(width, height) // longest), width, height))
        strips = []
        for y in range(0, height, BLOCK // factor * factor or factor):
            rows = min(BLOCK // factor * factor or factor, height - y)
            strip = np.empty((rows, width, 3), np.uint8)
            self._read(level, 0, y, width, rows, strip)
            strips.append(_reduce(strip, factor))
        return np.concatenate([strip for strip in strips if len(strip)]), factor * self.width / width

    @cached_property
    def background(self) -> np.ndarray:
        """The (3,) uint8 colour of glass on this slide, measured with its missing tiles black, as no glass is."""
        dark = copy.copy(self)
        dark.background = np.zeros(3, np.uint8)
        return glass_colour(dark.thumbnail(512)[0])


class TiledTiff(Slide):
    """Pyramidal TIFF, SVS, OME-TIFF: tiles are found by offset and decoded by imagecodecs."""

    def __init__(self, path: Path, tiff: tifffile.TiffFile) -> None:
        self.path = path
        self._tiff = tiff  # its pages look things up in the file as late as the first decode
        self._file = path.open("rb")
        self._pages = [_plain_page(level, path) for level in tiff.series[0].levels]
        self._pages = [page for page in self._pages if page.is_tiled]
        base = self._pages[0]
        self.width, self.height = base.imagewidth, base.imagelength
        self.mpp = _tiff_mpp(tiff, base)
        size = path.stat().st_size
        for page in self._pages:
            tiles = _tiles_across(page) * -(-page.imagelength // page.tilelength) * _planes(page)
            if not len(page.dataoffsets) == len(page.databytecounts) == tiles:
                raise InputError(f"{path} is truncated: the index of its tiles is not whole", "Copy the slide again.")
            ends = np.add(page.dataoffsets, page.databytecounts)
            if ends.size and ends.max() > size:
                raise InputError(
                    f"{path} is truncated: its index points to byte {ends.max():,}, the file ends at {size:,}",
                    "Copy the slide again.",
                )

    def _levels(self) -> list[tuple[int, int]]:
        return [(page.imagewidth, page.imagelength) for page in self._pages]

    def fingerprint(self) -> str:
        base = self._pages[0]
        offsets = np.asarray(base.dataoffsets, np.int64)
        counts = np.asarray(base.databytecounts, np.int64)
        digest = hashlib.sha256(f"tiles {self.width} {self.height}".encode())
        # Offsets relative to the first, so that a rewritten header (a new description) is the same slide.
        filled = counts > 0
        digest.update((offsets - offsets[filled].min(initial=offsets.max(initial=0)))[filled].tobytes())
        digest.update(counts.tobytes())
        # Tiles without compression are all of one length, so the index knows nothing of the pixels: hash them all.
        raw = base.compression == 1
        tiles = np.flatnonzero(filled)
        for tile in tiles if raw else tiles[[0, -1]] if len(tiles) else []:
            self._file.seek(int(offsets[tile]))
            digest.update(self._file.read(int(counts[tile]) if raw else min(int(counts[tile]), FINGERPRINT_BYTES)))
        first, last = (int(offsets[filled].min()), int((offsets + counts)[filled].max())) if filled.any() else (0, 0)
        for start in (first, max(first, last - FINGERPRINT_BYTES)):
            self._file.seek(start)
            digest.update(self._file.read(min(FINGERPRINT_BYTES, last - start)))
        return digest.hexdigest()

    def _read(self, level: int, x: int, y: int, width: int, height: int, out: np.ndarray) -> None:
        page = self._pages[level]
        across = _tiles_across(page)
        for row in range(y // page.tilelength, -(-(y + height) // page.tilelength)):
            for column in range(x // page.tilewidth, -(-(x + width) // page.tilewidth)):
                tile = self._tile(page, row * across + column)
                top, left = row * page.tilelength - y, column * page.tilewidth - x
                rows = slice(max(top, 0), min(top + page.tilelength, height))
                columns = slice(max(left, 0), min(left + page.tilewidth, width))
                out[rows, columns] = tile[
                    rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
                ]

    def _tile(self, page: tifffile.TiffPage, index: int) -> np.ndarray:
        """One decoded tile (tilelength, tilewidth, 3); a tile with no bytes is background."""
        tiles_a_plane = len(page.dataoffsets) // _planes(page)
        decoded = []
        for plane in range(min(_planes(page), 3)):
            segment = index + plane * tiles_a_plane
            count = page.databytecounts[segment]
            if not count:
                return np.broadcast_to(self.background, (page.tilelength, page.tilewidth, 3))
            self._file.seek(page.dataoffsets[segment])
            try:
                data, _, _ = page.decode(self._file.read(count), segment, jpegtables=page.jpegtables, _fullsize=True)
            except Exception as error:
                raise InputError(
                    f"{self.path}: tile {index} cannot be decoded ({error})", "Copy the slide again."
                ) from error
            assert data is not None  # which tifffile returns for a segment without bytes only
            decoded.append(data[0])
        return np.concatenate(decoded, -1)[..., :3]


class FlatImage(Slide):
    """JPEG, PNG, or a TIFF without tiles: decoded once, held in memory."""

    def __init__(self, path: Path, pixels: np.ndarray, mpp: float | None) -> None:
        self.path, self.mpp = path, mpp
        self._pixels = _as_rgb(pixels, path)
        self.height, self.width = self._pixels.shape[:2]

    def _levels(self) -> list[tuple[int, int]]:
        return [(self.width, self.height)]

    def fingerprint(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _read(self, level: int, x: int, y: int, width: int, height: int, out: np.ndarray) -> None:
        out[:] = self._pixels[y : y + height, x : x + width]


def open_slide(path: Path) -> Slide:
    """Open a slide by what the file is, not by its name.

    Raises InputError when it is missing, truncated or of a kind that is not read.
    """
    if not path.is_file():
        raise InputError(f"there is no slide {path}", "Check the path.")
    with path.open("rb") as file:
        magic = file.read(8)
    try:
        if magic[:2] in (b"II", b"MM"):
            return _open_tiff(path)
        if magic[:3] == b"\xff\xd8\xff":
            data = path.read_bytes()
            # The decoder fills what is missing with grey; neither marker can occur within the pixels of a scan.
            if data.rfind(JPEG_END) < data.rfind(JPEG_SCAN):
                raise InputError(f"{path} is truncated: its last scan has no end", "Copy the slide again.")
            return FlatImage(path, imagecodecs.jpeg_decode(data), None)
        if magic == b"\x89PNG\r\n\x1a\n":
            return FlatImage(path, imagecodecs.png_decode(path.read_bytes()), None)
    except InputError:
        raise
    except Exception as error:  # the decoders' own errors share no base class
        raise InputError(f"{path} cannot be read ({error})", "It may be truncated: copy the slide again.") from error
    raise InputError(f"{path} is not a TIFF, SVS, OME-TIFF, JPEG or PNG", "Convert it to a pyramidal TIFF.")


def iter_crops(slide: Slide, boxes: np.ndarray, block: int = BLOCK) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Crop every box, decoding each block of the slide once.

    `boxes` is (n, 3) int64: x, y, side in level-0 pixels; they may reach over the border. Yields, a block at a
    time, the rows of `boxes` (m,) and their (side, side, 3) uint8 crops.
    """
    if not len(boxes):
        return
    corner = boxes[:, :2] // block
    order = np.lexsort((corner[:, 0], corner[:, 1]))
    starts = np.flatnonzero(np.r_[True, (np.diff(corner[order], axis=0) != 0).any(1)])
    for rows in np.split(order, starts[1:]):
        x, y, side = boxes[rows].T
        left, top = int(x.min()), int(y.min())
        region = slide.read(left, top, int((x + side).max()) - left, int((y + side).max()) - top)
        yield rows, [region[b - top : b - top + s, a - left : a - left + s] for a, b, s in zip(x, y, side, strict=True)]


def tissue_mask(thumbnail: np.ndarray) -> np.ndarray:
    """Where a (h, w, 3) uint8 thumbnail shows tissue: (h, w) bool.

    Tissue differs from the glass in at least one channel: the largest difference, smoothed over a few pixels so that
    tissue is one piece, is above Otsu's threshold, kept between 15 and 40 grey levels for slides that are all or no
    tissue.
    """
    difference = np.abs(thumbnail.astype(np.int16) - glass_colour(thumbnail)).max(-1)
    smooth = gaussian_filter(difference.astype(np.float32), 2)
    return smooth > min(max(_otsu(smooth.astype(np.uint8)), 15), 40)


def glass_colour(thumbnail: np.ndarray) -> np.ndarray:
    """The (3,) uint8 colour of glass in a thumbnail: the median of its brightest tenth, white where all is stained."""
    pixels = thumbnail.reshape(-1, 3)
    darkest = pixels.min(1)
    glass = pixels[darkest >= max(200, int(np.percentile(darkest, 90)))]
    return np.median(glass, 0).astype(np.uint8) if len(glass) else np.full(3, 255, np.uint8)


def _otsu(values: np.ndarray) -> int:
    """Otsu's threshold of integer grey levels 0..255."""
    histogram = np.bincount(values.ravel(), minlength=256).astype(float)
    weight = histogram.cumsum()
    mean = (histogram * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * weight / weight[-1] - mean) ** 2 / (weight * (weight[-1] - weight))
    return int(np.nanargmax(np.where(np.isfinite(between), between, -1)))


def _open_tiff(path: Path) -> Slide:
    tiff = tifffile.TiffFile(path)
    if not tiff.series:
        raise InputError(f"{path} holds no image", "It may be truncated: copy the slide again.")
    base = tiff.series[0].levels[0]
    page = base.keyframe
    if page.photometric not in COLOURS:
        model = getattr(page.photometric, "name", page.photometric)
        raise InputError(f"{path} has the colours {model}, not RGB", "Export it as RGB.")
    if page.is_tiled and base.dtype == np.uint8 and page.samplesperpixel >= 3:
        return TiledTiff(path, tiff)
    with tiff:
        if np.prod(base.shape) > 2**32:
            raise InputError(
                f"{path} has no tiles and {np.prod(base.shape):,} values, too many to hold in memory",
                "Convert it to a tiled pyramidal TIFF.",
            )
        pixels = base.asarray()
        if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[-1] not in (3, 4):
            pixels = np.moveaxis(pixels, 0, -1)
        return FlatImage(path, pixels, _tiff_mpp(tiff, page))


def _plain_page(level: Any, path: Path) -> tifffile.TiffPage:
    page = level.keyframe
    if len(level.pages) != 1:
        raise InputError(f"{path} has {len(level.pages)} planes a level, not one H&E image", "Export one RGB plane.")
    return page


def _tiles_across(page: tifffile.TiffPage) -> int:
    return -(-page.imagewidth // page.tilewidth)


def _planes(page: tifffile.TiffPage) -> int:
    """How often each tile is stored: once, or once a sample (PlanarConfiguration 2)."""
    return page.samplesperpixel if page.planarconfig == 2 else 1


def _tiff_mpp(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    """Microns a pixel by OME's, then Aperio's, then the resolution tags; None unless plausible."""
    candidates: list[float] = []
    if tiff.is_ome and (found := re.search(r'PhysicalSizeX="([\d.eE+-]+)"', tiff.ome_metadata or "")):
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', tiff.ome_metadata or "")
        candidates.append(float(found.group(1)) * UM.get(html.unescape(unit.group(1)) if unit else "µm", 1.0))
    if found := re.search(r"\bMPP\s*=\s*([\d.]+)", page.description or ""):
        candidates.append(float(found.group(1)))
    unit_um = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit or 1))
    resolution = page.tags.get("XResolution")
    if unit_um and resolution and resolution.value[0]:
        candidates.append(unit_um * resolution.value[1] / resolution.value[0])
    return next((mpp for mpp in candidates if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]), None)


def _as_rgb(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise InputError(
            f"{path} has {pixels.dtype} pixels, not the 8-bit colours of an H&E image", "Export it as RGB."
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, -1)
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4):
        raise InputError(f"{path} has the shape {pixels.shape}, not (height, width, 3)", "Export it as RGB.")
    rgb = np.ascontiguousarray(pixels[..., :3])
    if pixels.shape[-1] == 4:
        rgb[pixels[..., 3] == 0] = 255  # the colour under full transparency means nothing, and is often black
    return rgb


def _reduce(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor x factor squares; what is left over at the edges is dropped."""
    if factor == 1:
        return pixels
    height, width = (n // factor * factor for n in pixels.shape[:2])
    squares = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return squares.mean((1, 3), dtype=np.float32).round().astype(np.uint8)
