"""Xenium: runs of old and new versions, written after 10x's description and compared with spatialdata-io's reader."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata_io
import zarr
from scipy import sparse
from scipy.io import mmwrite

from ds2c_cli.errors import InputError, UsageError
from ds2c_cli.geometry import MicronsToPixels
from ds2c_cli.io.cells import read_cells
from ds2c_cli.io.xenium import Xenium, open_xenium, read_alignment, read_boundaries, way_to_slide
from ds2c_cli.project import Project
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

PIXEL_UM = 0.2125
# The slide lies turned by 90 degrees and mirrored beside the run's image, as scanners and Explorer leave it.
ALIGNMENT = np.array([[0.02, 2.3, 400.0], [2.3, -0.02, 900.0], [0, 0, 1]])
CONTROLS = {
    "Negative Control Probe": "NegControlProbe_00042",
    "Negative Control Codeword": "NegControlCodeword_0500",
    "Unassigned Codeword": "UnassignedCodeword_0001",
}
AREAS = {"cell_area": 60.0, "nucleus_area": 20.0}


@dataclass(frozen=True)
class Version:
    """What changed between Xenium Onboard Analysis 1.0 and 3.0."""

    name: str
    text_ids: bool
    labels: bool
    is_gene: bool
    boundaries: str = ".parquet"
    bytes_ids: bool = False

    def cell_id(self, row: int) -> object:
        if not self.text_ids:
            return row + 1
        shifted = "".join("abcdefghijklmnop"[int(digit, 16)] for digit in f"{row + 77:08x}")
        return f"{shifted}-1".encode() if self.bytes_ids else f"{shifted}-1"


OLD = Version("1.0.1", text_ids=False, labels=False, is_gene=False)
MIDDLE = Version("1.3.0", text_ids=True, labels=False, is_gene=False, boundaries=".csv.gz", bytes_ids=False)
NEW = Version("3.1.0", text_ids=True, labels=True, is_gene=True, bytes_ids=False)
BYTES = Version("3.1.0", text_ids=True, labels=True, is_gene=True, bytes_ids=True)


def to_microns(pixels: np.ndarray) -> np.ndarray:
    return (pixels @ ALIGNMENT[:2, :2].T + ALIGNMENT[:2, 2]) * PIXEL_UM


def write_xenium(folder: Path, painted: Path, version: Version) -> Path:
    """A run that saw the cells of a painted sample, with what Xenium writes beside them."""
    folder.mkdir()
    cells = read_cells(painted / "cells.parquet")
    truth = anndata.read_h5ad(painted / "cell_counts.h5ad")
    rows = pd.Index(cells.cell_id).get_indexer(truth.obs_names)
    outlines = cells.outline[rows]
    ids = [version.cell_id(row) for row in range(len(rows))]
    about = {"major_version": 5, "pixel_size": PIXEL_UM, "analysis_sw_version": f"xenium-{version.name}"}
    about |= {"run_name": "run", "region_name": "region", "num_cells": len(ids)}
    (folder / "experiment.xenium").write_text(json.dumps(about))
    np.savetxt(folder / "he_imagealignment.csv", ALIGNMENT, delimiter=",")

    # Nuclei: half the cell; the third cell has none, the fourth two.
    for name, shrunk in (("cell", 1.0), ("nucleus", 0.5)):
        vertices = []
        label = 0
        for row, outline in enumerate(outlines):
            if shrunk < 1 and row == 2:
                continue
            for copy in range(2 if shrunk < 1 and row == 3 else 1):
                label += 1
                ring = to_microns(shapely.get_coordinates(outline))
                ring = ring.mean(0) + shrunk * (ring - ring.mean(0)) + 40 * copy
                vertices += [(ids[row], x, y, label) for x, y in ring]
        frame = pd.DataFrame(vertices, columns=["cell_id", "vertex_x", "vertex_y", "label_id"])
        frame = frame.astype({"vertex_x": "float32", "vertex_y": "float32"})
        if not version.labels:
            frame = frame.drop(columns="label_id")
        path = folder / f"{name}_boundaries{version.boundaries}"
        frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)

    centres = to_microns(shapely.get_coordinates(shapely.centroid(outlines)))
    table = pd.DataFrame({"cell_id": ids, "x_centroid": centres[:, 0], "y_centroid": centres[:, 1]})
    table = table.assign(transcript_counts=np.asarray(truth.X.sum(1)).ravel().astype(int), **AREAS)
    table.to_parquet(folder / "cells.parquet", index=False)

    counts = sparse.hstack([truth.X, sparse.csr_matrix(np.ones((len(ids), len(CONTROLS))))]).astype(np.int32)
    genes = [*truth.var_names, *CONTROLS.values()]
    kinds = ["Gene Expression"] * truth.n_vars + list(CONTROLS)
    text = [value.decode() if isinstance(value, bytes) else str(value) for value in ids]
    if version is MIDDLE:
        matrix = folder / "cell_feature_matrix"
        matrix.mkdir()
        with gzip.open(matrix / "matrix.mtx.gz", "wb") as file:
            mmwrite(file, counts.T)
        lines = [f"ENSG{i:011d}\t{gene}\t{kind}" for i, (gene, kind) in enumerate(zip(genes, kinds, strict=True))]
        for name, rows_of in (("barcodes", text), ("features", lines)):
            with gzip.open(matrix / f"{name}.tsv.gz", "wt") as file:
                file.write("\n".join(rows_of) + "\n")
    else:
        columns = sparse.csc_matrix(counts.T)
        with h5py.File(folder / "cell_feature_matrix.h5", "w") as file:
            group = file.create_group("matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(columns, name)
            group["shape"] = columns.shape
            group["barcodes"] = np.array(text, "S")
            named = {"id": [f"ENSG{i:011d}" for i in range(len(genes))], "name": genes, "feature_type": kinds}
            for name, values in (named | {"genome": ["GRCh38"] * len(genes)}).items():
                group[f"features/{name}"] = np.array(values, "S")
    write_transcripts(folder, truth.X, genes, centres, ids, version)

    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        root = zarr.create_group(store, zarr_format=2)
        number = np.arange(len(ids), dtype=np.uint32)
        root.create_array(
            "cell_id",
            data=np.column_stack([number + 77, np.ones_like(number)]) if version.text_ids else number + 1,
        )
        names = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
        names += ["nucleus_area", "z_level", "nucleus_count"]
        summary = root.create_array("cell_summary", data=np.ones((len(ids), len(names))))
        summary.attrs["column_names"] = names
        if version.labels:
            nuclei = np.concatenate([[0, 1, 3, 3], np.arange(4, len(ids))]).astype(np.uint32)
            root.create_array("polygon_sets/0/cell_index", data=nuclei)
            root.create_array("polygon_sets/1/cell_index", data=number)
    return folder


def write_transcripts(
    folder: Path, counts: sparse.csr_matrix, genes: list[str], centres: np.ndarray, ids: list[object], version: Version
) -> None:
    """Every count as a molecule at its cell's centre; others of low quality, of controls and of no cell."""
    matrix = sparse.coo_matrix(counts)
    row = np.repeat(matrix.row, matrix.data.astype(int))
    name = np.array(genes, object)[np.repeat(matrix.col, matrix.data.astype(int))]
    number = len(row)
    extra = {"cell": np.full(90, -1), "name": np.array([genes[0]] * 30 + [genes[-1]] * 60, object)}
    cell = np.concatenate([row, row[:50], extra["cell"]])
    qv = np.concatenate([np.full(number, 40.0), np.full(50, 12.0), np.full(90, 40.0)])
    feature = np.concatenate([name, name[:50], extra["name"]])
    none = "UNASSIGNED" if version.text_ids else -1
    cell_id = [ids[i] if i >= 0 else (none.encode() if version.bytes_ids else none) for i in cell]
    xy = centres[cell]
    frame = pd.DataFrame(
        {
            "transcript_id": np.arange(len(cell), dtype=np.uint64), "cell_id": cell_id,
            "overlaps_nucleus": np.ones(len(cell), np.uint8), "feature_name": feature,
            "x_location": xy[:, 0].astype(np.float32), "y_location": xy[:, 1].astype(np.float32),
            "z_location": np.float32(13.0), "qv": qv.astype(np.float32),
        }
    )  # fmt: skip
    if version.bytes_ids:
        frame["feature_name"] = [text.encode() for text in frame["feature_name"]]
    if version.is_gene:
        frame["is_gene"] = ~np.isin(feature, list(CONTROLS.values()))
    frame.sample(frac=1, random_state=0).to_parquet(folder / "transcripts.parquet", index=False, row_group_size=999)


