"""Classes of cells, which QuPath colours: by a column of theirs, or by the gene that is highest."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from .. import schema
from ..errors import UsageError
from .formats import Classes, Export

BY_GENES = "genes"
MOST_CLASSES = 256


def classes_of(found: Export, by: str) -> Classes | None:
    """Sort the cells into classes by a column of theirs, or by "genes"; None where nothing is asked for.

    Raises UsageError for a column that is not there or has no classes.
    """
    if not by:
        return None
    if by in found.obs:
        return _classes_of_column(found.obs[by], found.colours.get(f"{by}_colors"))
    if by == BY_GENES:
        return _classes_of_genes(found)
    raise UsageError(
        f"the cells have no column {by!r}: they have {', '.join(map(str, found.obs.columns))}",
        f"--class-by takes one of them, or {BY_GENES!r}.",
    )


def _classes_of_column(column: pd.Series, colours: Sequence[str] | None) -> Classes:
    """Make a class of each value of a column of names, flags or whole numbers; scanpy's colours stay."""
    if pd.api.types.is_float_dtype(column):
        raise UsageError(
            f"--class-by needs a column of classes, {column.name} has measured numbers",
            "QuPath colours numbers by itself: give genes, and look at its measurement maps.",
        )
    if pd.api.types.is_bool_dtype(column):
        column = column.map({True: str(column.name), False: f"not {column.name}"})
    values = column.astype("category").cat
    names = [str(value) for value in values.categories]
    if len(names) > MOST_CLASSES:
        raise UsageError(f"{column.name} has {len(names):,} values, too many to be classes", "Choose another column.")
    codes = values.codes.to_numpy()
    if colours is None or len(colours) < len(names):
        return Classes(names, spread_colours(len(names)), _slice_of(codes))
    return Classes(names, [_bytes_of(to_rgb(str(colour))) for colour in colours], _slice_of(codes))


def _classes_of_genes(found: Export) -> Classes:
    """Class each cell by the gene that is highest in it, in standard deviations above its mean over all cells.

    A cell where no gene is above its mean has no class.
    """
    if len(found.genes) < 2 or len(found.genes) > MOST_CLASSES:
        raise UsageError(
            f"--class-by {BY_GENES} compares some genes, not {len(found.genes):,}", "Choose markers with --genes A,B,C."
        )
    rows = found.matrices.get("X", found.matrices.get(schema.LAYER_COUNTS))
    assert rows is not None
    total = np.zeros((2, len(found.genes)))
    for begin, end in found.blocks(len(found)):
        block = rows(begin, end).astype(np.float64)
        total += [block.sum(0), (block**2).sum(0)]
    mean = total[0] / len(found)
    spread = np.sqrt(np.maximum(total[1] / len(found) - mean**2, 0))

    def highest(begin: int, end: int) -> np.ndarray:
        above = (rows(begin, end) - mean) / np.where(spread > 0, spread, np.inf)
        return np.where(above.max(1) > 0, above.argmax(1), -1)

    return Classes(found.genes, spread_colours(len(found.genes)), highest)


def _slice_of(codes: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda begin, end: codes[begin:end]


def spread_colours(number: int) -> list[tuple[int, int, int]]:
    """Make colours that differ: hues a golden ratio apart, as light as shows on H&E."""
    hues = ((0.61 + 0.618034 * i) % 1 for i in range(number))
    return [_bytes_of(colorsys.hls_to_rgb(hue, 0.45 + 0.1 * (i % 2), 0.95)) for i, hue in enumerate(hues)]


def _bytes_of(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue
