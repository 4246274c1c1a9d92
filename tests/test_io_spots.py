"""Spot tables: which columns are centres and ids, what is refused, and how tables are read at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.io.spots import read_spots
from ds2c_cli.io.tables import identifiers

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


def write(path: Path, text: str) -> Path:
    """A text file, compressed where its name says so."""
    path.write_bytes(gzip.compress(text.encode()) if path.suffix.lower() == ".gz" else text.encode())
    return path


@pytest.fixture
def table(tmp_path):
    """Write a CSV (or another suffix) with these lines and give its path."""
    return lambda *lines, name="spots.csv": write(tmp_path / name, "\n".join(lines) + "\n")


# Which columns


@pytest.mark.parametrize(
    "columns",
    ["pixel_x,pixel_y", "x_pixel,y_pixel", "pxl_col_in_fullres,pxl_row_in_fullres", "x,y", "X,Y", "Pixel X,Pixel Y"],
)
def test_centres_are_found_by_name(table, columns):
    spots = read_spots(table(f"barcode,{columns}", "AAAC-1,10.5,20", "AAAG-1,30,40"))
    assert list(spots.spot_id) == ["AAAC-1", "AAAG-1"]
    assert spots.x.tolist() == [10.5, 30]
    assert spots.y.tolist() == [20, 40]
    assert spots.x.dtype == np.float64
    assert spots.in_tissue.tolist() == [True, True]


@pytest.mark.parametrize("name", ["spots.csv", "spots.csv.gz", "spots.tsv", "spots.TSV.GZ"])
def test_delimited_text_is_known_by_its_suffix(table, name):
    delimiter = "," if "csv" in name else "\t"
    path = table(delimiter.join(["spot_id", "x", "y"]), delimiter.join(["a", "1", "2"]), name=name)
    assert read_spots(path).spot_id.tolist() == ["a"]


def test_parquet_keeps_its_types(tmp_path):
    pd.DataFrame({"spot_id": [b"a", b"b"], "x": [1, 2], "y": [3.5, 4], "in_tissue": [True, False]}).to_parquet(
        tmp_path / "spots.parquet"
    )
    spots = read_spots(tmp_path / "spots.parquet")
    assert spots.spot_id.tolist() == ["a", "b"]
    assert spots.in_tissue.tolist() == [True, False]


def test_a_legacy_table_has_ids_of_its_array_positions_and_centres_in_pixels(table):
    spots = read_spots(
        table("x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", "25\t13\t24.9\t13.04\t6930.58\t3510.24\t1",
              "24\t13\t24.0\t13.07\t6674.96\t3517.82\t0", name="spots.tsv")
    )  # fmt: skip
    assert spots.spot_id.tolist() == ["25x13", "24x13"]
    assert spots.x.tolist() == [6930.58, 6674.96]
    assert spots.in_tissue.tolist() == [True, False]


def test_an_id_column_beats_the_array_positions(table):
    spots = read_spots(table("barcode,x,y,pixel_x,pixel_y", "AAAC-1,1,2,100,200"))
    assert spots.spot_id.tolist() == ["AAAC-1"]


def test_the_first_column_of_text_is_the_id_when_no_column_is_called_one(table):
    spots = read_spots(table(",array_row,x,y,in_tissue,section", "s1,4,1,2,1,A", "s2,5,3,4,0,A"))
    assert spots.spot_id.tolist() == ["s1", "s2"]
    assert spots.in_tissue.tolist() == [True, False]


def test_numeric_ids_stay_as_they_are_written(table):
    assert read_spots(table("id,x,y", "007,1,2", "1e5,3,4", "NA,5,6")).spot_id.tolist() == ["007", "1e5", "NA"]


def test_columns_can_be_named(table):
    spots = read_spots(
        table("spot_id,name,x,y,px,py", "a,n1,1,2,10,20"), x_column="px", y_column="py", id_column="name"
    )
    assert (spots.spot_id[0], spots.x[0], spots.y[0]) == ("n1", 10, 20)


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    path = tmp_path / "spots.csv"
    path.write_bytes(b"\xef\xbb\xbfspot_id,x,y\r\na,1,2\r\n")
    assert read_spots(path).spot_id.tolist() == ["a"]


# What is refused


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["spot_id,x,y"], "has no spots"),
        (["spot_id,x,y", "a,1,2", "b,,4"], "x of spot b, row 2, is '', not a finite number (1 of 2 rows)"),
        (["spot_id,x,y", "a,1,inf"], "y of spot a, row 1, is 'inf'"),
        (["spot_id,x,y", "a,1,2", "b,3,4", "a,5,6"], "has the same spot more than once: a"),
        (["spot_id,x,y", "a,1,2", ",3,4"], "spot 2 of 2 has no id"),
        (["spot_id,x,y", "a,1,2", "b,3"], "cannot be read as a table"),
        (["spot_id,x,x", "a,1,2"], "has the same column more than once: x"),
        (["spot_id,row,col", "a,1,2"], "has no columns of spot centres: found spot_id, row, col"),
        (["spot_id,x_um,y_um", "a,1,2"], "has columns in microns (x_um, y_um)"),
        (["x,y", "1,2"], "has no column of spot ids: found x, y"),
        (["spot_id,x,y,in_tissue", "a,1,2,maybe"], "in_tissue of spot a, row 1, is 'maybe'"),
        ([""], "has no columns of spot centres: found nothing"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(table, lines, message):
    path = table(*lines)
    with pytest.raises(InputError) as error:
        read_spots(path)
    assert message in error.value.message
    assert str(path) in error.value.message
    assert error.value.hint


def test_one_named_coordinate_is_not_enough(table):
    with pytest.raises(UsageError, match="only the x column of the spots is named"):
        read_spots(table("spot_id,x,y", "a,1,2"), x_column="x")


def test_a_named_column_that_is_absent_lists_those_there_are(table):
    with pytest.raises(InputError, match="has no column 'barcode'") as error:
        read_spots(table("spot_id,x,y", "a,1,2"), id_column="barcode")
    assert error.value.hint == "It has spot_id, x, y."


def test_files_that_are_not_there_or_not_tables(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_spots(tmp_path / "spots.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_spots(tmp_path)
    with pytest.raises(InputError, match="has a suffix that spots are not read from") as error:
        read_spots(write(tmp_path / "spots.xlsx", "x"))
    assert ".parquet" in error.value.hint


@pytest.mark.parametrize("name", ["spots.csv.gz", "spots.parquet"])
def test_a_file_cut_short_is_refused(tmp_path, name):
    frame = pd.DataFrame({"spot_id": [f"s{i}" for i in range(500)], "x": np.arange(500), "y": np.arange(500)})
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_spots(path)


def test_ids_become_text():
    values = [np.array([1.0, 2.0]), np.array([b"a", b"b"]), pd.Series(["a", "b"], dtype="category"), [3, 4]]
    assert [identifiers(Path("f"), value, noun="cell").tolist() for value in values] == [
        ["1", "2"], ["a", "b"], ["a", "b"], ["3", "4"],
    ]  # fmt: skip
    for value in (np.array([1.0, np.nan]), pd.Series(["a", None]), pd.Series(["a", pd.NA], dtype="string")):
        with pytest.raises(InputError, match="f: cell 2 of 2 has no id"):
            identifiers(Path("f"), value, noun="cell")


# Real tables


@needs_data
def test_her2st_and_the_olfactory_bulb():
    spots = read_spots(SHARED / "her2st" / "C2" / "spots.tsv")
    assert (len(spots.spot_id), spots.spot_id[0], spots.x[0]) == (187, "25x13", 6930.58)
    assert spots.in_tissue.all()
    bulb = read_spots(SHARED / "mouse_olfactory_bulb" / "alignment_table_MOB1.tsv.gz")
    assert (len(bulb.spot_id), bulb.in_tissue.sum()) == (2068, 379)
