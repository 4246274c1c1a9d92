"""Cells: every format gives ids and outlines in level-0 pixels, and a bad cell is refused by id and place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from unittest import mock

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ds2c_cli.errors import InputError
from ds2c_cli.io import json_objects
from ds2c_cli.io.cells import read_cells

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
TRIANGLE = [[10, 10], [14, 10], [10, 14], [10, 10]]
HOLE = [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]
BOW_TIE = [[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]


def refusal(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(InputError) as error:
        read_cells(path)
    assert str(path) in error.value.message
    assert error.value.hint
    return error.value.message


def areas(path: Path) -> dict[str, float]:
    """Area by cell id."""
    cells = read_cells(path)
    return dict(zip(cells.cell_id, shapely.area(cells.outline).tolist(), strict=True))


# Vertices


def vertices(path: Path, *outlines: tuple[object, list], **columns: list) -> Path:
    rows = [(cell, *point) for cell, outline in outlines for point in outline]
    frame = pd.DataFrame(rows, columns=["cell_id", "vertex_x", "vertex_y"]).assign(**columns)
    frame.to_csv(path, index=False) if ".csv" in path.name else frame.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["cells.parquet", "cells.csv", "cells.csv.gz"])
def test_vertices_become_polygons(tmp_path, name):
    cells = read_cells(vertices(tmp_path / name, ("b", SQUARE), ("a", TRIANGLE[:-1])))
    assert cells.cell_id.tolist() == ["b", "a"]
    assert shapely.equals(cells.outline, [shapely.Polygon(SQUARE), shapely.Polygon(TRIANGLE)]).all()
    assert cells.extent is None


@pytest.mark.parametrize("ids", [(7, 3), (b"7", b"3"), ("7", "3"), (7.0, 3.0)])
def test_ids_are_text_whatever_the_file_has(tmp_path, ids):
    path = vertices(tmp_path / "cells.parquet", (ids[0], SQUARE), (ids[1], TRIANGLE))
    assert areas(path) == {"7": 16, "3": 8}


def test_rows_of_a_cell_may_be_apart(tmp_path):
    path = vertices(tmp_path / "cells.parquet", ("a", SQUARE[:2]), ("b", TRIANGLE), ("a", SQUARE[2:]))
    assert areas(path) == {"a": 16, "b": 8}


def test_labels_within_a_cell_are_its_pieces(tmp_path):
    path = vertices(tmp_path / "n.parquet", ("a", SQUARE), ("a", TRIANGLE), label_id=[1] * 5 + [2] * 4)
    cells = read_cells(path)
    assert cells.cell_id.tolist() == ["a"]
    assert (cells.outline[0].geom_type, cells.outline[0].area) == ("MultiPolygon", 24)


def test_an_outline_that_crosses_itself_is_repaired(tmp_path):
    cells = read_cells(vertices(tmp_path / "cells.parquet", ("a", BOW_TIE), ("b", SQUARE)))
    assert cells.outline[0].is_valid
    assert shapely.area(cells.outline).tolist() == [8, 16]


def test_a_repair_keeps_the_polygons_and_drops_the_lines(tmp_path):
    spike = [[0, 0], [4, 0], [4, 4], [9, 4], [4, 4], [0, 4]]
    outline = read_cells(vertices(tmp_path / "cells.parquet", ("a", spike))).outline[0]
    assert (outline.geom_type, outline.area) == ("Polygon", 16)


@settings(max_examples=30, deadline=None)
@given(
    polygons=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(3, 9)), min_size=1, max_size=8),
    shuffle=st.randoms(use_true_random=False),
)
def test_interleaved_vertices_are_read_back(tmp_path_factory, polygons, shuffle):
    outlines = [shapely.Point(x, y).buffer(2, n) for x, y, n in polygons]
    points = [[(str(i), *xy) for xy in shapely.get_coordinates(outline)] for i, outline in enumerate(outlines)]
    turn = [i for i, rows in enumerate(points) for _ in rows]
    shuffle.shuffle(turn)
    frame = pd.DataFrame([points[i].pop(0) for i in turn], columns=["cell_id", "vertex_x", "vertex_y"])
    path = tmp_path_factory.mktemp("cells") / "cells.parquet"
    frame.to_parquet(path)
    cells = read_cells(path)
    assert cells.cell_id.tolist() == list(dict.fromkeys(map(str, turn)))
    assert shapely.equals_exact(cells.outline, np.array(outlines)[cells.cell_id.astype(int)]).all()


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (SQUARE[:2], "cell bad, row 6, has a ring of fewer than 3 vertices"),
        ([[0, 0], [2, 2], [4, 4]], "cell bad, row 6, has an outline without area"),
        ([[0, 0], [1, 1], [0, 0]], "cell bad, row 6, has an outline without area"),
        ([[0, 0], [np.nan, 1], [1, 0]], "vertex_x of cell bad, row 7, is nan, not a finite number"),
        ([[0, 0], [1, np.inf], [1, 0]], "vertex_y of cell bad, row 7, is inf, not a finite number"),
    ],
)
def test_a_bad_outline_is_named(tmp_path, outline, message):
    assert message in refusal(vertices(tmp_path / "cells.parquet", ("good", SQUARE), ("bad", outline)))


def test_vertices_need_an_id(tmp_path):
    assert "cell 2 of 2 has no id" in refusal(vertices(tmp_path / "a.parquet", ("a", SQUARE), (None, TRIANGLE)))
    pd.DataFrame(SQUARE, columns=["vertex_x", "vertex_y"]).to_parquet(tmp_path / "b.parquet")
    assert "has no columns of the vertices' cells: found vertex_x, vertex_y" in refusal(tmp_path / "b.parquet")


# Boxes and centroids


def lines(path: Path, *text: str) -> Path:
    path.write_text("\n".join(text) + "\n")
    return path


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("xmin,ymin,xmax,ymax", "1,2,4,6"),
        ("x_min,y_min,x_max,y_max", "1,2,4,6"),
        ("xmin,xmax,ymin,ymax", "1,4,2,6"),
        ("x,y,width,height", "1,2,3,4"),
    ],
)
def test_boxes_become_polygons(tmp_path, columns, values):
    cells = read_cells(lines(tmp_path / "cells.csv", f"cell_id,{columns}", f"a,{values}"))
    assert shapely.bounds(cells.outline).tolist() == [[1, 2, 4, 6]]
    assert shapely.area(cells.outline).tolist() == [12]


@pytest.mark.parametrize(
    "columns",
    ["x,y", "x_centroid,y_centroid", "centroid_x,centroid_y", "x_pixel,y_pixel", "pixel_x,pixel_y", "X,Y",
     "Centroid X px,Centroid Y px"],
)  # fmt: skip
def test_centroids_become_points(tmp_path, columns):
    cells = read_cells(lines(tmp_path / "cells.csv", f"cell_id,{columns}", "a,1.5,2"))
    assert [point.wkt for point in cells.outline] == ["POINT (1.5 2)"]


@pytest.mark.parametrize(
    ("header", "ids"),
    [
        ("cell_id,x,y", ["a7", "07"]),
        ("id,x,y", ["a7", "07"]),
        (",x,y", ["a7", "07"]),
        ("Unnamed: 0,x,y", ["a7", "07"]),
        ("barcode,x,y", ["a7", "07"]),
        ("type,x,y", ["0", "1"]),
    ],
)
def test_ids_come_from_their_column_or_are_row_numbers_from_0(tmp_path, header, ids):
    assert read_cells(lines(tmp_path / "cells.csv", header, "a7,1,2", "07,3,4")).cell_id.tolist() == ids


def test_the_index_of_pandas_is_the_id(tmp_path):
    frame = pd.DataFrame({"x": [1, 2], "y": [3, 4]}, index=pd.Index(["c1", "c2"], name="barcodes"))
    frame.to_parquet(tmp_path / "named.parquet")
    frame.rename_axis(None).to_parquet(tmp_path / "unnamed.parquet")
    for name in ("named.parquet", "unnamed.parquet"):
        assert read_cells(tmp_path / name).cell_id.tolist() == ["c1", "c2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["cell_id,x,y", "a,1,2", "b,,4"], "x of cell b, row 2, is '', not a finite number"),
        (["cell_id,x,y", "a,1,2", "b,3,4", "a,1,2"], "has the same cell id more than once: a"),
        (["cell_id,x,y"], "has no cells"),
        (["cell_id,xmin,ymin,xmax,ymax", "a,4,2,1,6"], "cell a, row 1, is a box without width or height"),
        (["cell_id,x,y,width,height", "a,4,2,0,6"], "cell a, row 1, is a box without width or height"),
        (["cell_id,x", "a,1"], "has no columns of cells: found cell_id, x"),
        (["cell_id,x_um,y_um", "a,1,2"], "has columns in microns (x_um, y_um)"),
        (["Name,Centroid X µm,Centroid Y µm", "a,1,2"], "has columns in microns (Centroid X µm, Centroid Y µm)"),
        (["cell_id,x_centroid,y_centroid,transcript_counts", "a,1,2,9"], "is the cell table of a Xenium run"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(tmp_path, text, message):
    assert message in refusal(lines(tmp_path / "cells.csv", *text))


def test_pixels_are_taken_where_microns_stand_beside_them(tmp_path):
    cells = read_cells(lines(tmp_path / "cells.csv", "cell_id,x_um,y_um,x_pixel,y_pixel", "a,1,2,10,20"))
    assert cells.outline[0].wkt == "POINT (10 20)"


# GeoParquet


def geoparquet(path: Path, outlines: list, column: str = "geometry", primary: str = "", **columns: list) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({column: pa.array(shapely.to_wkb(np.array(outlines, object)).tolist(), pa.binary()), **columns})
    metadata = {b"geo": json.dumps({"primary_column": primary}).encode()} if primary else None
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_wkb_geometries(tmp_path):
    pieces = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)])
    outlines = [shapely.Polygon(SQUARE, [HOLE]), pieces, shapely.Point(1, 2, 3)]
    cells = read_cells(geoparquet(tmp_path / "cells.parquet", outlines, cell_id=["a", "b", "c"]))
    assert cells.cell_id.tolist() == ["a", "b", "c"]
    assert shapely.area(cells.outline).tolist() == [15, 2, 0]
    assert cells.outline[2].wkt == "POINT (1 2)"
    named = geoparquet(tmp_path / "named.parquet", outlines, column="nucleus", primary="nucleus")
    assert read_cells(named).cell_id.tolist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, "cell b, row 2, has no outline"),
        (shapely.Polygon(), "cell b, row 2, has no outline"),
        (shapely.LineString([[0, 0], [1, 1]]), "cell b, row 2, is not a Polygon, MultiPolygon or Point"),
        (shapely.Polygon([[0, 0], [1, 1], [2, 2]]), "cell b, row 2, has an outline without area"),
        (shapely.Polygon([[0, 0], [np.inf, 1], [2, 2], [0, 0]]), "cell b, row 2, has a coordinate that is not"),
    ],
)
def test_a_bad_geometry_is_named(tmp_path, outline, message):
    path = geoparquet(tmp_path / "c.parquet", [shapely.box(0, 0, 1, 1), outline], cell_id=["a", "b"])
    assert message in refusal(path)


def test_a_geometry_that_is_not_wkb_is_refused(tmp_path):
    pd.DataFrame({"geometry": ["POINT (1 2)"]}).to_parquet(tmp_path / "wkt.parquet")
    assert "has its geometries as string, not as WKB" in refusal(tmp_path / "wkt.parquet")
    pd.DataFrame({"geometry": [b"\x01nonsense"]}).to_parquet(tmp_path / "bad.parquet")
    assert "cannot be read as WKB geometries" in refusal(tmp_path / "bad.parquet")


# GeoJSON


def feature(kind: str, coordinates: list, id: object = None, **properties: object) -> dict:
    named = {} if id is None else {"id": id}
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **named}


def geojson(path: Path, document: object) -> Path:
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["cells.geojson", "cells.json", "cells.geojson.gz"])
def test_a_collection_a_list_and_a_single_feature(tmp_path, name):
    square = feature("Polygon", [SQUARE], "s", objectType="cell")
    for document in ({"type": "FeatureCollection", "features": [square]}, [square], square):
        assert areas(geojson(tmp_path / name, document)) == {"s": 16}


def test_cells_stay_in_file_order_and_points_and_polygons_mix(tmp_path):
    cells = read_cells(
        geojson(
            tmp_path / "cells.geojson",
            [
                feature("MultiPoint", [[1, 2, 0], [3, 4, 5]], "points"),
                feature("Polygon", [SQUARE, HOLE], "ring"),
                feature("Point", [5, 6], "point"),
                feature("MultiPolygon", [[SQUARE, HOLE], [TRIANGLE]], "pieces"),
            ],
        )
    )
    assert cells.cell_id.tolist() == ["points-0", "points-1", "ring", "point", "pieces"]
    assert [outline.geom_type for outline in cells.outline] == ["Point", "Point", "Polygon", "Point", "MultiPolygon"]
    assert shapely.area(cells.outline).tolist() == [0, 0, 15, 0, 23]
    assert cells.outline[1].wkt == "POINT (3 4)"


def test_an_annotation_of_many_polygons_is_one_cell_a_polygon(tmp_path):
    """CellViT writes one MultiPolygon a class."""
    path = geojson(tmp_path / "c.json", [feature("MultiPolygon", [[SQUARE], [TRIANGLE]], "k", objectType="annotation")])
    assert areas(path) == {"k-0": 16, "k-1": 8}


def test_ids_of_features(tmp_path):
    triangle = [TRIANGLE]
    document = [
        feature("Polygon", triangle, 12),
        feature("Polygon", triangle, cell_id="c5", name="unused"),
        feature("Polygon", triangle, name="n"),
        feature("Polygon", triangle),
        feature("Polygon", triangle, "PathCellObject"),  # early QuPath: not an id
        feature("Polygon", triangle, "a UUID", name="unused", metadata={"cell_id": "m"}),  # ours, back from QuPath
        feature("Polygon", triangle, "13", cell_id="c7"),
        feature("Polygon", triangle, "14", metadata="none"),
    ]
    assert list(areas(geojson(tmp_path / "c.geojson", document))) == ["12", "c5", "n", "3", "4", "m", "c7", "14"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "has no cells"),
        ({"type": "FeatureCollection", "features": []}, "has no cells"),
        ([feature("MultiPoint", [], "empty")], "has no cells"),
        ({"cells": []}, "has no cells"),
        ([1, 2], "is not GeoJSON of cells"),
        ("text", "is not GeoJSON of cells"),
        ([feature("LineString", SQUARE)], "feature 1 has the geometry LineString, which is no cell"),
        ([{"type": "Feature", "geometry": None}], "feature 1 has the geometry None, which is no cell"),
        ([feature("Polygon", SQUARE)], "feature 1 has coordinates that do not fit its geometry"),
        ([feature("Polygon", [[SQUARE]])], "feature 1 has coordinates that do not fit its geometry"),
        ([feature("Polygon", [])], "feature 1 has coordinates that do not fit its geometry"),
        ([feature("MultiPolygon", [1, 2])], "feature 1 has coordinates that do not fit its geometry"),
        ([feature("Point", ["a", "b"])], "the coordinates of outline 1 are no lists of numbers"),
        ([feature("Polygon", [SQUARE], "a"), feature("Polygon", [SQUARE[:2]], "b")],
         "cell b, feature 2, has a ring of fewer than 3 vertices"),
        ([feature("Point", [1, 2], "p"), feature("Polygon", [[[0, 0], [1, 1], [2, 2]]], "b")],
         "cell b, feature 2, has an outline without area"),
        ([feature("Polygon", [[[0, 0], [float("nan"), 1], [1, 0]]], "b")], "cell b, feature 1, has a coordinate"),
        ([feature("Polygon", [[[0, 0], [None, 1], [1, 0]]], "b")], "cell b, feature 1, has a coordinate"),
        ([feature("Polygon", [SQUARE], "a"), feature("Polygon", [TRIANGLE], "a")], "same cell id more than once: a"),
        ([feature("Polygon", [SQUARE], "a", objectType="cell"), feature("Polygon", [SQUARE], objectType="annotation")],
         "mixes cells with annotations (feature 2 is one)"),
    ],
)  # fmt: skip
def test_bad_geojson_is_refused_with_its_place(tmp_path, document, message):
    assert message in refusal(geojson(tmp_path / "cells.geojson", document))


def test_of_a_cell_with_a_nucleus_the_cell_is_read(tmp_path):
    cell = feature("Polygon", [SQUARE], "a", objectType="cell")
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": [TRIANGLE]}
    assert areas(geojson(tmp_path / "c.geojson", [cell, feature("Polygon", [TRIANGLE], "b", objectType="cell")])) == {
        "a": 16,
        "b": 8,
    }


def test_repaired_outlines_are_counted(tmp_path):
    cells = read_cells(geojson(tmp_path / "c.geojson", [feature("Polygon", [ring]) for ring in (BOW_TIE, SQUARE)]))
    assert cells.note == "1 outlines crossed themselves and were repaired"


@pytest.mark.parametrize("left", [1, 2, 30, 90])
def test_json_that_is_cut_short_is_refused(tmp_path, left):
    path = geojson(tmp_path / "c.geojson", {"type": "FeatureCollection", "features": [feature("Polygon", [SQUARE])]})
    path.write_bytes(path.read_bytes()[:-left])
    refusal(path)


shapes = st.sampled_from(["Point", "MultiPoint", "Polygon", "MultiPolygon"])
number = st.one_of(st.integers(-99, 99), st.floats(-1e6, 1e6).map(lambda value: round(value, 3)))


@given(
    kinds=st.lists(shapes, min_size=1, max_size=9),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(70, 900),
    shift=number,
    note=st.sampled_from(["", "é]}{[", '"coordinates": [1', "\\"]),
)
def test_features_are_read_the_same_however_the_file_is_cut(tmp_path_factory, kinds, indent, chunk, shift, note):
    """Against json and shapely's own reading of a geometry."""
    rings = [[[x + shift, y, 7][: 2 + (indent or 0)] for x, y in ring] for ring in (SQUARE, HOLE, TRIANGLE)]
    coordinates = {
        "Point": rings[0][0], "MultiPoint": rings[0][:3], "Polygon": rings[:2], "MultiPolygon": [rings[:2], rings[2:]],
    }  # fmt: skip
    document = [feature(kind, coordinates[kind], f"{note}{i}", note=note) for i, kind in enumerate(kinds)]
    path = tmp_path_factory.mktemp("cells") / "cells.geojson"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=False))
    expected = []
    for one in document:
        shape = shapely.force_2d(shapely.from_geojson(json.dumps(one["geometry"])))
        expected += list(shapely.get_parts(shape)) if shape.geom_type == "MultiPoint" else [shape]
    with mock.patch.object(json_objects, "CHUNK_BYTES", chunk):
        cells = read_cells(path)
    assert shapely.equals_exact(cells.outline, expected).all()
    assert cells.cell_id[0].split("-0")[0] in (f"{note}0", f"{note}0-0")


