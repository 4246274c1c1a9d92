"""Visium folders of every generation of Space Ranger, against scanpy's reader and against the array itself."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
from PIL import Image
from scipy import sparse

from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.geometry import Lattice, array_neighbours, neighbours_of
from ds2c_cli.io.slides import open_slide
from ds2c_cli.io.visium import read_visium
from ds2c_cli.project import Project
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

GENES = ["EPCAM", "KRT8", "CD3E"]
PITCH = 80.0  # pixels
HIRES = 0.25
GENERATIONS = ("tissue_positions_list.csv", "tissue_positions.csv", "tissue_positions.parquet")


def array_of(side: int) -> np.ndarray:
    """Rows and columns of a Visium array (n, 2): odd rows have odd columns."""
    return np.array([(row, 2 * column + row % 2) for row in range(side) for column in range(side)])


def write_visium(
    folder: Path,
    positions: str = GENERATIONS[0],
    pitch: float = PITCH,
    origin: float = 60.0,
    angle: float = 0.0,
    side: int = 12,
) -> pd.DataFrame:
    """What Space Ranger writes; every fifth spot is beside the tissue. The table of positions is returned."""
    array = array_of(side)
    barcodes = [f"{'ACGT'[i % 4]}{i:015d}-1" for i in range(len(array))]
    flat = np.column_stack([array[:, 1] / 2, array[:, 0] * np.sqrt(3) / 2]) * pitch
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y = (flat @ turn.T + origin).T
    table = pd.DataFrame(
        {
            "barcode": barcodes, "in_tissue": (np.arange(len(array)) % 5 != 0).astype(int), "array_row": array[:, 0],
            "array_col": array[:, 1], "pxl_row_in_fullres": y.round().astype(int),
            "pxl_col_in_fullres": x.round().astype(int),
        }
    )  # fmt: skip
    table = table.sample(frac=1, random_state=0, ignore_index=True)  # not in the order of the matrix
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    if positions.endswith(".parquet"):
        table.to_parquet(spatial / positions)
    else:
        table.to_csv(spatial / positions, index=False, header=positions == "tissue_positions.csv")
    scales = {"spot_diameter_fullres": 0.65 * pitch, "fiducial_diameter_fullres": 1.05 * pitch}
    scales |= {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": 0.1}
    (spatial / "scalefactors_json.json").write_text(json.dumps(scales))
    for name in ("hires", "lowres"):
        Image.new("RGB", (8, 8)).save(spatial / f"tissue_{name}_image.png")
    counts = np.random.default_rng(0).poisson(3, (len(array), len(GENES)))
    order = np.argsort(barcodes)
    inside = [row for row in order if row % 5]
    for kind, rows in (("raw", order), ("filtered", inside)):
        write_matrix(folder / f"{kind}_feature_bc_matrix.h5", counts[rows], [barcodes[row] for row in rows])
    return table


def write_matrix(path: Path, counts: np.ndarray, barcodes: list[str]) -> None:
    columns = sparse.csc_matrix(counts.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(columns, name)
        group["shape"] = columns.shape
        group["barcodes"] = np.array(barcodes, "S")
        kinds = ["Gene Expression"] * len(GENES)
        for name, values in (("id", GENES), ("name", GENES), ("feature_type", kinds), ("genome", ["GRCh38"] * 3)):
            group[f"features/{name}"] = np.array(values, "S")


@pytest.mark.parametrize("positions", GENERATIONS)
@pytest.mark.parametrize("raw", [False, True])
def test_spots_and_counts_of_every_generation(positions: str, raw: bool, tmp_path: Path) -> None:
    table = write_visium(tmp_path, positions).set_index("barcode")
    visium = read_visium(tmp_path, raw=raw)
    assert len(visium.spots.spot_id) == (144 if raw else (table["in_tissue"] == 1).sum())
    rows = table.loc[visium.spots.spot_id]
    assert visium.spots.x.tolist() == rows["pxl_col_in_fullres"].tolist()
    assert visium.spots.y.tolist() == rows["pxl_row_in_fullres"].tolist()
    assert visium.spots.in_tissue.tolist() == (rows["in_tissue"] == 1).tolist()
    assert visium.array.tolist() == rows[["array_row", "array_col"]].to_numpy().tolist()
    assert visium.counts.ids.tolist() == visium.spots.spot_id.tolist()


@pytest.mark.filterwarnings("ignore:Use `squidpy")
@pytest.mark.parametrize("positions", GENERATIONS[:2])
def test_scanpy_reads_the_same(positions: str, tmp_path: Path) -> None:
    write_visium(tmp_path, positions)
    theirs = scanpy.read_visium(tmp_path, library_id="test")
    ours = read_visium(tmp_path)
    rows = theirs.obs_names.get_indexer(ours.spots.spot_id)
    np.testing.assert_array_equal(theirs.obsm["spatial"][rows].astype(float), np.c_[ours.spots.x, ours.spots.y])
    np.testing.assert_array_equal(theirs.X[rows].toarray(), ours.counts.matrix.toarray())
    assert theirs.var_names.tolist() == ours.counts.genes.tolist()
    np.testing.assert_array_equal(theirs.obs[["array_row", "array_col"]].to_numpy()[rows], ours.array)


@pytest.mark.parametrize("angle", [0.0, 0.05, np.pi / 2])
def test_the_pixel_size_comes_from_the_pitch_however_the_array_is_turned(angle: float, tmp_path: Path) -> None:
    write_visium(tmp_path, angle=angle, origin=2000)
    visium = read_visium(tmp_path)
    assert visium.pitch_px == pytest.approx(PITCH, rel=2e-3)  # positions are whole pixels
    assert visium.mpp == pytest.approx(100 / PITCH, rel=2e-3)


def test_neighbours_by_row_and_column_are_the_nearest_on_the_slide(tmp_path: Path) -> None:
    write_visium(tmp_path)
    visium = read_visium(tmp_path, raw=True)
    near = neighbours_of(np.c_[visium.spots.x, visium.spots.y], Lattice("hex", visium.pitch_px))
    ours = array_neighbours(visium.array)
    assert ours.shape == near.shape
    assert [set(row) - {-1} for row in ours.tolist()] == [set(row) - {-1} for row in near.tolist()]
    inner = (ours >= 0).all(1)
    assert inner.any()
    rows, columns = np.abs(visium.array[ours[inner]] - visium.array[inner][:, None]).transpose(2, 0, 1)
    assert set(zip(rows.ravel().tolist(), columns.ravel().tolist(), strict=True)) == {(0, 2), (1, 1)}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.assign(pxl_row_in_fullres=t["pxl_row_in_fullres"] * 2), "do not stand on Visium's array"),
        (lambda t: t.assign(array_col=t["array_col"].sample(frac=1, random_state=1).to_numpy()), "do not stand on"),
        (lambda t: t.drop(columns="array_row"), "has no column array_row"),
        (lambda t: t.iloc[5:], "barcodes of .* have no position"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "the same spot more than once"),
        (lambda t: t.assign(in_tissue=0), "no spot of .* is in tissue"),
    ],
)
def test_positions_that_are_wrong_are_refused(spoil, says: str, tmp_path: Path) -> None:
    table = write_visium(tmp_path, "tissue_positions.csv")
    spoil(table).to_csv(tmp_path / "spatial" / "tissue_positions.csv", index=False)
    with pytest.raises(InputError, match=says):
        read_visium(tmp_path)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("spatial/tissue_positions_list.csv", "no positions of the spots"),
        ("spatial/scalefactors_json.json", "scalefactors_json.json does not exist"),
        ("filtered_feature_bc_matrix.h5", "no counts of the spots"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(missing: str, says: str, tmp_path: Path) -> None:
    write_visium(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=says):
        read_visium(tmp_path)


def test_visium_hd_is_told_apart(tmp_path: Path) -> None:
    write_visium(tmp_path)
    path = tmp_path / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bin_size_um": 8.0, "microns_per_pixel": 0.27}))
    with pytest.raises(InputError, match="Visium HD, with bins of 8 um"):
        read_visium(tmp_path)


# Through prepare


def sources(painted: Path, folder: Path, **more: object) -> Sources:
    return Sources(painted / "one" / "slide.tif", str(painted / "one" / "cells.parquet"), visium=folder, **more)


def test_a_visium_sample_is_prepared_from_its_folder(painted: Path, tmp_path: Path) -> None:
    mpp = open_slide(painted / "one" / "slide.tif").mpp
    assert mpp is not None
    table = write_visium(tmp_path / "outs", pitch=100 / mpp, side=5)
    project = Project(tmp_path / "project")
    done = prepare(project, sources(painted, tmp_path / "outs", trust_coordinates=True), geometry=Geometry())
    sample = project.sample("slide")
    assert sample.record.measured
    assert sample.lattice.layout == "hex"
    assert sample.mpp == pytest.approx(mpp, rel=5e-3)
    assert done.n_spots == int(table["in_tissue"].sum())
    assert sample.spot_counts().ids.tolist() == sample.spots["spot_id"].tolist()
    assert sample.neighbours.shape == (done.n_spots, 6)
    assert not done.warnings
    assert prepare(project, sources(painted, tmp_path / "outs", trust_coordinates=True), geometry=Geometry()).unchanged


def test_the_reduced_image_is_told_apart(painted: Path, tmp_path: Path) -> None:
    write_visium(tmp_path / "outs", pitch=800, side=5)  # the full-resolution image is four times the slide
    with pytest.raises(InputError, match=r"it is the reduced tissue_hires_image\.png"):
        prepare(Project(tmp_path / "project"), sources(painted, tmp_path / "outs"), geometry=Geometry())


def test_spots_outside_of_the_slide_are_refused(painted: Path, tmp_path: Path) -> None:
    write_visium(tmp_path / "outs", pitch=5000, side=5)
    with pytest.raises(InputError, match="lie outside the 1024 x 1024 pixels"):
        prepare(Project(tmp_path / "project"), sources(painted, tmp_path / "outs"), geometry=Geometry())


def test_a_tag_that_contradicts_the_pitch_is_said(painted: Path, tmp_path: Path) -> None:
    write_visium(tmp_path / "outs", pitch=150, side=5)
    done = prepare(
        Project(tmp_path / "project"), sources(painted, tmp_path / "outs", trust_coordinates=True), geometry=Geometry()
    )
    assert any("the slide's tag says" in warning for warning in done.warnings)


def test_visium_brings_its_own_counts(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--visium has the counts already"):
        prepare(Project(tmp_path), sources(painted, tmp_path, counts=tmp_path / "counts.h5ad"), geometry=Geometry())
