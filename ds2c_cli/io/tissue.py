"""Tissue and glass: where the thumbnail of a slide shows tissue, and how well points or pseudo-cells cover it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter

COVERED = 0.3  # the share of a square's thumbnail pixels that must be tissue for the square to count as tissue


@dataclass(frozen=True)
class TissueMask:
    """Where a slide shows tissue: a (h, w) bool mask of a thumbnail of `scale` level-0 pixels per thumbnail pixel."""

    mask: np.ndarray
    scale: float

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tell whether there is tissue at level-0 pixels x, y (n,); False outside the thumbnail."""
        column, row = np.floor(x / self.scale).astype(np.int64), np.floor(y / self.scale).astype(np.int64)
        known = (column >= 0) & (row >= 0) & (column < self.mask.shape[1]) & (row < self.mask.shape[0])
        values = np.zeros(len(column), bool)
        values[known] = self.mask[row[known], column[known]]
        return values

    def jaccard(self, x: np.ndarray, y: np.ndarray, *, bin_px: float) -> float:
        """Measure how well points (n,) cover the tissue and only it, 0 to 1: |bins of both| / |bins of either|.

        Bins are squares of `bin_px` level-0 pixels.
        """
        rows, columns = (max(1, int(np.ceil(n * self.scale / bin_px))) for n in self.mask.shape)
        row, column = np.floor(np.indices(self.mask.shape) * self.scale / bin_px).astype(np.int64)
        bins = (row * columns + column).ravel()
        filled = np.bincount(bins, self.mask.ravel(), rows * columns)
        covered = filled / np.maximum(np.bincount(bins, minlength=rows * columns), 1) > COVERED
        column, row = np.floor(x / bin_px).astype(np.int64), np.floor(y / bin_px).astype(np.int64)
        known = (row >= 0) & (column >= 0) & (row < rows) & (column < columns)
        outside = len(np.unique(np.column_stack([row, column])[~known], axis=0))
        points = np.zeros(rows * columns, bool)
        points[(row * columns + column)[known]] = True
        either = (points | covered).sum() + outside
        return float((points & covered).sum() / either) if either else 0.0


def pseudo_cells(tissue: TissueMask, *, mpp: float, side_um: float) -> np.ndarray:
    """Lay a regular grid of square pseudo-cells on tissue, for slides without a segmentation: (n,) shapely boxes."""
    side = side_um / mpp
    height, width = np.array(tissue.mask.shape) * tissue.scale
    centres = np.meshgrid(np.arange(side / 2, width, side), np.arange(side / 2, height, side))
    x, y = np.reshape(centres, (2, -1))
    x, y = np.stack([x, y])[:, tissue.at(x, y)]
    return shapely.box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def tissue_mask(thumbnail: np.ndarray) -> np.ndarray:
    """Find where a (h, w, 3) uint8 thumbnail shows tissue: (h, w) bool.

    Tissue differs from the glass in at least one channel: the largest difference, smoothed over a few pixels so that
    tissue is one piece, is above Otsu's threshold, kept between 15 and 40 grey levels for slides that are all or no
    tissue.
    """
    difference = np.abs(thumbnail.astype(np.int16) - glass_colour(thumbnail)).max(-1)
    smooth = gaussian_filter(difference.astype(np.float32), 2)
    return smooth > min(max(_otsu(smooth.astype(np.uint8)), 15), 40)


def glass_colour(thumbnail: np.ndarray) -> np.ndarray:
    """Measure the (3,) uint8 colour of glass in a thumbnail: the median of its brightest tenth, white without any."""
    pixels = thumbnail.reshape(-1, 3)
    darkest = pixels.min(1)
    glass = pixels[darkest >= max(200, int(np.percentile(darkest, 90)))]
    return np.median(glass, 0).astype(np.uint8) if len(glass) else np.full(3, 255, np.uint8)


def _otsu(values: np.ndarray) -> int:
    """Find Otsu's threshold of integer grey levels 0..255."""
    histogram = np.bincount(values.ravel(), minlength=256).astype(float)
    weight = histogram.cumsum()
    mean = (histogram * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * weight / weight[-1] - mean) ** 2 / (weight * (weight[-1] - weight))
    return int(np.nanargmax(np.where(np.isfinite(between), between, -1)))
