"""Exports: what other software reads is what was predicted, and what is written as cells is read as cells again."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import uuid
import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import geopandas
import matplotlib
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
import zarr
from PIL import Image
from spatialdata.models import TableModel, get_table_keys

from ds2c_cli import schema
from ds2c_cli.demo.tissue import paint_sample
from ds2c_cli.embeddings.embed import embed
from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.exporting import qupath
from ds2c_cli.exporting.classes import spread_colours
from ds2c_cli.exporting.export import FORMATS, export
from ds2c_cli.exporting.formats import POINT_RADIUS_UM, Export, Place
from ds2c_cli.exporting.spatialdata import write_spatialdata
from ds2c_cli.files import replacing_folder
from ds2c_cli.io.cells import read_cells
from ds2c_cli.io.outlines import write_outlines
from ds2c_cli.io.slides import open_slide
from ds2c_cli.prediction.predict import predict
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Embedding, Geometry, Training
from ds2c_cli.training.train import train

matplotlib.use("Agg")
QUPATH_ID = "8c1d7a52-4f0e-4c62-9f52-0b1f4b6f3d11"
HUNDREDTHS = 0.00501 * 2**0.5  # how far a vertex moves that is rounded in x and y
GENES = ["AGR2", "CD3D", "KRT7"]
GEOMETRY = Geometry(membership="centroid")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A project with a trained model and, predicted: `one`, deconvolved; `odd`, whose cells are of every kind;
    `dots`, whose cells are centroids only."""
    home = tmp_path_factory.mktemp("export")
    source = home / "source"
    paint_sample(source, seed=1, size_px=1024)
    project = Project(home / "project")
    cells = read_cells(source / "cells.parquet")
    cell_id, outline = odd_cells(cells.cell_id, cells.outline)
    write_outlines(source / "odd.parquet", cell_id=cell_id, outline=outline)
    centre = shapely.get_coordinates(shapely.centroid(cells.outline[:200]))
    pd.DataFrame({"cell_id": cells.cell_id[:200], "x_pixel": centre[:, 0], "y_pixel": centre[:, 1]}).to_csv(
        source / "dots.csv", index=False
    )
    counted = Sources(source / "slide.tif", str(source / "cells.parquet"), source / "cell_counts.h5ad")
    prepare(project, counted, geometry=GEOMETRY, sample="one")
    for name, file in (("odd", "odd.parquet"), ("dots", "dots.csv")):
        prepare(project, Sources(source / "slide.tif", str(source / file)), geometry=GEOMETRY, sample=name)
    embed(Workspace(project, cache=home / "cache"), Embedding(encoder="colour"))
    checkpoint = project.checkpoint("additive")
    settings = Training(epochs=3, hidden=16)
    train(
        Workspace(project, cache=home / "cache"),
        settings,
        encoder=project.embedding(Embedding(encoder="colour")),
        path=checkpoint,
        train_samples=["one"],
    )
    predict(Workspace(project, cache=home / "cache"), checkpoint)
    predict(Workspace(project, cache=home / "cache"), checkpoint, samples=["one"], mode="deconvolve")
    return home