@pytest.fixture(scope="module", params=[OLD, MIDDLE, NEW, BYTES], ids=["1.0", "1.3", "3.1", "bytes"])
def version(request: pytest.FixtureRequest) -> Version:
    return request.param


@pytest.fixture(scope="module")
def run(version: Version, painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xenium(tmp_path_factory.mktemp("xenium") / "run", painted / "one", version)


@pytest.fixture
def new_run(painted: Path, tmp_path: Path) -> Path:
    return write_xenium(tmp_path / "new", painted / "one", NEW)


def geometry(**changed: object) -> Geometry:
    return Geometry(membership="centroid", **changed)


def test_a_run_makes_the_sample_that_its_cells_in_pixels_make(run, painted, tmp_path):
    """Through a turned, mirrored and scaled alignment, to single precision of Xenium's own vertices."""
    home, one = Project(tmp_path), painted / "one"
    plain = prepare(
        home, Sources(one / "slide.tif", str(one / "cells.parquet"), one / "cell_counts.h5ad"), geometry=geometry()
    )
    done = prepare(home, Sources(one / "slide.tif", xenium=run), geometry=geometry(), sample="xenium")
    assert (done.n_cells, done.n_genes) == (plain.n_cells, plain.n_genes)
    ours, theirs = home.sample("xenium"), home.sample("slide")
    assert any("3 of " in note or "left out" in note for note in done.warnings)  # control features
    assert ours.mpp == pytest.approx(PIXEL_UM * np.sqrt(2.3**2 + 0.02**2))
    truth = anndata.read_h5ad(one / "cell_counts.h5ad")
    order = pd.Index(theirs.cells["cell_id"]).get_indexer(truth.obs_names)
    np.testing.assert_allclose(ours.cells[["x", "y"]], theirs.cells[["x", "y"]].to_numpy()[order], atol=0.01)
    np.testing.assert_allclose(shapely.area(ours.outlines()), shapely.area(theirs.outlines())[order], rtol=1e-3)
    assert (ours.cell_counts().matrix != theirs.cell_counts().matrix[order]).nnz == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [OLD, NEW], ids=["1.0", "3.1"], indirect=True)
