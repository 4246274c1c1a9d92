"""Tiles on their way to the network: one buffer of uint8 pixels, resized on the device as PIL would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from . import Preprocessing


@dataclass(frozen=True)
class Tiles:
    """Square uint8 RGB tiles of any sides in one flat buffer, sorted by side, so that one copy moves them all."""

    pixels: torch.Tensor  # (sum of side * side * 3,) uint8
    sides: np.ndarray  # (n,) in pixels, ascending
    order: np.ndarray  # (n,) which of the tiles given each of these is

    def __len__(self) -> int:
        return len(self.sides)

    def groups(self) -> list[tuple[slice, torch.Tensor]]:
        """Group the tiles by side: their places in the sorted order, and (m, 3, side, side) uint8 views."""
        found, start = [], 0
        for side, first, count in zip(*np.unique(self.sides, return_index=True, return_counts=True), strict=True):
            end = start + int(side * side * 3 * count)
            stacked = self.pixels[start:end].view(int(count), int(side), int(side), 3).permute(0, 3, 1, 2)
            found.append((slice(int(first), int(first + count)), stacked))
            start = end
        return found

    def to(self, device: torch.device) -> Tiles:
        """Copy to a device; from pinned memory without waiting for the copy."""
        return Tiles(self.pixels.to(device, non_blocking=True), self.sides, self.order)


def pack(tiles: Sequence[np.ndarray], pinned: bool = False) -> Tiles:
    """Put (side, side, 3) uint8 tiles into one buffer; `pinned` lets CUDA copy it while it computes."""
    sides = np.array([len(tile) for tile in tiles], np.int64)
    order = np.argsort(sides, kind="stable")
    ends = np.cumsum(sides[order] ** 2 * 3)
    buffer = torch.empty(int(ends[-1]) if len(ends) else 0, dtype=torch.uint8, pin_memory=pinned)
    flat = buffer.numpy()
    for row, end in zip(order, ends, strict=True):
        tile = tiles[row]
        flat[end - tile.size : end].reshape(tile.shape)[:] = tile
    return Tiles(buffer, sides[order], order)


def resize(tiles: Tiles, preprocessing: Preprocessing) -> torch.Tensor:
    """Resize tiles to (n, 3, tile_px, tile_px) uint8, in the buffer's order, on the buffer's device.

    As PIL does it, antialiased in two passes, each rounded to whole grey levels, so that it equals PIL's resize of the
    uint8 tile but for a level or two in a few pixels of a thousand (tested); then the centre is cropped.
    """
    side_px = preprocessing.tile_px
    target = preprocessing.resize_px or side_px
    margin = round((target - side_px) / 2)  # as torchvision's CenterCrop rounds
    out = torch.empty((len(tiles), 3, side_px, side_px), dtype=torch.uint8, device=tiles.pixels.device)
    for rows, pixels in tiles.groups():
        side = pixels.shape[-1]
        if side != target:
            resized = pixels.float()
            for size in ((side, target), (target, target)):  # across, then down
                resized = F.interpolate(resized, size, mode=preprocessing.interpolation, antialias=True)
                resized = resized.round_().clamp_(0, 255)
            pixels = resized
        out[rows] = pixels[..., margin : margin + side_px, margin : margin + side_px]
    return out
