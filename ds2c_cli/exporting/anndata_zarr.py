"""AnnData as a Zarr store, its matrices written a few cells at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import anndata
import pandas as pd
import zarr
from pydantic import JsonValue

from .. import schema
from ..progress import Progress
from .formats import Export

CHUNK_CELLS, CHUNK_GENES = 4096, 512  # 8 MB of float32: a gene of a million cells is 250 chunks


def write_anndata_zarr(path: Path, export: Export, progress: Progress) -> None:
    """An AnnData that `anndata.read_zarr` opens: X and layers as in the prediction, or a sample's counts as X."""
    with anndata.settings.override(zarr_write_format=2), warnings.catch_warnings():  # which every anndata reads
        warnings.simplefilter("ignore")  # that another is the default soon
        anndata_without_matrices(export, export.obs).write_zarr(path)
    store = zarr.open_group(path, mode="r+", use_consolidated=False)
    write_matrices(store, export, progress)
    sign(store, export.about)


def anndata_without_matrices(export: Export, obs: pd.DataFrame) -> anndata.AnnData:
    """Everything but the matrices, which `write_matrices` adds on disk."""
    table = anndata.AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(export.genes, dtype=object)), obsm=export.obsm)
    table.uns[schema.UNS] = json.dumps(export.about)
    return table


def write_matrices(group: zarr.Group, export: Export, progress: Progress) -> None:
    """Fill X and the layers of an AnnData's group, a block of cells at a time."""
    layers = group.require_group("layers")
    arrays = {}
    for key, rows in export.matrices.items():
        is_x = key == "X" or "X" not in export.matrices
        shape = (len(export), len(export.genes))
        array = (group if is_x else layers).create_array(
            "X" if is_x else key,
            shape=shape,
            chunks=tuple(
                max(1, min(limit, size)) for limit, size in zip((CHUNK_CELLS, CHUNK_GENES), shape, strict=True)
            ),
            dtype=rows(0, 1).dtype,
            overwrite=True,
        )
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        arrays[key] = array
    for begin in range(0, len(export), CHUNK_CELLS):
        end = min(begin + CHUNK_CELLS, len(export))
        for key, array in arrays.items():
            array[begin:end] = export.matrices[key](begin, end)
        progress(f"export {export.name}", end, len(export), "")


def sign(store: zarr.Group, about: Mapping[str, JsonValue]) -> None:
    """Note in the root what the store was made from, and gather its metadata in one place."""
    store.attrs[schema.UNS] = dict(about)
    zarr.consolidate_metadata(store.store)


def made_from(path: Path) -> str:
    """The recipe that `sign` noted; empty where there is none."""
    try:
        return str(zarr.open_group(path, mode="r").attrs[schema.UNS]["recipe"])  # type: ignore[index, call-overload]
    except (OSError, KeyError, TypeError, ValueError):
        return ""