def test_spatialdata_io_reads_the_same_outlines_and_counts(run, version):
    only = dict.fromkeys(
        ("nucleus_labels", "cells_labels", "morphology_mip", "morphology_focus", "aligned_images"), False
    )
    theirs = spatialdata_io.xenium(run, transcripts=False, cells_as_circles=False, **only)
    itself = MicronsToPixels(np.eye(2), np.zeros(2))
    for kind in ("cell", "nucleus"):
        ours = read_boundaries(open_xenium(run, boundaries=kind), itself)
        shapes = theirs.shapes[f"{kind}_boundaries"]
        ids = (shapes["cell_id"] if "cell_id" in shapes else shapes.index.to_series()).astype(str)
        if kind == "nucleus" and version is OLD:
            continue  # it joins the two nuclei of a cell to one outline that crosses itself
        areas = shapes.geometry.area.groupby(ids.to_numpy()).sum()
        np.testing.assert_allclose(shapely.area(ours.outline), areas[ours.cell_id], rtol=1e-5)
    assert theirs["table"].obs_names.tolist() == read_boundaries(open_xenium(run), itself).cell_id.tolist()


def test_the_nuclei_of_a_cell_stay_apart_and_cells_without_are_told(run, painted, tmp_path):
    home = Project(tmp_path)
    sources = Sources(painted / "one" / "slide.tif", xenium=run, boundaries="nucleus")
    done = prepare(home, sources, geometry=geometry(), sample="nuclei")
    assert any("1 of" in note and "have no nucleus outline" in note for note in done.warnings)
    outline = home.sample("nuclei").outlines()
    assert outline[2].geom_type == "MultiPolygon"  # the fourth cell; the third is left out
    assert [one.geom_type for one in outline].count("MultiPolygon") == 1


def test_pseudospots_of_transcripts(run, painted, tmp_path):
    """The molecules lie at their cells' centres: the counts of members, and 90 more that are in no cell."""
    home, sources = Project(tmp_path), Sources(painted / "one" / "slide.tif", xenium=run)
    prepare(home, sources, geometry=geometry(), sample="cells")
    done = prepare(home, sources, geometry=geometry(pseudospot="transcripts"), sample="molecules")
    by_cell, by_molecule = (home.sample(name).spot_counts() for name in ("cells", "molecules"))
    assert by_molecule.genes.tolist() == by_cell.genes.tolist()
    assert by_molecule.ids.tolist() == by_cell.ids.tolist()
    differ = (by_molecule.matrix - by_cell.matrix).tocoo()
    assert differ.data.sum() in (0, 30)  # the unassigned lie at the last cell's centre, in a spot or not
    assert (differ.col == 0).all()
    assert not any("features that the cells" in note for note in done.warnings)


