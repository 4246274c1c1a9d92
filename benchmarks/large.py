"""Seconds and peak memory of what grows with the cells: reading a million outlines, predicting 500,000 x 5,000."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import numpy as np
import pandas as pd
import shapely
import tifffile

from ds2c_cli import schema
from ds2c_cli.choices import Pooling
from ds2c_cli.files import write_record
from ds2c_cli.geometry import Lattice, square_tiles
from ds2c_cli.io.cells import read_cells
from ds2c_cli.project import Project, Workspace
from ds2c_cli.records import CheckpointInfo, EncoderDescription, EncoderUsed, SampleRecord
from ds2c_cli.settings import Embedding, Geometry, Training

VERTICES = 24
PITCH = 30  # pixels from cell to cell
CELLS_A_SPOT = 20


def main() -> None:
    """Measure each way in a process of its own, so that its peak is its own, and print."""
    options = arguments()
    if options.work:  # the process that is measured
        began, before = perf_counter(), process_time()
        WORK[options.work](options.input)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = {"seconds": perf_counter() - began, "cpu_seconds": process_time() - before}
        print(json.dumps({**seconds, "peak_gib": peak}))
        return
    rows = []
    with TemporaryDirectory(prefix="ds2c-benchmark-", dir=options.folder) as folder:
        for name, make in MADE.items():
            if options.only and name not in options.only:
                continue
            path = Path(folder) / name
            make(path, options)
            work = "predict" if name == "predict" else "read"
            words = [sys.executable, __file__, "--work", work, "--input", str(path)]
            found = json.loads(
                subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            size = sum(
                file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
            )
            rows.append({"input": name, **found, "gib_on_disk": size / 2**30})
            took = f"{found['seconds']:7.1f} s {found['cpu_seconds']:7.1f} s CPU {found['peak_gib']:6.2f} GiB at most"
            print(f"{name:20} {took} {size / 2**30:7.2f} GiB on disk")
            subprocess.run(["rm", "-rf", path], check=True)
    if options.json:
        print(json.dumps(rows, indent=2))


def arguments() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000, help="outlines that are read")
    parser.add_argument("--predicted", type=int, default=500_000, help="cells that are predicted")
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--dimension", type=int, default=1024, help="of the embeddings")
    parser.add_argument("--only", nargs="*", choices=sorted(MADE), help="some of the inputs")
    parser.add_argument("--folder", type=Path, help="where the inputs are made, about 25 GB; the system's by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=sorted(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def outlines(cells: int) -> np.ndarray:
    """Wobbly outlines (cells,) on a square."""
    random, across = np.random.default_rng(0), int(np.ceil(np.sqrt(cells)))
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    radius = 11 + random.random((cells, VERTICES, 1)) * 3
    centre = np.column_stack(np.divmod(np.arange(cells), across)).astype(float) * PITCH + PITCH
    return shapely.polygons(centre[:, None] + radius * np.column_stack([np.cos(angle), np.sin(angle)]))


def geoparquet(path: Path, options: argparse.Namespace) -> None:
    """What geopandas writes."""
    import geopandas  # here, so that what is measured holds only what its work needs

    ids = np.char.add("cell_", np.arange(options.cells).astype(str))
    geopandas.GeoDataFrame({"cell_id": ids}, geometry=outlines(options.cells)).to_parquet(path)


def vertices(path: Path, options: argparse.Namespace) -> None:
    """Xenium's long form."""
    xy, cell = shapely.get_coordinates(outlines(options.cells), return_index=True)
    pd.DataFrame({"cell_id": cell, "vertex_x": xy[:, 0], "vertex_y": xy[:, 1]}).to_parquet(path, index=False)


def geojson(path: Path, options: argparse.Namespace) -> None:
    """What QuPath writes: one line a detection."""
    about = json.dumps({"objectType": "detection", "classification": {"name": "Tumor", "color": [200, 0, 0]}})
    with path.open("w") as file:
        file.write('{"type": "FeatureCollection", "features": [\n')
        for row, outline in enumerate(outlines(options.cells)):
            shape = shapely.to_geojson(shapely.set_precision(outline, 0.01))
            feature = f'{{"type": "Feature", "id": "cell_{row}", "geometry": {shape}, "properties": {about}}}'
            file.write(("," if row else "") + feature + "\n")
        file.write("]}")


def cellvit(path: Path, options: argparse.Namespace) -> None:
    """What CellViT writes."""
    with path.open("w") as file:
        file.write('{"wsi_metadata": {"magnification": 40}, "type_map": {"1": "Neoplastic"}, "cells": [')
        for row, outline in enumerate(outlines(options.cells)):
            contour = shapely.get_coordinates(outline)[:-1].round().astype(int).tolist()
            (x0, y0, x1, y1), centre = outline.bounds, [outline.centroid.x, outline.centroid.y]
            cell = {"bbox": [[y0, x0], [y1, x1]], "centroid": centre, "contour": contour, "type_prob": 0.9, "type": 1}
            file.write(("," if row else "") + json.dumps(cell))
        file.write("]}")


def label_image(path: Path, options: argparse.Namespace) -> None:
    """A tiled TIFF of squares, uint32."""
    across = int(np.ceil(np.sqrt(options.cells)))
    labels = np.kron(
        np.arange(1, across**2 + 1, dtype=np.uint32).reshape(across, across), np.pad(np.ones((14, 14), np.uint32), 1)
    )
    tifffile.imwrite(path, labels, tile=(512, 512), compression="zlib")


