"""Manifests: many samples from a table, checked as a whole before work starts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from test_io_visium import write_visium

from ds2c_cli.errors import InputError
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.manifest import prepare_all, read_manifest
from ds2c_cli.settings import Geometry

BY_CENTROID = Geometry(membership="centroid")


@pytest.fixture
def study(painted: Path, tmp_path: Path) -> Path:
    """A folder with the painted samples in it and a manifest of both."""
    folder = tmp_path / "study"
    shutil.copytree(painted, folder, copy_function=os.link)
    write(
        folder,
        [
            {"sample": "a", "slide": "one/slide.tif", "cells": "one/cells.parquet", "counts": "one/cell_counts.h5ad",
             "donor": "D1", "cohort": "lung", "mpp": "0.5"},
            {"sample": "b", "slide": str(folder / "two" / "slide.tif"), "cells": "grid:20", "donor": "D2"},
        ],
    )  # fmt: skip
    return folder


def write(folder: Path, rows: list[dict[str, object]], name: str = "samples.csv") -> Path:
    path = folder / name
    pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if name.endswith(".tsv") else ",")
    return path


def test_every_row_becomes_a_sample_and_paths_are_seen_from_the_table(study, tmp_path, ds2c):
    ran = ds2c("prepare", "--manifest", study / "samples.csv", "--project", tmp_path, "--membership", "centroid")
    assert ran.code == 0, ran.err
    assert ran.out.split() == [str(tmp_path / "samples" / name) for name in "ab"]
    home = Project(tmp_path)
    a, b = home.sample("a"), home.sample("b")
    assert (a.donor, a.cohort, a.has_cell_truth) == ("D1", "lung", True)
    assert (b.donor, b.cohort, b.has_cell_truth) == ("D2", "cohort", False)
    assert b.cells["cell_id"].str.startswith("grid_").all()
    again = ds2c(
        "prepare", "--manifest", study / "samples.csv", "--project", tmp_path, "--membership", "centroid", "--json"
    )
    assert [(one["sample"], one["unchanged"]) for one in json.loads(again.out)["samples"]] == [("a", True), ("b", True)]


def test_a_table_of_tabs_or_parquet_says_the_same(study):
    rows = pd.read_csv(study / "samples.csv", dtype=str).fillna("")
    expected = read_manifest(study / "samples.csv", BY_CENTROID)
    assert read_manifest(write(study, rows.to_dict("records"), "samples.tsv"), BY_CENTROID) == expected
    rows.to_parquet(study / "samples.parquet")
    assert read_manifest(study / "samples.parquet", BY_CENTROID) == expected


def test_every_problem_is_listed_with_its_row_and_nothing_is_written(study, tmp_path, ds2c):
    Image.new("RGB", (64, 64)).save(study / "plain.png")
    (study / "cells.doc").touch()
    write_visium(study / "visium")
    (study / "visium" / "spatial" / "scalefactors_json.json").unlink()
    one = {"slide": "one/slide.tif", "cells": "one/cells.parquet"}
    bad = [
        one | {"sample": "a"},
        {"cells": "one/cells.parquet"},
        one | {"slide": "gone.tif", "sample": "c"},
        one | {"cells": "gone.parquet", "sample": "d"},
        one | {"cells": "cells.doc", "sample": "e"},
        one | {"slide": "plain.png", "sample": "f"},
        one | {"mpp": "half", "sample": "g"},
        one | {"raw": "perhaps", "sample": "h"},
        one | {"spots": "one/cells.parquet", "sample": "i"},
        one | {"sample": "a"},
        one | {"sample": "a b"},
        one | {"sample": "j", "visium": "visium"},
        {"sample": "k", "slide": "one/slide.tif"},
        {"sample": "l", "hest": "one"},
    ]
    ran = ds2c("prepare", "--manifest", write(study, bad), "--project", tmp_path)
    assert ran.code == 3
    said = " ".join(ran.err.split())
    for problem in (
        "has 13 problems; nothing was prepared",
        "row 3: there is no slide",
        f"row 4: there is no slide {study / 'gone.tif'}",
        f"row 5: {study / 'gone.parquet'} does not exist",
        f"row 6: {study / 'cells.doc'} has a suffix that cells are not read from",
        f"row 7: {study / 'plain.png'} does not say its pixel size: fill in mpp",
        "row 8: mpp is 'half', not a number",
        "row 9: raw is 'perhaps', not 0 or 1",
        "row 10: --spots needs --counts",
        "row 11: the sample a is in row 2 already",
        "row 12: 'a b' cannot name a sample",
        "row 13:",
        "row 14: there are no cells",
        "row 15: hest needs hest_id",
    ):
        assert problem in said, problem
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample,slide,tissue\na,b,c\n", "has columns that are not known: tissue"),
        ("sample,cells\na,b\n", "has no column slide"),
        ("slide,cells\n", "has no rows"),
        ("slide,slide\na,b\n", "the same column more than once: slide"),
        ("slide,cells\na\n", "cannot be read as a table"),
    ],
)
def test_a_table_that_is_no_manifest(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "m.csv", BY_CENTROID)


def test_what_shows_only_in_the_work_does_not_stop_the_others(study, tmp_path):
    rows = pd.read_csv(study / "samples.csv", dtype=str).fillna("").to_dict("records")
    cells = pd.read_parquet(study / "one" / "cells.parquet")
    cells["vertex_x"] += 5000
    cells.to_parquet(study / "shifted.parquet")
    requests = read_manifest(
        write(study, [rows[0] | {"sample": "bad", "cells": "shifted.parquet"}, *rows]), BY_CENTROID
    )
    with pytest.raises(
        InputError, match=r"1 of 3 samples could not be prepared, the others are done:\n  bad: .* lie outside"
    ):
        prepare_all(Workspace(Project(tmp_path)), requests, geometry=BY_CENTROID)
    assert Project(tmp_path).sample_names() == ["a", "b"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--cells", "x.parquet", "--donor", "D"), "--cells, --donor beside --manifest, which has a column for it"),
        (("slide.tif",), "one of SLIDE, --hest and --manifest says what to prepare"),
        (("--sample", "a"), "--sample names the sample of one SLIDE"),
        (("--id", "NCBI856"), "--id names samples of --hest"),
    ],
)
def test_words_that_do_not_go_with_a_manifest(study, tmp_path, ds2c, more, message):
    ran = ds2c("prepare", "--manifest", study / "samples.csv", "--project", tmp_path, *more)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())