# CellViT's JSON and Cellpose's text


def test_cellvit_json_of_contours_and_of_detections(tmp_path):
    about = {"wsi_metadata": {"slide_mpp": 0.25}, "type_map": {"1": "Neoplastic"}}
    first = {"bbox": [[0, 0], [4, 4]], "centroid": [2.0, 2.0], "contour": SQUARE[:-1], "type_prob": 0.9, "type": 1}
    second = {**first, "centroid": [11.0, 11.0], "contour": TRIANGLE[:-1]}
    assert areas(geojson(tmp_path / "cells.json", {**about, "cells": [first, second]})) == {"0": 16, "1": 8}
    for cell in (first, second):
        del cell["contour"]
    found = read_cells(geojson(tmp_path / "cell_detection.json", {**about, "cells": [first, second]}))
    assert [point.wkt for point in found.outline] == ["POINT (2 2)", "POINT (11 11)"]
    assert "cell 1 has neither a contour nor" in refusal(geojson(tmp_path / "c.json", {"cells": [{"type": 1}]}))
    first["contour"] = [SQUARE]
    assert "contours that are no lists of positions" in refusal(geojson(tmp_path / "d.json", {"cells": [first]}))


def test_cellpose_outlines(tmp_path):
    rows = [",".join(str(value) for point in ring[:-1] for value in point) for ring in (SQUARE, TRIANGLE)]
    assert areas(lines(tmp_path / "slide_cp_outlines.txt", *rows)) == {"1": 16, "2": 8}
    assert "line 2 is not an outline" in refusal(lines(tmp_path / "odd.txt", rows[0], "1,2,3"))