def odd_cells(cell_id: np.ndarray, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sixty cells: some in two pieces, some with a hole, some only a point, and ids that are no plain names."""
    cell_id, outline = cell_id[:60].copy(), outline[:60].copy()
    cell_id[0], cell_id[1], cell_id[2] = 'a "quoted", comma', "Zelle ß/7", QUPATH_ID
    for i in range(10):
        hole = outline[i].centroid.buffer(1.5, 4)
        outline[i] = outline[i].difference(hole)
    for i in range(10, 20):
        x0, y0, x1, y1 = outline[i].bounds
        middle = (x0 + x1) / 2
        outline[i] = outline[i].difference(shapely.box(middle - 0.7, y0 - 1, middle + 0.7, y1 + 1))
    for i in range(20, 30):
        outline[i] = outline[i].centroid
    return cell_id, outline


@pytest.fixture
def project(home) -> Project:
    return Project(home / "project")


@pytest.fixture
def write(project, tmp_path):
    """One export into a folder of this test's own."""

    def run(source: str, to: str, name: str = "", **options) -> Path:
        path = tmp_path / (name or f"out{FORMATS[to].suffixes[0]}")
        (done,) = export(project, [source], to=to, output=path, **options)
        assert done.path == path
        return path

    return run


@pytest.fixture
def deconvolved(project) -> anndata.AnnData:
    return anndata.read_h5ad(project.predictions("additive-deconvolve") / "one.h5ad")


def pixels(found: pd.DataFrame | shapely.Geometry) -> np.ndarray:
    return shapely.get_coordinates(found)


# SpatialData


def test_spatialdata_has_the_slide_the_cells_and_the_spots(write, project, deconvolved):
    data = spatialdata.read_zarr(write("additive-deconvolve/one", "spatialdata"))
    sample = project.sample("one")
    assert set(data.images) == {"slide"}
    assert set(data.shapes) == {"cells", "spots"}
    assert set(data.tables) == {"table", "spot_table"}
    assert np.array_equal(
        data["slide"].data.compute(), np.moveaxis(open_slide(sample.slide).read(0, 0, width=1024, height=1024), -1, 0)
    )
    assert data["slide"].coords["c"].values.tolist() == ["r", "g", "b"]
    assert data["cells"].index.tolist() == sample.cells["cell_id"].tolist()
    assert shapely.equals_exact(data["cells"].geometry.to_numpy(), sample.outlines()).all()
    assert np.allclose(data["spots"]["radius"], 55 / 2 / 0.5)
    assert np.array_equal(pixels(data["spots"].geometry), sample.spots[["x", "y"]])


def test_the_table_annotates_the_cells_with_the_prediction(write, deconvolved):
    data = spatialdata.read_zarr(write("additive-deconvolve/one", "spatialdata"))
    table = data["table"]
    TableModel.validate(table)
    assert get_table_keys(table) == ("cells", "region", "cell_id")
    assert table.obs["cell_id"].tolist() == deconvolved.obs_names.tolist()
    assert np.array_equal(table.X, deconvolved.X)
    for layer in (schema.LAYER_SPOT_SHARE, schema.LAYER_COUNTS):
        assert np.array_equal(table.layers[layer], deconvolved.layers[layer], equal_nan=True)
    assert np.array_equal(table.obsm["spatial"], deconvolved.obsm["spatial"])
    pd.testing.assert_frame_equal(table.obs[deconvolved.obs.columns], deconvolved.obs, check_names=False)
    shapes, annotating = spatialdata.match_element_to_table(data, "cells", "table")
    assert shapes["cells"].index.tolist() == annotating.obs["cell_id"].tolist()
    values = spatialdata.get_values(deconvolved.var_names[3], sdata=data, element_name="cells", table_name="table")
    assert np.array_equal(values.iloc[:, 0], deconvolved.X[:, 3])


def test_the_spot_table_annotates_the_spots_with_their_counts(write, project):
    data = spatialdata.read_zarr(write("additive-deconvolve/one", "spatialdata"))
    counts = project.sample("one").spot_counts()
    assert get_table_keys(data["spot_table"]) == ("spots", "region", "spot_id")
    assert data["spot_table"].obs["spot_id"].tolist() == data["spots"].index.tolist() == counts.ids.tolist()
    assert (counts.matrix != data["spot_table"].X).nnz == 0


def test_a_sample_without_counts_has_no_spot_table(write):
    data = spatialdata.read_zarr(write("additive/odd", "spatialdata", image=False))
    assert set(data.tables) == {"table"}
    assert not data.images


def test_pixels_and_microns(write):
    data = spatialdata.read_zarr(write("additive-deconvolve/one", "spatialdata"))
    assert sorted(data.coordinate_systems) == ["global", "microns"]
    for system, factor in (("global", 1), ("microns", 0.5)):
        extent = spatialdata.get_extent(data["slide"], coordinate_system=system)
        assert extent == {"x": (0, 1024 * factor), "y": (0, 1024 * factor)}
        for name in ("cells", "spots"):
            moved = spatialdata.transform(data[name], to_coordinate_system=system)
            assert np.allclose(pixels(moved.geometry), factor * pixels(data[name].geometry))
    assert np.allclose(
        pixels(spatialdata.transform(data["cells"], to_coordinate_system="microns").centroid)[5],
        data["table"].obsm["spatial"][5],
    )


@pytest.fixture
def marked(tmp_path) -> tuple[Path, Export]:
    """A slide of odd size, white but for three black rectangles, which are its cells."""
    size, boxes = (2601, 1303), [(8, 16, 40, 64), (1200, 600, 1264, 680), (2500, 1200, 2560, 1264)]
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    for x0, y0, x1, y1 in boxes:
        canvas[y0:y1, x0:x1] = 0
    Image.fromarray(canvas).save(tmp_path / "slide.png")
    obs = pd.DataFrame({"area_um2": [1.0, 2.0, 3.0]}, index=["a", "b", "c"])
    spots = pd.DataFrame({"spot_id": ["s"], "x": [1232.0], "y": [640.0]})
    outline = np.array([shapely.box(*box) for box in boxes])
    place = Place(outline, 0.25, open_slide(tmp_path / "slide.png"), spots, 55.0, None)
    matrices = {"X": lambda begin, end: np.ones((end - begin, 1), np.float32)}
    marked = Export(
        name="marked", slide_fingerprint="f", about={"recipe": "r"}, obs=obs, genes=["G"], panel=1, matrices=matrices,
        place=place,
    )  # fmt: skip
    return tmp_path / "marked.zarr", marked


def test_cells_lie_on_their_pixels_at_every_scale(marked):
    path, made = marked
    told = []
    write_spatialdata(path, made, lambda *words: told.append(words))
    assert [done for stage, done, *_ in told if "slide" in stage] == list(range(1, 7))  # every tile once
    data = spatialdata.read_zarr(path)
    levels = list(data["slide"].children)
    assert [data["slide"][level]["image"].shape[1:] for level in levels] == [(1303, 2601), (651, 1300), (325, 650)]
    for system in ("global", "microns"):
        cells = spatialdata.transform(data["cells"], to_coordinate_system=system)
        for cell in cells.geometry:
            x0, y0, x1, y1 = cell.bounds
            crop = spatialdata.bounding_box_query(
                data["slide"],
                axes=("x", "y"),
                min_coordinate=[x0, y0],
                max_coordinate=[x1, y1],
                target_coordinate_system=system,
            )
            full = crop["scale0"]["image"].values
            assert full.size
            assert full.max() == 0
    for number, level in enumerate(levels):
        image = data["slide"][level]["image"]
        for cell in data["cells"].geometry:
            # The centres of pixels are in the coordinates of the whole slide: within a pixel of the level they agree.
            inside = cell.buffer(-(2.0**number), join_style="mitre").bounds
            part = image.sel(x=slice(inside[0], inside[2]), y=slice(inside[1], inside[3]))
            assert part.size
            assert part.values.max() == 0
            outside = cell.buffer(2 * 2.0**number, join_style="mitre").exterior
            nearby = [image.sel(x=x, y=y, method="nearest").values.min() for x, y in pixels(outside)]
            assert min(nearby) == 255


def test_a_spatialdata_stopped_at_the_slide_leaves_nothing(marked):
    path, made = marked

    def stop(stage: str, done: int, total: int, facts: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as part:
        write_spatialdata(part, made, stop)
    assert [file.name for file in path.parent.iterdir()] == ["slide.png"]


def test_cells_that_are_points_are_circles(write, project):
    path = write("additive/dots", "spatialdata", image=False)
    data = spatialdata.read_zarr(path)
    assert np.allclose(data["cells"]["radius"], POINT_RADIUS_UM / 0.5)
    assert set(data["cells"].geom_type) == {"Point"}
    assert get_table_keys(data["table"])[0] == "cells"


def test_polygons_and_points_are_two_elements_of_one_table(write):
    data = spatialdata.read_zarr(write("additive/odd", "spatialdata", image=False))
    assert (len(data["cells"]), len(data["cell_points"])) == (50, 10)
    assert sorted(get_table_keys(data["table"])[0]) == ["cell_points", "cells"]
    for name in ("cells", "cell_points"):
        assert data["table"].obs["cell_id"][data["table"].obs["region"] == name].tolist() == data[name].index.tolist()


def test_a_column_region_of_the_cells_is_kept(project, write, tmp_path):
    table = anndata.read_h5ad(project.predictions("additive") / "dots.h5ad")
    table.obs["region"] = pd.Categorical(["tumour", "stroma"] * 100)
    table.write_h5ad(tmp_path / "mine.h5ad")
    data = spatialdata.read_zarr(write(str(tmp_path / "mine.h5ad"), "spatialdata", image=False))
    assert data["table"].obs["region"].tolist() == ["tumour", "stroma"] * 100
    assert get_table_keys(data["table"])[1] == "element"


def test_a_column_that_spatialdata_refuses_is_named(project, write, tmp_path):
    table = anndata.read_h5ad(project.predictions("additive") / "dots.h5ad")
    table.obs["µ: area"] = 1.0
    table.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(InputError, match="µ: area"):
        write(str(tmp_path / "mine.h5ad"), "spatialdata", image=False)


def test_without_the_library_the_extra_is_named(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(UsageError) as error:
        write("additive/one", "spatialdata")
    assert "ds2c[spatialdata]" in error.value.hint


# QuPath


def features(path: Path) -> list[dict]:
    text = path.read_bytes()
    document = json.loads(gzip.decompress(text) if path.suffix == ".gz" else text)
    assert document["type"] == "FeatureCollection"
    return document["features"]


@pytest.mark.parametrize("name", ["cells.geojson", "cells.geojson.gz"])
def test_qupath_gets_detections_with_measurements(write, deconvolved, name):
    found = features(write("additive-deconvolve/one", "geojson", name, genes=GENES))
    assert len(found) == deconvolved.n_obs
    for row, feature in enumerate(found):
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["name"] == properties["metadata"]["cell_id"] == deconvolved.obs_names[row]
        assert "classification" not in properties
        expected = dict(zip(GENES, deconvolved[row, GENES].X.ravel(), strict=True))
        if deconvolved.obs["inside"].iloc[row]:
            counts = deconvolved[row, GENES].layers["counts"].ravel()
            expected |= {f"{gene} counts": value for gene, value in zip(GENES, counts, strict=True)}
        assert properties["measurements"] == pytest.approx(expected, rel=1e-5)
    assert len({feature["id"] for feature in found}) == len(found)


def test_ids_are_the_same_every_time_and_those_of_qupath_stay(write):
    first = [feature["id"] for feature in features(write("additive/odd", "geojson", "a.geojson", genes=["AGR2"]))]
    again = [feature["id"] for feature in features(write("odd", "geojson", "b.geojson"))]
    assert first == again
    assert first[2] == QUPATH_ID


def test_a_sample_is_exported_before_anything_is_predicted(write, project):
    found = features(write("one", "geojson", genes=["AGR2"]))
    counts = project.sample("one").cell_counts()
    column = counts.matrix[:, counts.genes.tolist().index("AGR2")].toarray().ravel()
    assert [feature["properties"]["measurements"]["AGR2 counts"] for feature in found] == column.tolist()
    assert "measurements" not in features(write("odd", "geojson", "odd.geojson"))[0]["properties"]


def test_geopandas_reads_the_same_outlines(write, project):
    found = geopandas.read_file(write("additive/odd", "geojson", genes=["AGR2"]))
    outline = project.sample("odd").outlines()
    assert [kind.geom_type for kind in found.geometry] == [kind.geom_type for kind in outline]
    assert shapely.equals_exact(found.geometry.to_numpy(), outline, tolerance=HUNDREDTHS).all()
    assert found["name"].tolist() == project.sample("odd").cells["cell_id"].tolist()


def test_an_outline_that_rounding_would_spoil_keeps_its_coordinates():
    thin = shapely.Polygon([(0, 0), (10, 0.001), (10, 0.003)])
    fine = shapely.Polygon([(0, 0), (10.001, 0), (10, 5.0049)])
    kept, coarse = qupath.rounded(np.array([thin, fine], object))
    assert shapely.equals_exact(kept, thin)
    assert coarse.wkt == "POLYGON ((0 0, 10 0, 10 5, 0 0))"


def test_classes_of_a_column_with_scanpys_colours(project, write, tmp_path):
    table = anndata.read_h5ad(project.predictions("additive") / "one.h5ad")
    kinds = np.array(["tumour", "T cell: CD8", "stroma"])[np.arange(table.n_obs) % 3].astype(object)
    kinds[4] = np.nan
    table.obs["kind"] = pd.Categorical(kinds, categories=["stroma", "T cell: CD8", "tumour"])
    table.uns["kind_colors"] = ["#00ff00", "blue", "#ff0000ff"]
    table.write_h5ad(tmp_path / "mine.h5ad")
    found = features(write(str(tmp_path / "mine.h5ad"), "geojson", genes=["AGR2"], class_by="kind"))
    assert [feature["properties"].get("classification") for feature in found[:5]] == [
        {"name": "tumour", "color": [255, 0, 0]},
        {"name": "T cell: CD8", "color": [0, 0, 255]},
        {"name": "stroma", "color": [0, 255, 0]},
        {"name": "tumour", "color": [255, 0, 0]},
        None,
    ]


def test_classes_of_a_flag(write, deconvolved):
    found = features(write("additive-deconvolve/one", "geojson", genes=["AGR2"], class_by="inside"))
    names = [feature["properties"]["classification"]["name"] for feature in found]
    assert names == np.where(deconvolved.obs["inside"], "inside", "not inside").tolist()


def test_the_class_of_genes_is_the_one_that_stands_out(write, deconvolved):
    found = features(write("additive-deconvolve/one", "geojson", genes=GENES, class_by="genes"))
    values = deconvolved[:, GENES].X.astype(float)
    score = (values - values.mean(0)) / values.std(0)
    expected = [GENES[row.argmax()] if row.max() > 0 else None for row in score]
    names = [feature["properties"].get("classification", {}).get("name") for feature in found]
    assert names == expected
    assert set(names) >= set(GENES)


def test_colours_differ():
    assert len(set(spread_colours(40))) == 40
    assert all(0 <= part <= 255 for colour in spread_colours(40) for part in colour)


@pytest.mark.parametrize(
    ("class_by", "message"),
    [
        ("area_um2", "area_um2 has measured numbers"),
        ("celltype", "the cells have no column 'celltype': they have x, y,"),
        ("genes", "compares some genes, not 1"),
    ],
)
def test_what_is_no_class_is_refused(write, class_by, message):
    with pytest.raises(UsageError, match=message):
        write("additive/one", "geojson", genes=["AGR2"], class_by=class_by)


# Round trips


@pytest.mark.parametrize("to", ["geojson", "spatialdata"])
@pytest.mark.parametrize("sample", ["one", "odd", "dots"])
def test_exported_cells_are_read_as_cells(write, project, to, sample):
    """GeoJSON to hundredths of a pixel; SpatialData exactly, polygons before points where there are both."""
    found = read_cells(write(f"additive/{sample}", to, genes=["AGR2"], image=False))
    prepared = project.sample(sample)
    cell_id, outline = prepared.cells["cell_id"].to_numpy(), prepared.outlines()
    order = np.arange(len(outline))
    if to == "spatialdata":
        order = np.argsort(shapely.get_type_id(outline) == 0, kind="stable")
    assert found.cell_id.tolist() == cell_id[order].tolist()
    assert [kind.geom_type for kind in found.outline] == [kind.geom_type for kind in outline[order]]
    tolerance = HUNDREDTHS if to == "geojson" else 0
    assert shapely.equals_exact(found.outline, outline[order], tolerance=tolerance).all()
    assert not found.note


def test_a_round_trip_of_a_round_trip_changes_nothing(write, project, tmp_path):
    first = write("additive/odd", "geojson", "first.geojson", genes=["AGR2"])
    again = Project(tmp_path / "again")
    prepare(again, Sources(project.sample("odd").slide, str(first)), geometry=GEOMETRY, sample="odd")
    export(again, ["odd"], to="geojson", output=tmp_path / "second.geojson")
    once, twice = read_cells(first), read_cells(tmp_path / "second.geojson")
    assert once.cell_id.tolist() == twice.cell_id.tolist()
    assert shapely.equals_exact(once.outline, twice.outline).all()


# Tables and Zarr


def long(table: anndata.AnnData, genes: list[str]) -> pd.DataFrame:
    some = table[:, genes]
    return pd.DataFrame(
        {
            "cell_id": np.repeat(some.obs_names.to_numpy(), len(genes)),
            "gene": np.tile(genes, some.n_obs),
            "X": some.X.ravel(),
            **{name: some.layers[name].ravel() for name in ("spot_share", "counts")},
        }
    )


def test_a_long_parquet(write, deconvolved):
    found = pd.read_parquet(write("additive-deconvolve/one", "parquet", genes=GENES))
    found = found.astype({"cell_id": object, "gene": object})
    pd.testing.assert_frame_equal(found, long(deconvolved, GENES))


@pytest.mark.parametrize("name", ["long.csv", "long.csv.gz"])
def test_a_long_csv(write, deconvolved, name):
    found = pd.read_csv(write("additive-deconvolve/one", "csv", name, genes=GENES))
    pd.testing.assert_frame_equal(found, long(deconvolved, GENES), check_dtype=False, rtol=1e-6)


def test_ids_of_a_csv_are_quoted(write, project):
    found = pd.read_csv(write("additive/odd", "csv", genes=["AGR2"]))
    assert found["cell_id"].tolist() == project.sample("odd").cells["cell_id"].tolist()


def test_many_row_groups_are_one_table(write, project, monkeypatch):
    monkeypatch.setattr("ds2c_cli.exporting.long_tables.ROW_GROUP", 1000)
    found = pd.read_parquet(write("additive/one", "parquet"))
    table = anndata.read_h5ad(project.predictions("additive") / "one.h5ad")
    assert np.array_equal(found["X"], table.X.ravel())
    assert found["cell_id"].astype(object).tolist() == np.repeat(table.obs_names, table.n_vars).tolist()


def test_a_zarr_is_the_same_anndata(write, deconvolved, monkeypatch):
    monkeypatch.setattr("ds2c_cli.exporting.anndata_zarr.CHUNK_CELLS", 100)
    monkeypatch.setattr("ds2c_cli.exporting.anndata_zarr.CHUNK_GENES", 50)
    found = anndata.read_zarr(write("additive-deconvolve/one", "zarr"))
    pd.testing.assert_frame_equal(found.obs, deconvolved.obs, check_names=False)
    assert found.var_names.tolist() == deconvolved.var_names.tolist()
    assert np.array_equal(found.X, deconvolved.X)
    assert set(found.layers) == set(deconvolved.layers)
    for layer in found.layers:
        assert np.array_equal(found.layers[layer], deconvolved.layers[layer], equal_nan=True)
    for key in deconvolved.obsm:
        assert np.array_equal(found.obsm[key], deconvolved.obsm[key])
    about = json.loads(found.uns["ds2c"])
    assert about["prediction"]["mode"] == "deconvolve"
    assert about["checkpoint"]["name"] == "additive"


def test_scanpy_draws_from_the_zarr(write):
    import scanpy
    from matplotlib import pyplot

    table = anndata.read_zarr(write("additive/one", "zarr", genes=GENES))
    axes = scanpy.pl.embedding(table, "spatial", color="KRT7", show=False)
    assert len(axes.collections[0].get_offsets()) == table.n_obs
    pyplot.close("all")


def test_a_sample_as_zarr_has_its_counts_as_x(write, project):
    found = anndata.read_zarr(write("one", "zarr"))
    assert np.array_equal(found.X, project.sample("one").cell_counts().matrix.toarray())
    assert np.issubdtype(found.X.dtype, np.integer)


@pytest.mark.parametrize("to", ["parquet", "csv", "zarr"])
def test_a_sample_without_counts_has_nothing_to_list(write, to):
    with pytest.raises(InputError, match="has no counts of cells"):
        write("dots", to)


# Left alone, replaced, refused


@pytest.mark.parametrize("to", FORMATS)
def test_an_equal_export_is_left_alone_and_a_different_one_needs_force(write, project, tmp_path, to):
    path = write("additive/one", to, genes=GENES[:2])
    before = {file: file.stat().st_mtime_ns for file in [path, *path.rglob("*")]}
    (again,) = export(project, ["additive/one"], to=to, genes=GENES[:2], output=path)
    assert again.unchanged
    assert before == {file: file.stat().st_mtime_ns for file in [path, *path.rglob("*")]}
    with pytest.raises(UsageError, match="is there already, made from other inputs or settings") as error:
        export(project, ["additive/one"], to=to, genes=GENES, output=path)
    assert "--force" in error.value.hint
    assert before == {file: file.stat().st_mtime_ns for file in [path, *path.rglob("*")]}
    (forced,) = export(project, ["additive/one"], to=to, genes=GENES, output=path, force=True)
    assert (forced.unchanged, forced.genes) == (False, 3)
    assert not list(tmp_path.glob(".*"))


def test_a_changed_prediction_is_another_export(project, tmp_path):
    """scanpy may have written the file again, with the recipe of old."""
    table = anndata.read_h5ad(project.predictions("additive") / "dots.h5ad")
    table.obs["kind"] = pd.Categorical(["a"] * table.n_obs)
    table.write_h5ad(tmp_path / "mine.h5ad")
    out = tmp_path / "cells.geojson"
    export(project, [str(tmp_path / "mine.h5ad")], to="geojson", genes=["AGR2"], class_by="kind", output=out)
    table.obs["kind"] = pd.Categorical(["b"] * table.n_obs)
    table.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(UsageError, match="made from other"):
        export(project, [str(tmp_path / "mine.h5ad")], to="geojson", genes=["AGR2"], class_by="kind", output=out)


def test_other_outlines_are_another_export(home, project, tmp_path):
    """The sample may have been prepared again; a table does not show it."""
    again = Project(tmp_path / "again")
    shutil.copytree(project.root, again.root)
    out = {to: tmp_path / f"cells{FORMATS[to].suffixes[0]}" for to in ("geojson", "parquet")}
    for to, path in out.items():
        export(again, ["additive/dots"], to=to, genes=["AGR2"], output=path)
    sample = again.sample("dots")
    moved = pd.DataFrame({"cell_id": sample.cells["cell_id"], "x_pixel": sample.cells["x"] + 1, "y_pixel": 500.0})
    moved.to_csv(tmp_path / "moved.csv", index=False)
    prepare(
        again,
        Sources(sample.slide, str(tmp_path / "moved.csv"), trust_coordinates=True),
        geometry=GEOMETRY,
        sample="dots",
        force=True,
    )
    assert export(again, ["additive/dots"], to="parquet", genes=["AGR2"], output=out["parquet"])[0].unchanged
    with pytest.raises(UsageError, match="made from other"):
        export(again, ["additive/dots"], to="geojson", genes=["AGR2"], output=out["geojson"])


def test_a_csv_that_was_edited_is_not_taken_for_ours(write, project):
    path = write("additive/one", "csv", genes=["AGR2"])
    text = path.read_text()
    for other in (text + "x\n", text.replace("AGR2", "AGR3", 1), text[:-5], ""):
        path.write_text(other)
        with pytest.raises(UsageError, match="is there already"):
            export(project, ["additive/one"], to="csv", genes=["AGR2"], output=path)
    assert not export(project, ["additive/one"], to="csv", genes=["AGR2"], output=path, force=True)[0].unchanged
    assert path.read_text() == text


@pytest.mark.parametrize("to", ["zarr", "spatialdata"])
def test_force_replaces_no_folder_that_is_no_store(project, tmp_path, to):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is no Zarr store, and is not replaced"):
        export(project, ["additive/one"], to=to, output=tmp_path / "mine.zarr", force=True)
    assert (tmp_path / "mine.zarr" / "thesis.txt").exists()


def interrupted(part: Path) -> None:
    part.mkdir()
    (part / "new").write_text("2")
    raise KeyboardInterrupt


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "store"
    with replacing_folder(path) as part:
        part.mkdir()
        (part / "old").write_text("1")
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as part:
        interrupted(part)
    assert [file.name for file in path.iterdir()] == ["old"]
    with replacing_folder(path) as part:
        (part / "deep").mkdir(parents=True)
        (part / "deep" / "new").write_text("2")
    assert [file.relative_to(path).as_posix() for file in path.rglob("*")] == ["deep", "deep/new"]
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_a_failed_rename_brings_the_old_folder_back(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(FileNotFoundError), replacing_folder(path):
        pass  # nothing was written
    assert (path / "old").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_an_unknown_gene_offers_the_nearest(write):
    with pytest.raises(InputError, match="there is no gene krt7, KRT17x among the") as error:
        write("additive/one", "geojson", genes=["AGR2", "krt7", "KRT17x"])
    assert "KRT7" in error.value.hint
    assert "KRT17" in error.value.hint or "KRT19" in error.value.hint


def test_an_unknown_source_lists_what_there_is(write):
    with pytest.raises(InputError, match="no prediction or sample three") as error:
        write("three", "geojson")
    assert "additive-deconvolve/one" in error.value.message
    assert "dots, odd, one" in error.value.message


def test_a_file_that_is_not_there(write):
    with pytest.raises(InputError, match="there are no predictions gone"):
        write("gone.h5ad", "csv")


def test_a_sample_without_outlines_names_the_command(home, project, tmp_path):
    outlines = project.sample("dots").folder / schema.OUTLINES_FILE
    content = outlines.read_bytes()
    outlines.unlink()
    try:
        with pytest.raises(InputError, match=r"outlines.parquet does not exist") as error:
            export(project, ["additive/dots"], to="geojson", genes=["AGR2"], output=tmp_path / "c.geojson")
        assert "ds2c prepare --force" in error.value.hint
        export(project, ["additive/dots"], to="csv", genes=["AGR2"], output=tmp_path / "c.csv")  # which needs none
    finally:
        outlines.write_bytes(content)


def test_a_prediction_of_another_sample_of_the_name_is_refused(project, tmp_path):
    table = anndata.read_h5ad(project.predictions("additive") / "dots.h5ad")
    table.obs_names = [f"other_{name}" for name in table.obs_names]
    table.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(InputError, match="it has no cell other_cell_"):
        export(project, [str(tmp_path / "mine.h5ad")], to="geojson", genes=["AGR2"], output=tmp_path / "c.geojson")


def test_some_cells_of_a_prediction_are_exported_with_their_outlines(project, write, tmp_path):
    table = anndata.read_h5ad(project.predictions("additive") / "odd.h5ad")[[40, 3, 12]].copy()
    table.write_h5ad(tmp_path / "some.h5ad")
    found = read_cells(write(str(tmp_path / "some.h5ad"), "geojson", genes=["AGR2"]))
    assert found.cell_id.tolist() == table.obs_names.tolist()
    assert shapely.equals_exact(
        found.outline, project.sample("odd").outlines()[[40, 3, 12]], tolerance=HUNDREDTHS
    ).all()


@pytest.mark.parametrize("to", FORMATS)
def test_no_cells_are_no_export(project, write, tmp_path, to):
    table = anndata.read_h5ad(project.predictions("additive") / "dots.h5ad")[:0].copy()
    table.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(InputError, match="has no cells"):
        write(str(tmp_path / "none.h5ad"), to)


def test_a_slide_that_is_gone_can_be_left_out(project, home, write):
    slide = project.sample("one").slide
    slide.rename(slide.with_suffix(".away"))
    try:
        with pytest.raises(InputError, match=r"slide.tif of one is gone") as error:
            write("additive/one", "spatialdata")
        assert "--no-image" in error.value.hint
        write("additive/one", "spatialdata", image=False)
        write("additive/one", "geojson", genes=["AGR2"])
    finally:
        slide.with_suffix(".away").rename(slide)


@pytest.mark.parametrize("to", ["geojson", "csv", "parquet"])
def test_what_would_be_huge_is_said_and_done_only_when_asked_for(project, tmp_path, monkeypatch, to):
    monkeypatch.setattr("ds2c_cli.exporting.export.LARGEST_UNASKED", 10_000)
    out = tmp_path / f"cells{FORMATS[to].suffixes[0]}"
    with pytest.raises(UsageError, match=r"all \d+ genes of 559 cells would make .* about 0 GB") as error:
        export(project, ["additive/one"], to=to, output=out)
    assert "--genes A,B" in error.value.hint
    export(project, ["additive/one"], to=to, genes=["all"], output=out)


@pytest.mark.parametrize("to", ["geojson", "csv"])
def test_the_weight_is_that_of_the_file(write, project, monkeypatch, to):
    weights = []
    weigh = FORMATS[to].weigh
    noting = replace(FORMATS[to], weigh=lambda found: weights.append(weigh(found)) or 0)
    monkeypatch.setitem(FORMATS, to, noting)
    assert write("additive/one", to).stat().st_size == pytest.approx(weights[0], rel=0.1)


def test_the_command(ds2c, project, tmp_path, monkeypatch):
    monkeypatch.setenv("DS2C_PROJECT", str(project.root))
    prediction = project.predictions("additive") / "one.h5ad"
    ran = ds2c("export", prediction, "additive/dots", "--to", "geojson", "--genes", "AGR2,KRT7")
    assert ran.code == 0
    out = project.root / "exports" / "additive"
    assert ran.out.splitlines() == [str(out / "one.geojson"), str(out / "dots.geojson")]
    assert "559 cells, 2 genes" in ran.err
    ran = ds2c("export", prediction, "--to", "geojson", "--genes", "AGR2", "--genes", "KRT7", "--json")
    assert json.loads(ran.out)["exports"][0]["unchanged"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "loom"), "--to must be one of spatialdata, geojson, parquet, csv, zarr, not 'loom'"),
        (("--to", "csv", "--class-by", "inside"), "csv has no classes"),
        (("--to", "csv", "-o", "cells.txt"), "cells.txt has no name for csv"),
        (("dots", "--to", "geojson", "-o", "cells.geojson"), "one output cells.geojson cannot hold 2 exports"),
        ((), "Missing option '--to'"),
    ],
)
def test_wrong_words(ds2c, project, monkeypatch, words, message):
    monkeypatch.setenv("DS2C_PROJECT", str(project.root))
    ran = ds2c("export", "one", *words)
    assert ran.code == 2
    assert message in ran.err


def test_a_store_says_what_it_was_made_from(write):
    for to, name in (("zarr", "a.zarr"), ("spatialdata", "b.zarr")):
        about = zarr.open_group(write("additive/one", to, name, genes=GENES, image=False), mode="r").attrs["ds2c"]
        assert about["sample"]["name"] == "one"
        assert len(about["prediction"]["sha256"]) == 64


def test_nothing_warns(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write("additive/odd", "zarr")
        write("additive/odd", "spatialdata", "b.zarr")
