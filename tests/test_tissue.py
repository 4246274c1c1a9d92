"""The demo's generated tissue: files a real study could have, and counts that the image can tell of."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from scipy.spatial import cKDTree

from ds2c_cli.demo import tissue
from ds2c_cli.demo.cells import CELL_TYPES, TYPES
from ds2c_cli.demo.expression import GENES, GRADIENT, SHARED
from ds2c_cli.demo.tissue import paint_sample
from ds2c_cli.errors import InputError
from ds2c_cli.io.slides import open_slide

SIZE = 768
FILES = {"slide.tif", "cells.parquet", "cell_counts.h5ad"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("donor")
    paint_sample(folder, seed=1, size_px=SIZE)
    return folder


@pytest.fixture(scope="module")
def other_donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    paint_sample(folder, seed=2, size_px=SIZE)
    return folder


def counts_of(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "cell_counts.h5ad")


def polygons_of(folder: Path) -> pd.Series:
    vertices = pd.read_parquet(folder / "cells.parquet")
    return vertices.groupby("cell_id", sort=False)[["vertex_x", "vertex_y"]].apply(
        lambda ring: shapely.Polygon(ring.to_numpy())
    )


def centroids_of(folder: Path) -> np.ndarray:
    return shapely.get_coordinates(shapely.centroid(np.array(polygons_of(folder).tolist())))


def pixels_of(folder: Path) -> np.ndarray:
    return tifffile.imread(folder / "slide.tif")


def test_slide_is_a_tiled_jpeg_pyramid_that_says_its_pixel_size(sample: Path) -> None:
    with tifffile.TiffFile(sample / "slide.tif") as tiff:
        levels = tiff.series[0].levels
        assert [level.shape for level in levels] == [(768, 768, 3), (384, 384, 3), (192, 192, 3)]
        base = tiff.pages[0]
        assert (base.tilewidth, base.tilelength) == (256, 256)
        assert base.compression == tifffile.COMPRESSION.JPEG
        assert base.photometric == tifffile.PHOTOMETRIC.YCBCR
        assert base.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        pixels, centimetres = base.tags["XResolution"].value
        assert pixels / centimetres == pytest.approx(1e4 / 0.5)
        assert all(level.pages[0].subfiletype == 1 for level in levels[1:])


def test_smaller_levels_show_the_same_tissue(sample: Path) -> None:
    with tifffile.TiffFile(sample / "slide.tif") as tiff:
        full, half, quarter = (level.asarray().astype(float) for level in tiff.series[0].levels)
    for smaller, factor in ((half, 2), (quarter, 4)):
        shrunk = full.reshape(SIZE // factor, factor, SIZE // factor, factor, 3).mean((1, 3))
        assert np.abs(shrunk - smaller).mean() < 4


def test_our_own_reader_opens_it(sample: Path) -> None:
    slide = open_slide(sample / "slide.tif")
    assert (slide.width, slide.height, slide.mpp) == (SIZE, SIZE, pytest.approx(0.5))


def test_another_pixel_size_is_written_and_keeps_cells_their_microns(sample: Path, tmp_path: Path) -> None:
    paint_sample(tmp_path, seed=1, size_px=SIZE, mpp=1.0)
    assert open_slide(tmp_path / "slide.tif").mpp == pytest.approx(1.0)
    fine, coarse = (
        np.median([polygon.area for polygon in polygons_of(folder)[counts_of(folder).obs["type"] == "tumour"]]) * mpp**2
        for folder, mpp in ((sample, 0.5), (tmp_path, 1.0))
    )
    assert coarse == pytest.approx(fine, rel=0.15)


def test_cells_are_xenium_long_form(sample: Path) -> None:
    vertices = pd.read_parquet(sample / "cells.parquet")
    assert list(vertices.columns) == ["cell_id", "vertex_x", "vertex_y"]
    assert vertices["cell_id"].iloc[0] == "cell_000000"


def test_polygons_are_valid_apart_and_on_the_slide(sample: Path) -> None:
    polygons = np.array(polygons_of(sample).tolist())
    assert shapely.is_valid(polygons).all()
    assert (shapely.area(polygons) > 0).all()
    left, top, right, bottom = shapely.total_bounds(polygons)
    assert left >= 0
    assert top >= 0
    assert right <= SIZE
    assert bottom <= SIZE
    overlap = shapely.area(polygons).sum() - shapely.union_all(polygons).area
    assert overlap < 1e-3 * shapely.area(polygons).sum()


def test_counts_are_raw_and_in_the_order_of_the_cells(sample: Path) -> None:
    counts = counts_of(sample)
    assert list(counts.obs_names) == list(polygons_of(sample).index)
    assert counts.obs_names.is_unique
    assert counts.var_names.is_unique
    assert tuple(counts.var_names) == GENES
    assert counts.X.format == "csr"
    assert counts.X.dtype == np.int32
    assert counts.X.data.min() >= 0
    assert 100 < counts.X.sum(1).mean() < 200


def test_a_spot_holds_several_cells_and_not_all_of_one_type(sample: Path) -> None:
    centroids = centroids_of(sample)
    discs = cKDTree(centroids).query_ball_point(centroids, 55 / 0.5 / 2)
    assert 5 <= np.median([len(disc) for disc in discs]) <= 15
    kind = counts_of(sample).obs["type"].cat.codes.to_numpy()
    assert np.mean([len(set(kind[disc])) > 1 for disc in discs]) > 0.4


def test_the_same_seed_paints_the_same_sample(sample: Path, tmp_path: Path) -> None:
    paint_sample(tmp_path, seed=1, size_px=SIZE)
    assert (tmp_path / "slide.tif").read_bytes() == (sample / "slide.tif").read_bytes()
    assert pd.read_parquet(tmp_path / "cells.parquet").equals(pd.read_parquet(sample / "cells.parquet"))
    first, second = counts_of(sample), counts_of(tmp_path)
    assert (first.X != second.X).nnz == 0
    assert first.obs.equals(second.obs)
    assert {path.name for path in tmp_path.iterdir()} == FILES  # and nothing half-written beside them


def test_another_seed_is_another_donor_of_the_same_biology(sample: Path, other_donor: Path) -> None:
    first, second = counts_of(sample), counts_of(other_donor)
    assert first.shape != second.shape
    assert np.abs(pixels_of(sample).astype(float) - pixels_of(other_donor)).mean() > 5
    profiles = [
        np.concatenate([np.asarray(each[each.obs["type"] == kind].X.mean(0)).ravel() for kind in TYPES])
        for each in (first, second)
    ]
    assert np.corrcoef(*profiles)[0, 1] > 0.9


def shares(counts: ad.AnnData, genes: list[str]) -> np.ndarray:
    """Each cell's share of its counts in some genes."""
    return np.asarray(counts[:, genes].X.sum(1)).ravel() / np.maximum(np.asarray(counts.X.sum(1)).ravel(), 1)


