"""ds2c plot: what is measured and predicted, painted on the slide."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from made import prediction_info
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import pearsonr

from ds2c_cli import schema
from ds2c_cli.expression import log_share
from ds2c_cli.plotting.drawing import UNKNOWN, colour_bar, paint_cells, scale_bar, scale_of
from ds2c_cli.plotting.plot import plot
from ds2c_cli.prediction.file import create_predictions
from ds2c_cli.project import Project
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

PANEL = ["MUC5B", "SLPI"]


@pytest.fixture(scope="module")
def home(painted, tmp_path_factory):
    """A sample with true cells and a prediction of two genes, one with cells alone, one with measured spots."""
    project = Project(tmp_path_factory.mktemp("plot"))
    one = painted / "one"
    cells, geometry = str(one / "cells.parquet"), Geometry(membership="centroid")
    prepare(project, Sources(one / "slide.tif", cells, one / "cell_counts.h5ad"), geometry=geometry, sample="true")
    prepare(project, Sources(one / "slide.tif", cells), geometry=geometry, sample="bare")
    spots = pd.DataFrame({"spot_id": ["a", "b"], "x": [400.0, 600.0], "y": [500.0, 500.0]})
    spots.to_csv(project.root / "spots.csv", index=False)
    counts = anndata.AnnData(
        np.array([[3.0, 1.0], [0.0, 2.0]]), spots.set_index("spot_id")[[]], pd.DataFrame(index=PANEL)
    )
    counts.write_h5ad(project.root / "spots.h5ad")
    measured = Sources(one / "slide.tif", "grid:20", project.root / "spots.h5ad", project.root / "spots.csv")
    prepare(project, measured, geometry=geometry, sample="spots")
    obs = project.sample("true").cells.set_index("cell_id")
    path = project.predictions("model") / "true.h5ad"
    path.parent.mkdir(parents=True)
    with create_predictions(path, obs, genes=PANEL, obsm={}, info=prediction_info(), counts=False) as out:
        values = np.random.default_rng(0).random((len(obs), 2), np.float32)
        out[schema.LAYER_SPOT_SHARE].write(np.arange(len(obs)), values)
    return project


def test_a_figure_a_gene_beside_the_prediction(home, ds2c):
    ran = ds2c("plot", "true", "SLPI,MUC5B", "--project", home.root)
    assert ran.code == 0, ran.err
    paths = [home.predictions("model") / f"true-{gene}.png" for gene in ("SLPI", "MUC5B")]
    assert ran.out.split() == list(map(str, paths))
    with Image.open(paths[0]) as figure:
        assert min(figure.size) > 800
    answer = json.loads(ds2c("plot", "true", "SLPI", "--project", home.root, "--json").out)["figures"][0]

    sample = home.sample("true")
    truth, spots = sample.cell_counts(), sample.spot_counts()
    column = truth.matrix[:, np.flatnonzero(truth.genes == "SLPI")].toarray()
    totals = np.asarray(spots.matrix[:, np.isin(spots.genes, PANEL)].sum(1)).ravel()[sample.cells["spot"]]
    observed = log_share(column, totals)[:, 0]
    predicted = anndata.read_h5ad(home.predictions("model") / "true.h5ad").layers["spot_share"][:, 1]
    known = np.isfinite(observed)
    assert 0 < known.sum() < len(known)  # spots without a count of the two genes leave cells without truth
    assert answer["pearson"] == pytest.approx(pearsonr(observed[known], predicted[known]).statistic, abs=1e-6)


def test_measured_genes_need_no_prediction(home):
    (done,) = plot(home, "true", genes=["APOE"])  # measured, and not of the panel
    assert (done.prediction, done.pearson) == ("model", None)
    (done,) = plot(home, "spots", genes=["SLPI"], output=home.root / "spots.png")
    assert done.path.is_file()
    assert done.prediction == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("true", "SLPX"), 3, "there is no gene SLPX among the 120 hint: Near are SLPI"),
        (("bare", "SLPI"), 3, "sample bare has neither counts nor a prediction hint: Run `ds2c predict` first."),
        (("true", "SLPI", "--prediction", "other"), 3, "(sample true has: model)"),
        (("true", "SLPI", "--window", "9000,0,50,50"), 2, "is not on the slide, which is 512 x 512 um"),
        (("true", "SLPI", "--window", "1,2,3"), 2, "Write X,Y,WIDTH,HEIGHT in microns"),
        (("true", "SLPI", "MUC5B", "-o", "one.png"), 2, "cannot hold 2 genes"),
        (("gone", "SLPI"), 3, "has no sample 'gone' (it has: bare, spots, true)"),
    ],
)
def test_what_cannot_be_painted_is_told(home, ds2c, words, code, message):
    ran = ds2c("plot", *words, "--project", home.root)
    assert ran.code == code
    assert message in " ".join(ran.err.split())


# Drawing


def painted_pixels(outline, values):
    """Axes of 100 units drawn at 4 pixels a unit, y down: (400, 400, 3)."""
    figure = Figure(figsize=(4, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(100, 0))
    axes.axis("off")
    paint_cells(axes, np.array(outline), np.array(values, float), scale=Normalize(0, 1, clip=True), mpp=1.0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def test_holes_stay_empty_and_every_part_is_painted():
    ring = shapely.Polygon([(10, 10), (50, 10), (50, 50), (10, 50)], [[(20, 20), (40, 20), (40, 40), (20, 40)]])
    parts = shapely.MultiPolygon([shapely.box(60, 60, 70, 70), shapely.box(80, 80, 90, 90)])
    pixels = painted_pixels([ring, parts, shapely.Point(75, 25)], [0, 1, np.nan])

    def at(x, y):
        return tuple(pixels[4 * y, 4 * x])

    white, lowest, highest = (255, 255, 255), (68, 1, 84), (253, 231, 37)
    grey = tuple(bytes.fromhex(UNKNOWN[1:]))
    assert at(15, 15) == lowest
    assert at(30, 30) == white
    assert at(65, 65) == at(85, 85) == highest
    assert at(75, 75) == white
    assert at(75, 25) == at(78, 25) == grey
    assert at(80, 25) == white  # a disc of 8 um


@given(st.floats(10, 1e6), st.floats(0.05, 5))
def test_the_scale_bar_is_a_round_part_of_the_width(width, mpp):
    axes = Figure().subplots()
    axes.set(xlim=(0, width), ylim=(width, 0))
    scale_bar(axes, mpp)
    (x0, x1), _ = axes.lines[0].get_data()
    length = (x1 - x0) * mpp
    assert 0.07 <= (x1 - x0) / width <= 0.2000001
    assert round(length / 10 ** np.floor(np.log10(length * 1.0001)), 3) in (1, 2, 5)
    said = axes.texts[0].get_text()
    assert float(said.split()[0]) * (1000 if said.endswith("mm") else 1) == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "extend"),
    [([0.0] * 900 + [1.0] * 100, "neither"), ([0.0] * 995 + [5.0] * 5, "max"), (np.arange(1000.0), "both")],
)
def test_ends_of_the_colour_bar_are_pointed_where_values_lie_beyond(values, extend):
    figure = Figure()
    axes = figure.subplots()
    colour_bar(figure, axes, np.array(values))
    bar = axes.figure.axes[1]._colorbar
    assert bar.extend == extend
    assert scale_of(np.array([np.nan])).vmin == 0