def test_a_pickle_is_never_loaded(tmp_path):
    (tmp_path / "slide_seg.npy").write_bytes(b"anything")
    assert "is a pickle, which ds2c never loads" in refusal(tmp_path / "slide_seg.npy")


# Label images

LABELS = np.array(
    [
        [1, 1, 0, 0, 5],
        [1, 0, 0, 5, 0],
        [1, 1, 0, 3, 3],
        [2, 1, 0, 3, 0],
    ]
)


def npz(path: Path, **named: np.ndarray) -> Path:
    np.savez_compressed(path, **named)
    return path


LABEL_WRITERS = {
    "labels.tif": lambda path: tifffile.imwrite(path, LABELS.astype(np.uint16), compression="zlib"),
    "labels.tiff": lambda path: tifffile.imwrite(path, LABELS.astype(np.int32)[None]),
    "labels.png": lambda path: Image.fromarray(LABELS.astype(np.uint8)).save(path),
    "deep.png": lambda path: Image.fromarray(LABELS.astype(np.uint16)).save(path),
    "nucls.npz": lambda path: npz(path, type_map=LABELS * 2, inst_map=LABELS),
    "cellpose.npz": lambda path: npz(path, masks=LABELS, flows=np.zeros((4, 5, 2))),
    "only.npz": lambda path: npz(path, segmentation=LABELS, probability=np.zeros((4, 5))),
}


