"""How many cells per second are cropped from a slide: block by block in threads and processes, and a read per cell."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from ds2c_cli.geometry import cell_tiles, pixel_boxes
from ds2c_cli.io.cells import read_cells
from ds2c_cli.io.slides import Slide, blocks_of, crop_block, open_slide

ENCODER_PX = 224
ONE_BY_ONE = "a read a cell, file order"

opened: Slide  # by each worker process


def main() -> None:
    """Measure and print."""
    options = arguments()
    slide = open_slide(options.slide)
    mpp = options.mpp or slide.mpp
    if mpp is None:
        raise SystemExit(f"{options.slide} does not say its pixel size: add --mpp")
    outline = read_cells(options.cells).outline
    few = np.random.default_rng(0).permutation(len(outline))[:10_000]
    sets = {
        f"cells, at least {options.cell_um:g} um": pixel_boxes(cell_tiles(outline, mpp, options.cell_um)),
        f"{ENCODER_PX} px around some": pixel_boxes(cell_tiles(outline[few], mpp, ENCODER_PX * mpp)),
    }
    with (
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(2) as two,
        ThreadPoolExecutor(4) as four,
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), open_here, (options.slide,)) as processes,
    ):
        threads = {"1 thread": one, "2 threads": two, "4 threads": four}
        rates = {
            name: measured(ways_to_crop(slide, boxes, threads, processes, options.reads), options.repeats)
            for name, boxes in sets.items()
        }
    counts = {name: len(boxes) for name, boxes in sets.items()}
    if options.json:
        print(json.dumps({"slide": str(options.slide), "tiles": counts, "tiles_per_second": rates}, indent=2))
    else:
        print_tables(counts, rates)


def arguments() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("cells", type=Path, help="outlines of cells in level-0 pixels, any format that ds2c reads")
    parser.add_argument("--cell-um", type=float, default=36.0, help="smallest side of a cell's tile (36)")
    parser.add_argument("--mpp", type=float, help="microns a pixel, where the slide does not say")
    parser.add_argument("--reads", type=int, default=2000, help="cells that are read one by one (2000)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each way is measured (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


def measured(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Tiles a second of each way, the median of some repeats; the ways take turns, so that all see the same machine."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # imports, page cache, the background's colour
    for _ in range(repeats):
        for name, way in ways.items():
            began = perf_counter()
            tiles = way()
            rates[name].append(tiles / (perf_counter() - began))
    return {name: median(values) for name, values in rates.items()}


def ways_to_crop(
    slide: Slide, boxes: np.ndarray, threads: dict[str, ThreadPoolExecutor], processes: Executor, reads: int
) -> dict[str, Callable[[], int]]:
    """Each way by name; a call crops and returns the number of crops.

    Copied: each crop lies in the main process in memory of its own, as an encoder's batch needs it.
    """
    some = boxes[np.sort(np.random.default_rng(0).permutation(len(boxes))[:reads])]
    ways: dict[str, Callable[[], int]] = {}
    for name, pool in threads.items():
        ways[name] = partial(by_block, pool, partial(crop_block, slide), boxes)
        ways[f"{name}, copied"] = partial(by_block, pool, partial(crop_and_copy, slide), boxes)
    ways["2 processes"] = partial(by_block, processes, crop_there, boxes)
    ways["2 processes, copied"] = partial(by_block, processes, crop_here, boxes)
    ways[ONE_BY_ONE] = partial(one_by_one, slide, some)
    return ways


def by_block(pool: Executor, crop: Callable[[np.ndarray], Iterable], boxes: np.ndarray) -> int:
    """Crop block by block."""
    return sum(len(list(crops)) for crops in pool.map(crop, [boxes[rows] for rows in blocks_of(boxes)]))


def one_by_one(slide: Slide, boxes: np.ndarray) -> int:
    """The published implementation's way: a read per cell, in the order of the file."""
    for x, y, side in boxes.tolist():
        slide.read(x, y, width=side, height=side)
    return len(boxes)


def crop_and_copy(slide: Slide, boxes: np.ndarray) -> list[np.ndarray]:
    """Crops in memory of their own."""
    return [crop.copy() for crop in crop_block(slide, boxes)]


def open_here(path: Path) -> None:
    """Open the slide in a worker process."""
    global opened
    opened = open_slide(path)


def crop_here(boxes: np.ndarray) -> list[np.ndarray]:
    """Crop in a worker process; the crops travel to the main one."""
    return crop_block(opened, boxes)


def crop_there(boxes: np.ndarray) -> range:
    """Crop in a worker process and leave the crops there."""
    return range(len(crop_block(opened, boxes)))


def print_tables(counts: dict[str, int], rates: dict[str, dict[str, float]]) -> None:
    """A table per set of tiles, with the ratio to a read per cell."""
    for name, rate in rates.items():
        print(f"{f'{counts[name]:,} tiles: {name}':<45} {'tiles/s':>10} {'ratio':>8}")
        for way, value in rate.items():
            print(f"  {way:<43} {value:>10,.0f} {value / rate[ONE_BY_ONE]:>8.1f}")


if __name__ == "__main__":
    main()
