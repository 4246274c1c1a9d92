"""Slides: open an image, know its size, pixel size and fingerprint, read regions and crops."""

from __future__ import annotations

import copy
import hashlib
import html
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile

from ..errors import InputError
from .tissue import glass_colour

PLAUSIBLE_MPP = (0.05, 5.0)  # a tag outside is a print resolution (72 dpi is 353 um), not a pixel size
BLOCK = 2048  # pixels per side; decoding blocks and slicing them was 60 times faster than a read per cell
STRIP_BYTES = 256 << 20  # decoded strips kept: those of a row of blocks across 40,000 pixels
FINGERPRINT_BYTES = 65_536  # of the first and of the last encoded pixels
COLOURS = {1, 2, 6}  # TIFF's PhotometricInterpretation: grey, RGB, YCbCr; others need a conversion
UM = {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "pixel": float("nan"), "reference frame": float("nan")}  # OME; else microns
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"


class Slide(ABC):
    """One H&E image: uint8 RGB, x right, y down, level-0 pixels."""

    path: Path
    width: int
    height: int
    mpp: float | None  # microns per pixel from the file's own tags, None where they say nothing credible

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash the pixels, not of the path or the time: equal for a renamed copy."""

    @abstractmethod
    def _levels(self) -> list[tuple[int, int]]:
        """(width, height) of every level, level 0 first."""

    @abstractmethod
    def _read(self, out: np.ndarray, *, level: int, x: int, y: int, boxes: np.ndarray | None = None) -> None:
        """Fill `out` (height, width, 3) with a rectangle that lies inside the level, or at least its `boxes`."""

    def read(
        self, x: int, y: int, *, width: int, height: int, level: int = 0, boxes: np.ndarray | None = None
    ) -> np.ndarray:
        """Read a (height, width, 3) uint8 rectangle; what lies outside the slide has the background's colour.

        With `boxes` (m, 3) int64, x, y and side in the level's pixels, only what lies in some box is read, the rest
        of the rectangle is undefined. Threads may read one slide at once.
        """
        level_width, level_height = self._levels()[level]
        left, top = min(max(-x, 0), width), min(max(-y, 0), height)
        right, bottom = max(min(level_width - x, width), left), max(min(level_height - y, height), top)
        out = np.empty((height, width, 3), np.uint8)
        inside = out[top:bottom, left:right]
        if inside.size:
            self._read(inside, level=level, x=x + left, y=y + top, boxes=boxes)
        if inside.size < out.size:
            for margin in (out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, right:]):
                margin[:] = self.background
        return out

    def thumbnail(self, longest: int = 1024) -> tuple[np.ndarray, float]:
        """Reduce the whole slide to at most about `longest` pixels: ((h, w, 3) uint8, level-0 pixels per its pixel)."""
        levels = self._levels()
        level = max((i for i, size in enumerate(levels) if max(size) >= longest), default=0)
        width, height = levels[level]
        factor = max(1, min(-(-max(width, height) // longest), width, height))
        strips = []
        for y in range(0, height, BLOCK // factor * factor or factor):
            rows = min(BLOCK // factor * factor or factor, height - y)
            strip = np.empty((rows, width, 3), np.uint8)
            self._read(strip, level=level, x=0, y=y)
            strips.append(_reduce(strip, factor))
        return np.concatenate([strip for strip in strips if len(strip)]), factor * self.width / width

    @cached_property
    def background(self) -> np.ndarray:
        """The (3,) uint8 colour of glass on this slide, measured with its missing tiles black, as no glass is."""
        dark = copy.copy(self)
        dark.background = np.zeros(3, np.uint8)
        return glass_colour(dark.thumbnail(512)[0])


class _Grid:
    """One level of a TIFF as the grid of its tiles, or of its strips: tiles as wide as the level."""

    def __init__(self, page: tifffile.TiffPage) -> None:
        self.width, self.height = page.imagewidth, page.imagelength
        self.tile_width = page.tilewidth if page.is_tiled else page.imagewidth
        self.tile_height = page.tilelength if page.is_tiled else page.rowsperstrip
        self.across = -(-self.width // self.tile_width)
        self.tiles = self.across * -(-self.height // self.tile_height)
        # Each tile is stored once, or once a sample (PlanarConfiguration 2); what follows RGB counts only as alpha.
        self.planes = page.samplesperpixel if page.planarconfig == 2 else 1
        self.samples = 4 if page.extrasamples[:1] in ((1,), (2,)) else 3
        self.unit = "tile" if page.is_tiled else "strip"
        self.raw = page.compression == 1
        self.offsets = np.asarray(page.dataoffsets, np.int64)
        self.counts = np.asarray(page.databytecounts, np.int64)
        # Looked up here, as tifffile does it late and not for several threads; what it returns keeps no state.
        self.decode = partial(page.decode, jpegtables=page.jpegtables, jpegheader=page.jpegheader, _fullsize=True)

    def touched_by(self, boxes: np.ndarray, *, rows: slice, columns: slice) -> np.ndarray:
        """Which tiles of a part of the grid, (rows, columns) bool, some box (m, 3) touches."""
        size = np.array([columns.stop - columns.start, rows.stop - rows.start])
        tile, origin = (self.tile_width, self.tile_height), (columns.start, rows.start)
        first = np.clip(boxes[:, :2] // tile - origin, 0, size)
        end = np.clip(-(-(boxes[:, :2] + boxes[:, 2:]) // tile) - origin, 0, size)
        # A box adds one between its corners once sums are taken down the rows and along the columns.
        change = np.zeros(size[::-1] + 1, np.int64)
        for x, y, sign in ((first, first, 1), (end, end, 1), (first, end, -1), (end, first, -1)):
            np.add.at(change, (y[:, 1], x[:, 0]), sign)
        return change.cumsum(0).cumsum(1)[:-1, :-1] > 0


class TiledTiff(Slide):
    """Pyramidal TIFF, SVS, OME-TIFF, or a TIFF in strips: found by offset and decoded by imagecodecs."""

    def __init__(self, path: Path, tiff: tifffile.TiffFile) -> None:
        self.path = path
        self._file = path.open("rb")
        pages = [_plain_page(level, path) for level in tiff.series[0].levels]
        self._grids = [_Grid(page) for page in pages if page.is_tiled == pages[0].is_tiled]
        base = self._grids[0]
        self.width, self.height = base.width, base.height
        self.mpp = _tiff_mpp(tiff, pages[0])
        # Functions that know nothing of the slide: a closed slide and its decoded strips are freed at once.
        self._tiles: list[Callable[[int], np.ndarray | None]] = [
            partial(_decoded, path=path, file=self._file, grid=grid) for grid in self._grids
        ]
        if base.unit == "strip":  # the blocks beside each other all need the same
            self._tiles[0] = lru_cache(STRIP_BYTES // _strip_bytes(pages[0]))(self._tiles[0])
        size = path.stat().st_size
        for grid in self._grids:
            if not len(grid.offsets) == len(grid.counts) == grid.tiles * grid.planes:
                raise InputError(
                    f"{path} is truncated: the index of its {grid.unit}s is not whole", "Copy the slide again."
                )
            ends = grid.offsets + grid.counts
            if ends.size and ends.max() > size:
                raise InputError(
                    f"{path} is truncated: its index points to byte {ends.max():,}, the file ends at {size:,}",
                    "Copy the slide again.",
                )

    def _levels(self) -> list[tuple[int, int]]:
        return [(grid.width, grid.height) for grid in self._grids]

    def fingerprint(self) -> str:
        base = self._grids[0]
        if base.unit == "strip":  # few and large: their number of bytes says little of their pixels
            return _file_hash(self.path)
        offsets, counts = base.offsets, base.counts
        digest = hashlib.sha256(f"tiles {self.width} {self.height}".encode())
        # Offsets relative to the first, so that a rewritten header (a new description) is the same slide.
        filled = counts > 0
        digest.update((offsets - offsets[filled].min(initial=offsets.max(initial=0)))[filled].tobytes())
        digest.update(counts.tobytes())
        # Tiles without compression are all of one length, so the index knows nothing of the pixels: hash them all.
        tiles = np.flatnonzero(filled)
        for tile in tiles if base.raw else tiles[[0, -1]] if len(tiles) else []:
            length = counts[tile] if base.raw else min(counts[tile], FINGERPRINT_BYTES)
            digest.update(_bytes(self._file, offset=offsets[tile], count=length))
        first, last = (int(offsets[filled].min()), int((offsets + counts)[filled].max())) if filled.any() else (0, 0)
        for start in (first, max(first, last - FINGERPRINT_BYTES)):
            digest.update(_bytes(self._file, offset=start, count=min(FINGERPRINT_BYTES, last - start)))
        return digest.hexdigest()

    def _read(self, out: np.ndarray, *, level: int, x: int, y: int, boxes: np.ndarray | None = None) -> None:
        grid = self._grids[level]
        height, width = out.shape[:2]
        rows = slice(y // grid.tile_height, -(-(y + height) // grid.tile_height))
        columns = slice(x // grid.tile_width, -(-(x + width) // grid.tile_width))
        wanted = np.ones((rows.stop - rows.start, columns.stop - columns.start), bool)
        if boxes is not None:
            wanted = grid.touched_by(boxes, rows=rows, columns=columns)
        for row, column in (np.argwhere(wanted) + np.array([rows.start, columns.start])).tolist():
            tile = self._tiles[level](row * grid.across + column)
            top, left = row * grid.tile_height - y, column * grid.tile_width - x
            down = slice(max(top, 0), min(top + grid.tile_height, height))
            along = slice(max(left, 0), min(left + grid.tile_width, width))
            out[down, along] = (
                self.background
                if tile is None
                else tile[down.start - top : down.stop - top, along.start - left : along.stop - left]
            )


class FlatImage(Slide):
    """JPEG, PNG, or a TIFF that is one strip: decoded once, held in memory."""

    def __init__(self, path: Path, pixels: np.ndarray, *, mpp: float | None) -> None:
        self.path, self.mpp = path, mpp
        self._pixels = _as_rgb(pixels, path)
        self.height, self.width = self._pixels.shape[:2]

    def _levels(self) -> list[tuple[int, int]]:
        return [(self.width, self.height)]

    def fingerprint(self) -> str:
        return _file_hash(self.path)

    def _read(self, out: np.ndarray, *, level: int, x: int, y: int, boxes: np.ndarray | None = None) -> None:
        height, width = out.shape[:2]
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
            return FlatImage(path, imagecodecs.jpeg_decode(data), mpp=None)
        if magic == b"\x89PNG\r\n\x1a\n":
            return FlatImage(path, imagecodecs.png_decode(path.read_bytes()), mpp=None)
    except InputError:
        raise
    except Exception as error:  # the decoders' own errors share no base class
        raise InputError(f"{path} cannot be read ({error})", "It may be truncated: copy the slide again.") from error
    raise InputError(f"{path} is not a TIFF, SVS, OME-TIFF, JPEG or PNG", "Convert it to a pyramidal TIFF.")


def blocks_of(boxes: np.ndarray, block: int = BLOCK) -> list[np.ndarray]:
    """Group the rows of `boxes` (n, 3) int64, x, y and side in level-0 pixels, by the block of the slide they begin in.

    Every row is in one array (m,) of rows. Blocks are in reading order, so that neighbours follow each other; the
    boxes of one span at most `block` and the largest side.
    """
    if not len(boxes):
        return []
    corner = boxes[:, :2] // block
    order = np.lexsort((corner[:, 0], corner[:, 1]))
    starts = np.flatnonzero((np.diff(corner[order], axis=0) != 0).any(1)) + 1
    return np.split(order, starts)


def crop_block(slide: Slide, boxes: np.ndarray) -> list[np.ndarray]:
    """Cut the (side, side, 3) uint8 crops of the boxes (m, 3) int64 of one block; they may reach over the border.

    The slide is read once for all of them. The crops are views of what was read: copy what is to outlive the block.
    Threads may crop one slide at once.
    """
    left, top = boxes[:, :2].min(0).tolist()
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0).tolist()
    region = slide.read(left, top, width=right - left, height=bottom - top, boxes=boxes)
    return [region[y - top : y - top + side, x - left : x - left + side] for x, y, side in boxes.tolist()]


def _open_tiff(path: Path) -> Slide:
    tiff = tifffile.TiffFile(path)
    if not tiff.series:
        raise InputError(f"{path} holds no image", "It may be truncated: copy the slide again.")
    base = tiff.series[0].levels[0]
    page = base.keyframe
    if page.photometric not in COLOURS:
        model = getattr(page.photometric, "name", page.photometric)
        raise InputError(f"{path} has the colours {model}, not RGB", "Export it as RGB.")
    with tiff:
        in_strips = page.rowsperstrip < page.imagelength and _strip_bytes(page) <= STRIP_BYTES
        if (page.is_tiled or in_strips) and base.dtype == np.uint8 and page.samplesperpixel >= 3:
            return TiledTiff(path, tiff)
        if np.prod(base.shape) > 2**32:
            raise InputError(
                f"{path} has no tiles and {np.prod(base.shape):,} values, too many to hold in memory",
                "Convert it to a tiled pyramidal TIFF.",
            )
        pixels = base.asarray()
        if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[-1] not in (3, 4):
            pixels = np.moveaxis(pixels, 0, -1)
        return FlatImage(path, pixels, mpp=_tiff_mpp(tiff, page))


def _plain_page(level: tifffile.TiffPageSeries, path: Path) -> tifffile.TiffPage:
    page = level.keyframe
    if len(level.pages) != 1:
        raise InputError(f"{path} has {len(level.pages)} planes a level, not one H&E image", "Export one RGB plane.")
    return page


def _decoded(tile: int, *, path: Path, file: BinaryIO, grid: _Grid) -> np.ndarray | None:
    """Decode the pixels (tile_height, tile_width, 3) of a tile; None for one without bytes."""
    planes = []
    for segment in range(tile, tile + grid.tiles * min(grid.planes, grid.samples), grid.tiles):
        if not grid.counts[segment]:
            return None
        try:
            data, _, _ = grid.decode(_bytes(file, offset=grid.offsets[segment], count=grid.counts[segment]), segment)
        except Exception as error:
            raise InputError(
                f"{path}: {grid.unit} {tile} cannot be decoded ({error})", "Copy the slide again."
            ) from error
        assert data is not None  # which tifffile returns for a segment without bytes only
        planes.append(data[0])
    pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, -1)
    return _as_rgb(pixels[..., : grid.samples], path)


def _bytes(file: BinaryIO, *, offset: int, count: int) -> bytes:
    """Bytes of a file, wherever other threads read."""
    return os.pread(file.fileno(), int(count), int(offset))


def _strip_bytes(page: tifffile.TiffPage) -> int:
    """How large a decoded strip is."""
    return page.rowsperstrip * page.imagewidth * 3


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