@pytest.mark.parametrize("name", LABEL_WRITERS)
def test_label_images_become_the_outlines_of_their_pixels(tmp_path, name):
    LABEL_WRITERS[name](tmp_path / name)
    cells = read_cells(tmp_path / name)
    assert cells.cell_id.tolist() == ["1", "2", "3", "5"]
    assert shapely.area(cells.outline).tolist() == [6, 1, 3, 2]
    assert [outline.geom_type for outline in cells.outline] == ["Polygon", "Polygon", "Polygon", "MultiPolygon"]
    assert shapely.bounds(cells.outline)[1].tolist() == [0, 3, 1, 4]
    assert cells.extent == (5, 4)


@settings(max_examples=60, deadline=None)
@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_an_outline_covers_exactly_the_pixels_of_its_label(tmp_path_factory, labels):
    labels[0, 0] = 4  # one cell at least, and never one label in pieces
    cells = read_cells(npz(tmp_path_factory.mktemp("labels") / "labels.npz", labels=labels))
    assert shapely.is_valid(cells.outline).all()
    y, x = np.indices(labels.shape) + 0.5
    for cell_id, outline in zip(cells.cell_id, cells.outline, strict=True):
        assert outline.area == (labels == int(cell_id)).sum()
        assert (shapely.contains_xy(outline, x, y) == (labels == int(cell_id))).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros((4, 5), int)}, "has no cells"),
        ({"labels": np.zeros((0, 0), int)}, "has no cells"),
        ({"labels": LABELS > 0}, "is not a label image: shape (4, 5), bool"),
        ({"labels": LABELS.astype(float)}, "is not a label image: shape (4, 5), float64"),
        ({"labels": -LABELS}, "is not a label image"),
        ({"labels": np.dstack([LABELS] * 3)}, "is not a label image: shape (4, 5, 3)"),
        ({"labels": (LABELS == 5) * 255}, "is a mask: its only label, 255, is in 2 pieces"),
        ({"a": LABELS, "b": LABELS}, "has the arrays a, b, and which one labels the cells is not clear"),
        ({"labels": np.array([{"pickled": True}])}, "cannot be read as arrays"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path, arrays, message):
    assert message in refusal(npz(tmp_path / "labels.npz", **arrays))


