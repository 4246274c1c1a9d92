"""GeoJSON for QuPath: cells as detections, with genes as measurements and classes in colour.

The keys are those of QuPath 0.4 and later (QuPathTypeAdapters of its sources): a UUID as the feature's id,
`objectType`, `name`, `classification` with its name and colour, `measurements` as one object, `metadata` of text.
"""

from __future__ import annotations

import gzip
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import shapely

from .. import schema
from ..progress import Progress
from .formats import Classes, Export

DECIMALS = 2  # of a pixel, as QuPath writes
AT_ONCE = 10_000  # features
SAMPLED = 100  # features whose text tells how large a file becomes
HEAD_BYTES = 1 << 16  # that hold what the file was made from
ID_SPACE = uuid.UUID("d52cd52c-0000-5000-8000-000000000000")  # of ids made of the slide and the cell's id


def write_qupath(path: Path, export: Export, progress: Progress, compressed: bool = False) -> None:
    """A FeatureCollection of detections, feature by feature.

    Outlines are rounded to hundredths of a pixel, but for those that would not stay valid; values to six digits. A
    measurement bears the gene's name where it is X, else also the matrix's; one that was not measured is left out.
    """
    with path.open("wb") as plain, _text(plain, compressed) as file:
        head = {"type": "FeatureCollection", schema.UNS: export.about}
        file.write(json.dumps(head)[:-1].encode() + b', "features": [')
        for begin, end in export.blocks(AT_ONCE):
            features = _features(export, begin, end)
            file.write((",\n" if begin else "\n").encode() + ",\n".join(features).encode())
            progress(f"export {export.name}", end, len(export), "")
        file.write(b"\n]}\n")


def weigh_qupath(export: Export) -> int:
    """About how many bytes the file would have, by its first cells."""
    cells = min(SAMPLED, len(export))
    return sum(len(feature) + 2 for feature in _features(export, 0, cells)) * len(export) // cells


def qupath_made_from(path: Path) -> str:
    """The recipe in the head of the file; empty where there is none."""
    try:
        with path.open("rb") as plain, _text(plain, path.name.endswith(".gz"), "rb") as file:
            head = file.read(HEAD_BYTES).decode(errors="ignore")
        return str(json.JSONDecoder().raw_decode(head.partition(f'"{schema.UNS}": ')[2])[0]["recipe"])
    except (OSError, EOFError, KeyError, TypeError, ValueError):
        return ""


def _text(plain: BinaryIO, compressed: bool, mode: str = "wb") -> io.BufferedIOBase:
    # Without a time in the header, equal exports are equal files.
    return gzip.GzipFile("", mode, 6, plain, mtime=0) if compressed else plain  # type: ignore[return-value]


def _features(export: Export, begin: int, end: int) -> Iterator[str]:
    place, classes = export.place, export.classes
    assert place is not None
    geometries = shapely.to_geojson(rounded(place.outline[begin:end])).tolist()
    ids = export.obs.index[begin:end].tolist()
    measurements = _measurements(export, begin, end)
    labels = classes.of_cell(begin, end).tolist() if classes else [-1] * (end - begin)
    classified = [""] if classes is None else [*_classifications(classes), ""]  # -1 is the last
    space = export.slide_fingerprint
    for cell_id, geometry, measured, label in zip(ids, geometries, measurements, labels, strict=True):
        name = json.dumps(cell_id)
        yield (
            f'{{"type":"Feature","id":"{_uuid(space, cell_id)}","geometry":{geometry},'
            f'"properties":{{"objectType":"detection","name":{name}{classified[label]}{measured},'
            f'"metadata":{{"cell_id":{name}}}}}}}'
        )


def rounded(outline: np.ndarray) -> np.ndarray:
    """Outlines (n,) with coordinates of hundredths; those that would cross themselves or collapse stay as they are."""
    coarse = shapely.transform(outline, lambda xy: np.round(xy, DECIMALS))
    kept = shapely.is_valid(coarse) & ((shapely.area(coarse) > 0) == (shapely.area(outline) > 0))
    return np.where(kept, coarse, outline)


def _measurements(export: Export, begin: int, end: int) -> Iterator[str]:
    """The key `measurements` of each cell, or nothing without genes."""
    names, blocks = [], []
    for key, rows in export.matrices.items():
        if key == schema.LAYER_SPOT_SHARE:
            continue  # the same profile on another scale
        names += [json.dumps(gene if key == "X" else f"{gene} {key}") for gene in export.genes]
        blocks.append(rows(begin, end))
    if not names:
        yield from [""] * (end - begin)
        return
    values = np.concatenate(blocks, axis=1)
    whole = ',"measurements":{' + ",".join(name.replace("%", "%%") + ":%.6g" for name in names) + "}"
    for row, finite in zip(values.tolist(), np.isfinite(values).all(1).tolist(), strict=True):
        if finite:
            yield whole % tuple(row)
        else:
            known = [f"{name}:{value:.6g}" for name, value in zip(names, row, strict=True) if np.isfinite(value)]
            yield ',"measurements":{' + ",".join(known) + "}"


def _classifications(classes: Classes) -> list[str]:
    return [
        f',"classification":{json.dumps({"name": name, "color": list(colour)})}'
        for name, colour in zip(classes.names, classes.colours, strict=True)
    ]


def _uuid(space: str, cell_id: str) -> str:
    """The cell's id where it is a UUID, as QuPath's are; else one that is always the same for this cell."""
    if len(cell_id) == 36:
        try:
            return str(uuid.UUID(cell_id))
        except ValueError:
            pass
    return str(uuid.uuid5(ID_SPACE, f"{space}/{cell_id}"))