def prediction(path: Path, options: argparse.Namespace) -> None:
    """A project with a sample that is embedded, and a checkpoint that was never trained."""
    import torch

    from ds2c_cli.cache.segments import SlideName
    from ds2c_cli.cache.store import Cache
    from ds2c_cli.embeddings.tiles import tiles_of
    from ds2c_cli.training.checkpoint import Checkpoint, Standardisation, build_model
    from ds2c_cli.training.train import with_own_defaults

    project, random, n = Project(path), np.random.default_rng(0), options.predicted
    geometry, mpp = Geometry(), 0.25
    n_spots, across = n // CELLS_A_SPOT, int(np.ceil(np.sqrt(n // CELLS_A_SPOT)))
    side = geometry.spot_tile_um / mpp
    spots = np.column_stack(np.divmod(np.arange(n_spots), across)) * side + side
    spot = np.sort(random.integers(0, n_spots, n)).astype(np.int32)
    spot = spot[random.permutation(n)]  # cells of a file stand in no order of spots
    xy = spots[spot] + random.uniform(-side / 2, side / 2, (n, 2))
    folder = project.samples_folder / "large"
    folder.mkdir(parents=True)
    tiles = square_tiles(xy[:, 0], xy[:, 1], geometry.cell_tile_um / mpp)
    pd.DataFrame({
        "cell_id": np.char.add("cell_", np.arange(n).astype(str)), "x": xy[:, 0], "y": xy[:, 1], "tile_x": tiles[:, 0],
        "tile_y": tiles[:, 1], "tile_side": tiles[:, 2], "area_um2": 60.0, "spot": spot,
        "inside": random.random(n) < 0.4,
    }).astype(schema.CELL_COLUMNS).to_parquet(folder / schema.CELLS_FILE, index=False)  # fmt: skip
    tiles = square_tiles(spots[:, 0], spots[:, 1], side)
    pd.DataFrame({
        "spot_id": np.char.add("spot_", np.arange(n_spots).astype(str)), "x": spots[:, 0], "y": spots[:, 1],
        "tile_x": tiles[:, 0], "tile_y": tiles[:, 1], "tile_side": tiles[:, 2], "in_tissue": True, "n_cells": 8,
    }).astype(schema.SPOT_COLUMNS).to_parquet(folder / schema.SPOTS_FILE, index=False)  # fmt: skip
    np.save(folder / schema.NEIGHBOURS_FILE, random.integers(0, n_spots, (n_spots, 8)).astype(np.int32))
    sample = SampleRecord(
        version=schema.SAMPLE_VERSION, ds2c="0", recipe="large", slide="large.tif", slide_fingerprint="0" * 64, width=1,
        height=1, mpp=mpp, donor="d", cohort="c", measured=False, geometry=geometry, lattice=Lattice("grid", side),
        sources={}, warnings=[],
    )  # fmt: skip
    write_record(folder / schema.SAMPLE_FILE, sample)

    description = EncoderDescription(
        encoder="made-up", architecture="none", arguments={}, pooling=Pooling.NONE, dimension=options.dimension,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), tile_px=224, resize_px=0, interpolation="bicubic",
        precision="fp32", weights="",
    )  # fmt: skip
    encoder = EncoderUsed(settings=Embedding(), fingerprint=description.fingerprint, description=description)
    cache = Cache(path / "cache", encoder.fingerprint, options.dimension)
    _, keys = tiles_of(project.sample("large"), description)
    with cache.writer(description.document()) as writer:
        for at in range(0, len(keys), 8192):
            part = keys[at : at + 8192]
            vectors = random.standard_normal((len(part), options.dimension), np.float32).astype(np.float16)
            writer.append(SlideName("0" * 64, "large.tif"), part, vectors)
    settings = with_own_defaults(Training())
    genes = [f"gene_{i}" for i in range(options.genes)]
    info = CheckpointInfo(
        name="made-up", recipe="large", ds2c="0", training=settings, genes=genes, geometry=geometry, encoder=encoder,
        train=[], val=[], cohorts=[], donors=[], slides=[], mixed_precision=False, epochs=1, best_epoch=1,
        best_loss=0.0,
    )  # fmt: skip
    model = build_model(settings, dimension=options.dimension, genes=options.genes)
    scale = Standardisation(torch.zeros(options.dimension), torch.ones(options.dimension), 60.0)
    Checkpoint(model, scale, info).save(project.checkpoint("made-up"))


def read(path: Path) -> None:
    """`--cells`."""
    read_cells(path)


def predict_all(path: Path) -> None:
    """`ds2c predict`, everything cached."""
    from ds2c_cli.prediction.predict import predict

    os.environ["TMPDIR"] = str(path)
    project = Project(path)
    predict(Workspace(project, cache=path / "cache"), project.checkpoint("made-up"))


MADE: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "geoparquet.parquet": geoparquet,
    "vertices.parquet": vertices,
    "qupath.geojson": geojson,
    "cellvit.json": cellvit,
    "labels.tif": label_image,
    "predict": prediction,
}
WORK: dict[str, Callable[[Path], None]] = {"read": read, "predict": predict_all}

if __name__ == "__main__":
    main()