# AnnData


def test_centroids_of_an_anndata(tmp_path):
    data = anndata.AnnData(np.ones((2, 3), np.float32), obs=pd.DataFrame(index=["c1", "c2"]))
    data.obsm["spatial"] = np.array([[1.0, 2.0], [3.0, 4.0]])
    data.write_h5ad(tmp_path / "obsm.h5ad")
    cells = read_cells(tmp_path / "obsm.h5ad")
    assert cells.cell_id.tolist() == ["c1", "c2"]
    assert shapely.get_coordinates(cells.outline).tolist() == [[1, 2], [3, 4]]
    data.obs = data.obs.assign(x_pixel=[10.0, 30.0], y_pixel=[20.0, 40.0])
    data.write_h5ad(tmp_path / "hest.h5ad")
    assert shapely.get_coordinates(read_cells(tmp_path / "hest.h5ad").outline).tolist() == [[10, 20], [30, 40]]
    data.obs["y_pixel"] = [20.0, np.nan]
    data.write_h5ad(tmp_path / "nan.h5ad")
    assert "y_pixel of cell c2, row 2, is nan" in refusal(tmp_path / "nan.h5ad")
    data.obsm["spatial"][1, 0] = np.nan
    data.obs = data.obs.drop(columns="x_pixel")
    data.write_h5ad(tmp_path / "nan_obsm.h5ad")
    assert "cell c2, row 2, has a coordinate that is not a finite number" in refusal(tmp_path / "nan_obsm.h5ad")
    del data.obsm["spatial"]
    data.write_h5ad(tmp_path / "none.h5ad")
    assert 'has no columns of cells in obs, nor obsm["spatial"]: found y_pixel' in refusal(tmp_path / "none.h5ad")


