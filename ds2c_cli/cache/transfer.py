"""One slide's embeddings as a single HDF5 file, to carry between machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..errors import InputError
from ..files import replacing
from ..progress import Progress, silent
from .inventory import Encoder, packs_of
from .segments import KEY, PACK, SlideName
from .store import Cache

FORMAT, FORMAT_VERSION = "ds2c embeddings", 1
AT_ONCE = 64 * PACK  # tiles read from the file in one go


@dataclass(frozen=True)
class Carried:
    """A file of one slide's embeddings, and how many tiles went into it or, on import, were new to the cache."""

    path: Path
    encoder: str
    fingerprint: str
    slide: str
    tiles: int
    added: int = 0


def export_slide(encoder: Encoder, slide: str, *, path: Path, progress: Progress = silent) -> Carried:
    """Write all embeddings that a cache has of one slide (its fingerprint) by one encoder.

    The file has `keys` (n, 16) uint8 and `vectors` (n, dimension) float16, chunk by chunk with checksums, and as
    attributes what encoder and slide they are of. Raises InputError when there is none.
    """
    seen: set[bytes] = set()
    with replacing(path) as part, h5py.File(part, "w") as file:
        keys = file.create_dataset("keys", (0, 16), "u1", maxshape=(None, 16), chunks=(PACK, 16), fletcher32=True)
        shape = (0, encoder.dimension)
        vectors = file.create_dataset(
            "vectors", shape, "<f2", maxshape=(None, shape[1]), chunks=(PACK, shape[1]), fletcher32=True
        )
        for pack in packs_of(encoder, slide):
            rows = [row for row, name in enumerate(pack.names.tolist()) if name not in seen]
            names = np.ascontiguousarray(pack.names[rows])
            seen.update(names.tolist())
            for table, fresh in ((keys, names.view("u1").reshape(-1, 16)), (vectors, pack.vectors[rows])):
                table.resize(len(seen), axis=0)
                table[len(seen) - len(names) :] = fresh
            named = pack.slide
            progress("export", len(seen), 0, "tiles")
        if not seen:
            raise InputError(
                f"the cache has no sound {encoder.name} embedding of the slide {slide}", "Look with `ds2c cache info`."
            )
        file.attrs.update(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "encoder": json.dumps(encoder.description),
                "encoder_fingerprint": encoder.fingerprint,
                "slide_fingerprint": named.fingerprint,
                "slide_path": named.path.encode(errors="surrogateescape").decode(errors="replace"),
            }
        )
    return Carried(path, encoder=encoder.name, fingerprint=encoder.fingerprint, slide=slide, tiles=len(seen))


def import_slide(root: Path, path: Path, *, dry_run: bool = False, progress: Progress = silent) -> Carried:
    """Add a file's embeddings to the cache, those that it lacks.

    Raises InputError for a file of another format, or a damaged one, of which nothing is added.
    """
    try:
        with h5py.File(path) as file:
            about = _read_about(path, file)
            cache = Cache(root, about.encoder_fingerprint, about.dimension)
            keys = [bytes(row) for row in file["keys"][:]]
            lacking = np.flatnonzero(cache.missing(keys))
            for start in range(0, len(keys), AT_ONCE):  # all of it, before any of it is believed
                if not np.isfinite(file["vectors"][start : start + AT_ONCE]).all():
                    raise InputError(f"{path}, vectors: values that are not finite", "Export it again.")
            if not dry_run and len(lacking):
                with cache.writer(about.encoder) as writer:
                    for part in np.split(lacking, range(AT_ONCE, len(lacking), AT_ONCE)):
                        writer.append(about.slide, [keys[row] for row in part], file["vectors"][part])
                        progress("import", writer.tiles, len(lacking), "tiles")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is no file of embeddings, or a damaged one ({error})", "Make it with `ds2c cache export`."
        ) from error
    return Carried(
        path,
        encoder=about.encoder_name,
        fingerprint=about.encoder_fingerprint,
        slide=about.slide.fingerprint,
        tiles=len(keys),
        added=len(lacking),
    )


@dataclass(frozen=True)
class _About:
    """Which encoder and slide a file's embeddings are of."""

    encoder: Mapping[str, object]  # its description
    encoder_name: str
    encoder_fingerprint: str
    dimension: int
    slide: SlideName


def _read_about(path: Path, file: h5py.File) -> _About:
    """Read the attributes of an export; raises ValueError or KeyError unless they and the tables are what we write."""
    said = {name: file.attrs[name] for name in ("format", "version", "encoder_fingerprint")}
    slide = SlideName(*(str(file.attrs[name]) for name in ("slide_fingerprint", "slide_path")))
    if said["format"] != FORMAT:
        raise ValueError(f"its format is {said['format']}")
    if said["version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} is of version {said['version']}, this ds2c reads {FORMAT_VERSION}",
            "Use the ds2c that wrote it, or export it again.",
        )
    encoder, fingerprint = json.loads(file.attrs["encoder"]), said["encoder_fingerprint"]
    keys, vectors = file["keys"], file["vectors"]
    wanted = ((len(keys), KEY.itemsize), (len(keys), encoder["dimension"]))
    if (keys.shape, vectors.shape) != wanted or keys.dtype != np.uint8 or vectors.dtype != np.float16:
        raise ValueError(f"its tables are {keys.shape} {keys.dtype} and {vectors.shape} {vectors.dtype}")
    if "/" in fingerprint or not str(fingerprint).isalnum():
        raise ValueError("its encoder's fingerprint is none")
    return _About(encoder, encoder["encoder"], fingerprint, encoder["dimension"], slide)
