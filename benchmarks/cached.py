"""How many tiles per second `ds2c embed` checks when the cache holds them all, and which part takes how long."""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from material import prepared, slide_words

from ds2c_cli.cache.segments import SlideName
from ds2c_cli.cache.store import Cache, tile_keys
from ds2c_cli.embeddings.embed import embed
from ds2c_cli.embeddings.tiles import plan, tiles_of
from ds2c_cli.encoders.specification import Specification, specify
from ds2c_cli.project import Project, Workspace
from ds2c_cli.settings import Embedding

COLD, WARM = "files not in the page cache", "once more"


def main() -> None:
    """Measure and print."""
    options = arguments()
    with (
        prepared(options.slide, options.cells, options.mpp) as project,
        TemporaryDirectory(prefix="ds2c-benchmark-") as folder,
    ):
        specification, root = specify(options.encoder), Path(folder)
        tiles = fill(project, specification, root, options.segments)
        seconds: dict[str, list[dict[str, float]]] = {COLD: [], WARM: []}
        for _ in range(options.repeats):
            for state, before in ((COLD, lambda: forget(project.root, root)), (WARM, gc.collect)):
                before()
                whole = timed(lambda: check_all(project, options.encoder, root, tiles))[0]
                before()
                seconds[state].append({**parts(project, options.encoder, root), "whole": whole})
    result = {
        "slide": str(options.slide),
        "encoder": options.encoder,
        "tiles": tiles,
        "segments": options.segments,
        "seconds": {
            state: {part: median(one[part] for one in runs) for part in runs[0]} for state, runs in seconds.items()
        },
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


def arguments() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    slide_words(parser)
    parser.add_argument("--encoder", default="imagenet-lite0", help="whose weights are here (imagenet-lite0)")
    parser.add_argument("--segments", type=int, default=1, help="segments that hold the vectors (1)")
    parser.add_argument("--repeats", type=int, default=7, help="how often each is measured (7)")
    return parser.parse_args()


def fill(project: Project, specification: Specification, root: Path, segments: int) -> int:
    """Random vectors for every tile of the project, in so many segments; how many tiles."""
    cache = Cache(root, specification.fingerprint, specification.recipe.dimension)
    (sample,) = project.samples()
    _, keys = tiles_of(sample, specification.description)
    random = np.random.default_rng(0)
    for part in np.array_split(np.arange(len(keys)), segments):
        with cache.writer(specification.description.document()) as writer:
            slide = SlideName(sample.slide_fingerprint, str(sample.slide))
            writer.append(
                slide, [keys[row] for row in part], random.standard_normal((len(part), cache.dimension), np.float32)
            )
    return len(keys)


def check_all(project: Project, encoder: str, root: Path, tiles: int) -> None:
    """`ds2c embed` as the command line calls it."""
    done = embed(Workspace(Project(project.root), cache=root, device="cpu"), Embedding(encoder=encoder))
    if (done.tiles, done.cached) != (tiles, tiles):
        raise SystemExit(f"{done.cached:,} of {done.tiles:,} tiles were found, not {tiles:,}")


def parts(project: Project, encoder: str, root: Path) -> dict[str, float]:
    """Seconds of the specification and of the plan, and of what the plan consists of, each on fresh objects."""
    seconds: dict[str, float] = {}

    def step(name: str, call: Callable[[], Any]) -> Any:
        seconds[name], value = timed(call)
        return value

    about = step("specify", lambda: specify(encoder, device="cpu"))
    fingerprint = step("fingerprint of the weights", lambda: about.fingerprint)
    cache = step("open cache", lambda: Cache(root, fingerprint, about.recipe.dimension))
    (sample,) = Project(project.root).samples()
    tile_px = about.preprocessing.tile_px
    boxes = step("read tables", lambda: np.concatenate([sample.cell_boxes(), sample.spot_boxes()]))
    unique = step("each box once", lambda: np.unique(boxes, axis=0))
    keys = step("keys", lambda: tile_keys(sample.slide_fingerprint, unique, tile_px=tile_px))
    step("look up", lambda: cache.missing(keys))
    step("plan, with tables read", lambda: plan([sample], cache, about.description))
    return seconds


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    began = perf_counter()
    value = call()
    return perf_counter() - began, value


def forget(*folders: Path) -> None:
    """Ask the system to drop its copies of the files in these folders, as if they were read for the first time."""
    gc.collect()  # closes the segments, which stay in memory as long as they are mapped
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def print_table(result: dict) -> None:
    """Seconds and tiles per second of everything, cold and warm."""
    tiles, seconds = result["tiles"], result["seconds"]
    print(f"{tiles:,} tiles in {result['segments']} segments, {result['encoder']}")
    print(f"  {'':<28} {COLD + ': s':>32} {'tiles/s':>10} {WARM + ': s':>14} {'tiles/s':>10}")
    for part in seconds[COLD]:
        cold, warm = seconds[COLD][part], seconds[WARM][part]
        name = "ds2c embed, whole call" if part == "whole" else part
        print(f"  {name:<28} {cold:>32.3f} {tiles / cold:>10,.0f} {warm:>14.3f} {tiles / warm:>10,.0f}")


if __name__ == "__main__":
    main()
