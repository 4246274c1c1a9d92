"""The demo's generated tissue is what a real sample looks like to every reader, and is the same each time."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile

from ds2c_cli.demo.tissue import paint_sample
from ds2c_cli.io.cells import read_cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tissue")
    paint_sample(folder, seed=3, size_px=1024)
    return folder


def test_the_slide_is_a_pyramid_that_knows_its_pixel_size(folder):
    with tifffile.TiffFile(folder / "slide.tif") as slide:
        assert len(slide.series[0].levels) >= 3
        page = slide.pages[0]
        assert (page.imagewidth, page.imagelength, page.is_tiled) == (1024, 1024, True)
        numerator, denominator = page.tags["XResolution"].value
        assert 10_000 * denominator / numerator == pytest.approx(0.5)  # centimetres to microns


def test_cells_are_valid_inside_the_slide_and_apart(folder):
    cells = read_cells(folder / "cells.parquet")
    assert shapely.is_valid(cells.outline).all()
    x0, y0, x1, y1 = shapely.total_bounds(cells.outline)
    assert min(x0, y0) >= 0
    assert max(x1, y1) <= 1024
    overlap = shapely.area(cells.outline).sum() - shapely.area(shapely.union_all(cells.outline))
    assert overlap < 0.02 * shapely.area(cells.outline).sum()


def test_counts_are_raw_and_of_the_same_cells(folder):
    counts = anndata.read_h5ad(folder / "cell_counts.h5ad")
    ids = pd.read_parquet(folder / "cells.parquet")["cell_id"].unique()
    assert list(counts.obs_names) == list(ids)
    assert counts.X.dtype == np.int32
    assert counts.X.min() >= 0
    assert counts.n_vars > 100


def test_types_express_their_own_genes(folder):
    counts = anndata.read_h5ad(folder / "cell_counts.h5ad")
    share = counts.X.toarray() / np.maximum(counts.X.sum(1).A1[:, None], 1)
    mean = pd.DataFrame(share).groupby(counts.obs["type"].to_numpy()).mean()
    marked = mean.max() > 5 * mean.apply(lambda gene: gene.nlargest(2).iloc[-1]).clip(lower=1e-6)
    assert (mean.loc[:, marked].idxmax().value_counts().reindex(mean.index).fillna(0) >= 3).all()


def test_the_seed_is_all_there_is(folder, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        paint_sample(tmp_path / name, seed, 1024)
    pixels = {path: tifffile.imread(path / "slide.tif") for path in (folder, tmp_path / "same", tmp_path / "other")}
    assert np.array_equal(pixels[folder], pixels[tmp_path / "same"])
    assert not np.array_equal(pixels[folder], pixels[tmp_path / "other"])
    first, second = (anndata.read_h5ad(path / "cell_counts.h5ad") for path in (folder, tmp_path / "same"))
    assert (first.X != second.X).nnz == 0