# Any file


def test_files_that_are_not_there_or_of_no_known_kind(tmp_path):
    assert "does not exist" in refusal(tmp_path / "cells.parquet")
    (tmp_path / "cells.shp").write_bytes(b"")
    with pytest.raises(InputError, match="has a suffix that cells are not read from") as error:
        read_cells(tmp_path / "cells.shp")
    for suffix in (".parquet", ".geojson", ".npz", ".h5ad"):
        assert suffix in error.value.hint


@pytest.mark.parametrize(
    "name",
    ["c.parquet", "c.csv.gz", "c.geojson", "c.geojson.gz", "c.tif", "c.png", "c.npz", "c.h5ad"],
)
@pytest.mark.parametrize("content", ["nothing", "noise", "half"])
def test_a_broken_file_is_one_sentence(tmp_path, name, content):
    path = tmp_path / name
    if content == "half":
        noise = np.random.default_rng(0).integers(0, 200, (50, 50)).astype(np.uint8)
        {
            ".parquet": lambda: vertices(path, ("a", SQUARE)),
            ".gz": lambda: (
                geojson(path, [feature("Polygon", [SQUARE])]) if "json" in name else vertices(path, ("a", SQUARE))
            ),
            ".geojson": lambda: geojson(path, [feature("Polygon", [SQUARE])]),
            ".tif": lambda: tifffile.imwrite(path, noise),
            ".png": lambda: Image.fromarray(noise).save(path),
            ".npz": lambda: npz(path, labels=noise),
            ".h5ad": lambda: anndata.AnnData(noise.astype(np.float32)).write_h5ad(path),
        }[path.suffix]()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"" if content == "nothing" else b"\x89noise" * 40)
    assert "\n" not in refusal(path)


