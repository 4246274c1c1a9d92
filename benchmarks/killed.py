"""Four processes embed overlapping work into one cache while two read; each round one of them is killed by SIGKILL."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ds2c_cli.cache.inventory import holdings
from ds2c_cli.cache.maintenance import verify
from ds2c_cli.cache.store import Cache, MissingEmbeddings
from ds2c_cli.demo.tissue import paint_sample
from ds2c_cli.embeddings.tiles import tiles_of
from ds2c_cli.encoders.specification import specify
from ds2c_cli.project import Project
from ds2c_cli.records import EncoderDescription
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

WRITERS, READERS = 4, 2
WORK = [[f"w{number}", f"w{(number + 1) % WRITERS}"] for number in range(WRITERS)]  # each slide is two writers'


def main() -> None:
    """Run the rounds and print what each of them cost."""
    options = words()
    with TemporaryDirectory(prefix="ds2c-killed-") as folder:
        home = Path(folder)
        project = slides(home, options.size)
        reference = embedded(project, home / "reference", options.encoder)
        seconds = timed(project, home / "alone", options.encoder)
        rng = random.Random(options.seed)
        rounds = [
            one_round(
                project, home / f"round-{number}", options.encoder, reference, rng.uniform(0.4, 0.95) * seconds, rng
            )
            for number in range(options.rounds)
        ]
    unique = len(reference[0])
    encoded = [one["encoded"] for one in rounds]
    summary = {
        "encoder": options.encoder,
        "tiles": unique,
        "asked_for_by_four": 2 * unique,
        "rounds": rounds,
        "clean": all(one["clean"] for one in rounds),
        "units_in_the_last_place": max(one["units"] for one in rounds),
        "wrong_reads": sum(one["wrong_reads"] for one in rounds),
        "encoded_over_unique_median": float(np.median(encoded)) / unique,
        "encoded_over_unique_worst": max(encoded) / unique,
    }
    if options.json:
        print(json.dumps(summary, indent=1))
        return
    print(f"{options.encoder}: {unique:,} tiles, of which four processes are asked for two quarters each")
    print("round   killed after   left to its next run   encoded in all   per tile     reads   verify")
    for number, one in enumerate(rounds):
        print(
            f"{number:5d} {one['killed_after']:12.1f} s {one['again']:22,} {one['encoded']:16,} "
            f"{one['encoded'] / unique:10.3f} {one['reads']:9,}   {'clean' if one['clean'] else 'DAMAGED'}"
            + ("" if one["killed"] else " (it had already ended)")
        )
    print(
        f"vectors differ by at most {summary['units_in_the_last_place']} units in the last place; "
        f"{summary['wrong_reads']} wrong reads; encoded a tile: median {summary['encoded_over_unique_median']:.3f}, "
        f"worst {summary['encoded_over_unique_worst']:.3f} (all of all four: 2.00)"
    )


def words() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="colour", help="whose weights are here (colour)")
    parser.add_argument("--rounds", type=int, default=20, help="how often (20)")
    parser.add_argument("--size", type=int, default=3072, help="pixels a side of the four generated slides (3072)")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed, and when (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


def slides(home: Path, size: int) -> Project:
    """A project of four generated slides, w0 to w3."""
    project = Project(home / "project")
    for number in range(WRITERS):
        source = home / "slides" / str(number)
        paint_sample(source, seed=number, size_px=size)
        sources = Sources(source / "slide.tif", str(source / "cells.parquet"))
        prepare(
            project,
            sources,
            geometry=Geometry(membership="centroid"),
            sample=f"w{number}",
            donor=f"w{number}",
            cohort="killed",
        )
    return project


def start(project: Project, cache: Path, encoder: str, samples: list[str]) -> subprocess.Popen[str]:
    """`ds2c embed` in a process of its own."""
    command = [sys.executable, "-m", "ds2c_cli", "embed", *samples, "--encoder", encoder, "--device", "cpu", "--json"]
    env = os.environ | {
        "DS2C_PROJECT": str(project.root), "DS2C_CACHE": str(cache), "TMPDIR": str(cache.parent / "scratch"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    (cache.parent / "scratch").mkdir(exist_ok=True)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run answered."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"ds2c embed ended with {process.returncode}: {err}")
    return json.loads(out)


def embedded(project: Project, cache: Path, encoder: str) -> tuple[list[bytes], np.ndarray]:
    """Keys and vectors of an undisturbed run."""
    done = finished(start(project, cache, encoder, []))
    keys = sorted({key for sample in project.samples() for key in tiles_of(sample, described(encoder))[1]})
    return keys, Cache(cache, done["fingerprint"], done["dimension"]).get(keys)


def described(encoder: str) -> EncoderDescription:
    """What the encoder says of itself."""
    return specify(encoder, "", device="cpu", precision="auto").description


def timed(project: Project, cache: Path, encoder: str) -> float:
    """Seconds that the four take undisturbed, among which the moment of the kill is drawn."""
    began = time.perf_counter()
    for writer in [start(project, cache, encoder, samples) for samples in WORK]:
        finished(writer)
    return time.perf_counter() - began


def one_round(
    project: Project,
    cache: Path,
    encoder: str,
    reference: tuple[list[bytes], np.ndarray],
    after: float,
    rng: random.Random,
) -> dict[str, Any]:
    """Four writers, two readers, one kill, one run that goes on; and what is in the cache at the end."""
    keys, expected = reference
    fingerprint = specify(encoder, "", device="cpu", precision="auto").fingerprint
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.Queue()
    readers = [
        context.Process(target=read, args=(cache, fingerprint, keys, expected, stop, told, seed))
        for seed in range(READERS)
    ]
    for process in readers:
        process.start()
    writers = [start(project, cache, encoder, samples) for samples in WORK]
    victim = rng.randrange(WRITERS)
    time.sleep(after)
    running = writers[victim].poll() is None
    writers[victim].kill()
    writers[victim].communicate()
    for number, writer in enumerate(writers):
        if number != victim:
            finished(writer)
    again = finished(start(project, cache, encoder, WORK[victim]))["encoded"]
    stop.set()
    reads = [told.get() for _ in readers]
    for process in readers:
        process.join()
    vectors = Cache(cache, fingerprint, expected.shape[1]).get(keys)
    units = np.abs(vectors.view(np.int16).astype(int) - expected.view(np.int16).astype(int)).max()
    found = verify(cache)
    return {
        "killed": running,
        "killed_after": after,
        "again": again,
        "encoded": sum(one.tiles for one in holdings(cache)),  # a tile that two encoded is in two segments
        "reads": sum(count for count, _ in reads),
        "wrong_reads": sum(wrong for _, wrong in reads),
        "units": int(units),
        "clean": not any(one.damage for one in found),
        "segments": len(found),
    }


def read(
    cache: Path, fingerprint: str, keys: list[bytes], expected: np.ndarray, stop: Any, told: Any, seed: int
) -> None:
    """Read random tiles until told to stop; how many there were, and how many of them were wrong."""
    rng = np.random.default_rng(seed)
    count = wrong = 0
    while not stop.is_set():
        held = Cache(cache, fingerprint, expected.shape[1])
        rows = rng.choice(len(keys), min(2000, len(keys)), replace=False)
        asked = [keys[row] for row in rows]
        there = np.flatnonzero(~held.missing(asked))
        try:
            vectors = held.get([asked[row] for row in there])
        except MissingEmbeddings:
            wrong += len(there)
            continue
        apart = np.abs(vectors.view(np.int16).astype(int) - expected[rows[there]].view(np.int16).astype(int))
        wrong += int((apart.max(axis=1, initial=0) > 1).sum())
        count += len(there)
        time.sleep(0.1)
    told.put((count, wrong))


if __name__ == "__main__":
    main()