def test_keypoints_give_the_alignment_too(new_run, tmp_path):
    slide = np.array([[0, 0], [900, 10], [50, 800], [700, 700.0]])
    image = slide @ ALIGNMENT[:2, :2].T + ALIGNMENT[:2, 2]
    frame = pd.DataFrame(np.hstack([image, slide]), columns=["fixedX", "fixedY", "alignmentX", "alignmentY"])
    path = tmp_path / "he_keypoints.csv"
    frame.to_csv(path, index=False)
    matrix, note = read_alignment(path, PIXEL_UM)
    np.testing.assert_allclose(matrix, ALIGNMENT, atol=1e-6)
    assert not note
    frame.loc[0, "fixedX"] += 800
    frame.to_csv(path, index=False)
    assert "um apart after alignment" in read_alignment(path, PIXEL_UM)[1]
    frame.iloc[:2].to_csv(path, index=False)
    with pytest.raises(InputError, match="2 keypoints, which fix no alignment"):
        read_alignment(path, PIXEL_UM)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4", "is no alignment"),
        ("1,0,0\n0,1,0\n0,1,1", "is no alignment"),
        ("1,1,0\n1,1,0\n0,0,1", "is no alignment"),
        ("1,0,a\n0,1,0\n0,0,1", "cannot be read as a matrix"),
        ("1,0,nan\n0,1,0\n0,0,1", "is no alignment"),
    ],
)
def test_a_bad_alignment_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_alignment(tmp_path / "a.csv", PIXEL_UM)


def test_an_alignment_the_wrong_way_round_is_told(new_run, painted, tmp_path):
    inverse = tmp_path / "inverse.csv"
    np.savetxt(inverse, np.linalg.inv(ALIGNMENT), delimiter=",")
    with pytest.raises(InputError, match="takes the run's image to the slide"):
        prepare(
            Project(tmp_path),
            Sources(painted / "one" / "slide.tif", xenium=new_run, alignment=inverse),
            geometry=geometry(),
        )


def test_without_an_alignment_microns_are_the_slides(new_run):
    run = Xenium(
        folder=new_run, pixel_um=PIXEL_UM, boundaries=new_run, matrix=new_run, transcripts=None, alignment=None
    )
    for slide_mpp, given, expected in ((None, None, PIXEL_UM), (0.5, None, 0.5), (0.5, 0.25, 0.25)):
        way, note = way_to_slide(run, slide_mpp=slide_mpp, given_mpp=given)
        assert way.mpp == pytest.approx(expected)
        np.testing.assert_allclose(way.points(np.array([[1.0, 2.0]])), [[1 / expected, 2 / expected]])
        assert "has no alignment" in note


def test_microns_on_the_wrong_slide_are_refused(new_run, painted, tmp_path):
    (new_run / "he_imagealignment.csv").unlink()
    with pytest.raises(InputError, match=r"lie outside|do not lie on the tissue"):
        prepare(Project(tmp_path), Sources(painted / "one" / "slide.tif", xenium=new_run), geometry=geometry())


def test_what_a_run_lacks_is_named(new_run, painted, tmp_path):
    with pytest.raises(InputError, match=r"has no experiment\.xenium"):
        open_xenium(tmp_path)
    shutil.copy(new_run / "he_imagealignment.csv", new_run / "if_imagealignment.csv")
    with pytest.raises(InputError, match=r"has 2 alignments: he_imagealignment\.csv, if_imagealignment\.csv"):
        open_xenium(new_run)
    assert open_xenium(new_run, alignment=new_run / "he_imagealignment.csv").alignment
    (new_run / "transcripts.parquet").unlink()
    (new_run / "if_imagealignment.csv").unlink()
    with pytest.raises(InputError, match="there are no transcripts"):
        prepare(
            Project(tmp_path),
            Sources(painted / "one" / "slide.tif", xenium=new_run),
            geometry=geometry(pseudospot="transcripts"),
        )
    (new_run / "cell_boundaries.parquet").unlink()
    with pytest.raises(InputError, match=r"has none of cell_boundaries\.parquet, cell_boundaries\.csv\.gz"):
        open_xenium(new_run)


def test_a_run_brings_its_own_cells(painted, new_run):
    for more in ({"cells": "x.parquet"}, {"counts": Path("x.h5")}, {"visium": new_run}):
        with pytest.raises(UsageError):
            Sources(painted / "one" / "slide.tif", xenium=new_run, **more).check()
    with pytest.raises(UsageError, match="--alignment is of a slide to a Xenium run"):
        Sources(painted / "one" / "slide.tif", "grid:20", alignment=Path("x.csv")).check()