# Real cells


@needs_data
def test_xenium_polygons_of_the_pancreas():
    cells = read_cells(SHARED / "pancreas" / "P1" / "cells.parquet")
    assert len(cells.cell_id) == 41_494
    assert cells.cell_id[0] == "bbebjedl-1"
    published = anndata.read_h5ad(SHARED / "pancreas" / "P1" / "cell_counts.h5ad").obs
    assert cells.cell_id.tolist() == published.index.tolist()
    assert np.abs(shapely.area(cells.outline) * 0.425**2 - published["area_um2"]).max() < 0.05


@needs_data
def test_cellvit_points():
    cells = read_cells(SHARED / "segmentation" / "JP2K-33003-2_cell_detection.geojson")
    assert len(cells.cell_id) == 36 + 3_562 + 34_329
    assert cells.cell_id[0] == "b2249b94-7520-4f4e-9708-bfd411d1a483-0"
    assert cells.outline[0].wkt == "POINT (20290 9161)"


@needs_data
@pytest.mark.parametrize("tile", ["train_1", "test_1"])
def test_nucls_labels(tile):
    path = SHARED / "segmentation" / "nucls" / f"{tile}_labels.npz"
    cells = read_cells(path)
    assert cells.extent == (256, 256)
    pixels = np.bincount(np.load(path)["inst_map"].ravel())
    assert shapely.area(cells.outline).tolist() == pixels[cells.cell_id.astype(int)].tolist()


@needs_data
def test_hest_centroids():
    cells = read_cells(SHARED / "hest_ncbi858" / "NCBI858.h5ad")
    assert len(cells.cell_id) == 200
    assert cells.outline[0].x == pytest.approx(536.366438)