@pytest.mark.parametrize("kind", TYPES)
def test_markers_are_enriched_in_their_type(sample: Path, kind: str) -> None:
    counts = counts_of(sample)
    inside = (counts.obs["type"] == kind).to_numpy()
    assert inside.sum() >= 5
    share = shares(counts, CELL_TYPES[kind].markers.split())
    assert share[inside].mean() > 5 * share[~inside].mean()


@pytest.mark.parametrize("types", SHARED)
def test_shared_genes_are_enriched_in_both_their_types(sample: Path, types: tuple[str, str]) -> None:
    counts = counts_of(sample)
    share = pd.Series(shares(counts, SHARED[types].split())).groupby(counts.obs["type"].to_numpy()).mean()
    assert share[list(types)].min() > 3 * share.drop(list(types)).max()


def test_the_gradient_gene_falls_with_the_distance_to_the_tumour(sample: Path) -> None:
    counts = counts_of(sample)
    centroids = centroids_of(sample)
    tumour = (counts.obs["type"] == "tumour").to_numpy()
    distance_um = cKDTree(centroids[tumour]).query(centroids)[0] * 0.5
    share = shares(counts, [GRADIENT])
    assert share[~tumour & (distance_um < 25)].mean() > 1.5 * share[distance_um > 60].mean()


def looks_of(folder: Path, half_side: int) -> np.ndarray:
    """Mean and spread of red, green and blue around each cell, (n, 6)."""
    pixels = pixels_of(folder).astype(float)
    windows = [
        pixels[y - half_side : y + half_side + 1, x - half_side : x + half_side + 1].reshape(-1, 3)
        for x, y in centroids_of(folder).astype(int)
    ]
    return np.array([np.concatenate([window.mean(0), window.std(0)]) for window in windows])


def test_types_can_be_told_from_their_pixels(sample: Path, other_donor: Path) -> None:
    """Colour alone, by the nearest mean of the other donor's types, finds most cells; one in five is chance."""
    (looks, kind), (unseen, truth) = (
        (np.hstack([looks_of(folder, 5), looks_of(folder, 14)]), counts_of(folder).obs["type"].to_numpy())
        for folder in (sample, other_donor)
    )
    looks, unseen = ((each - each.mean(0)) / each.std(0) for each in (looks, unseen))
    means = np.array([looks[kind == each].mean(0) for each in TYPES])
    guess = np.array(TYPES)[np.linalg.norm(unseen[:, None] - means, axis=-1).argmin(1)]
    assert np.mean([(guess[truth == each] == each).mean() for each in TYPES]) > 0.6


def test_expression_within_a_type_goes_with_its_chromatin(sample: Path, other_donor: Path) -> None:
    """How dark a tumour cell's nucleus is says the same of the same genes in both donors."""
    correlation = []
    for folder in (sample, other_donor):
        tumour = (counts_of(folder).obs["type"] == "tumour").to_numpy()
        cells = counts_of(folder)[tumour].to_df()
        share = cells.div(cells.sum(1), axis=0).loc[:, cells.mean() > 2]
        correlation.append(share.corrwith(pd.Series(looks_of(folder, 4)[tumour, 0], share.index)))
    both = pd.concat(correlation, axis=1, join="inner")
    assert both.corr().iloc[0, 1] > 0.3


def test_the_background_is_glass(sample: Path) -> None:
    pixels = pixels_of(sample)
    assert (np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).min(0) > 220).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_slide_still_has_tissue(tmp_path: Path, seed: int) -> None:
    paint_sample(tmp_path, seed=seed, size_px=600)
    assert counts_of(tmp_path).n_obs > 50


def test_a_slide_too_small_for_tissue_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a slide of 256 px at 0\.5 um a pixel is too small for tissue"):
        paint_sample(tmp_path / "new", seed=1, size_px=256)
    assert not (tmp_path / "new").exists()


def test_a_run_that_dies_leaves_no_slide_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tissue, "_write_pyramid", full_disk)
    with pytest.raises(OSError, match="No space"):
        paint_sample(tmp_path, seed=1, size_px=600)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"slide.tif"}
