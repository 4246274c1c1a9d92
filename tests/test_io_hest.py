"""HEST-1k: samples of its layout, written as its public description says, through geopandas and anndata."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from test_io_visium import PITCH, array_of
from test_io_xenium import CONTROLS

from ds2c_cli.errors import InputError, UsageError, WeightsError
from ds2c_cli.geometry import array_neighbours
from ds2c_cli.io import hest as hest_module
from ds2c_cli.io.cells import read_cells
from ds2c_cli.io.hest import download_hest, open_hest
from ds2c_cli.project import Project, Workspace
from ds2c_cli.samples.manifest import hest_requests, prepare_all
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

MPP = 0.5  # of the painted slides
BY_CENTROID = Geometry(membership="centroid")


def write_metadata(folder: Path, sample: str, **said: object) -> None:
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    about = {"id": sample, "patient": "Patient 1", "pixel_size_um_embedded": MPP, "pixel_size_um_estimated": MPP}
    (folder / "metadata" / f"{sample}.json").write_text(json.dumps(about | said))


def write_spots(path: Path, xy: np.ndarray, array: np.ndarray | None = None, **obs: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = np.random.default_rng(0).poisson(3, (len(xy), 4)).astype(np.float32)
    table = pd.DataFrame({"in_tissue": 1, **obs}, index=[f"spot{i:04d}" for i in range(len(xy))])
    if array is not None:
        table = table.assign(array_row=array[:, 0], array_col=array[:, 1])
    var = pd.DataFrame(index=["EPCAM", "KRT8", "CD3E", "MKI67"])
    anndata.AnnData(sparse.csr_matrix(counts), table, var, obsm={"spatial": xy}).write_h5ad(path)


def write_xenium_sample(folder: Path, painted: Path, sample: str = "NCBI856", **said: object) -> None:
    """A Xenium sample: outlines of cells as GeoParquet with the ids in its index, transcripts in pixels and microns."""
    (folder / "wsis").mkdir(parents=True, exist_ok=True)
    shutil.copy(painted / "slide.tif", folder / "wsis" / f"{sample}.tif")
    write_metadata(folder, sample, st_technology="Xenium", **said)
    write_spots(folder / "st" / f"{sample}.h5ad", np.array([[300.0, 300.0], [500.0, 300.0], [300.0, 500.0]]))
    cells = read_cells(painted / "cells.parquet")
    frame = geopandas.GeoDataFrame(geometry=cells.outline, index=pd.Index(cells.cell_id.astype(str)))
    (folder / "xenium_seg").mkdir(exist_ok=True)
    frame.to_parquet(folder / "xenium_seg" / f"{sample}_xenium_cell_seg.parquet")

    truth = anndata.read_h5ad(painted / "cell_counts.h5ad")
    counts = sparse.coo_matrix(truth.X)
    row = np.repeat(counts.row, counts.data.astype(int))
    centre = frame.centroid.loc[truth.obs_names]
    extra = 40  # of a control, of low quality, of no cell, of a cell that was left out of the outlines
    last = np.r_[row, np.zeros(extra, int)]
    name = np.r_[truth.var_names.to_numpy()[np.repeat(counts.col, counts.data.astype(int))], [truth.var_names[0]] * 40]
    name[-40:-30] = CONTROLS["Negative Control Probe"]
    cell = np.r_[truth.obs_names.to_numpy()[row], [truth.obs_names[0]] * 20, ["UNASSIGNED"] * 10, ["gone-1"] * 10]
    x, y = centre.x.to_numpy()[last], centre.y.to_numpy()[last]
    table = pd.DataFrame(
        {
            "cell_id": [text.encode() for text in cell], "feature_name": [text.encode() for text in name],
            "x_location": y * MPP, "y_location": x * MPP,  # the instrument lay turned
            "he_x": x, "he_y": y, "qv": np.r_[np.full(len(row), 40.0), [40.0] * 10, [12.0] * 10, [40.0] * 20],
        }
    )  # fmt: skip
    (folder / "transcripts").mkdir(exist_ok=True)
    table.to_parquet(folder / "transcripts" / f"{sample}_transcripts.parquet", index=False)


def write_visium_sample(folder: Path, painted: Path, sample: str = "TENX24", **said: object) -> np.ndarray:
    """A Visium sample with CellViT's nuclei; the array's places are returned."""
    (folder / "wsis").mkdir(parents=True, exist_ok=True)
    shutil.copy(painted / "slide.tif", folder / "wsis" / f"{sample}.tif")
    write_metadata(folder, sample, **({"st_technology": "Visium"} | said))
    array = array_of(10)
    xy = np.column_stack([array[:, 1] / 2, array[:, 0] * np.sqrt(3) / 2]) * PITCH + 100
    write_spots(folder / "st" / f"{sample}.h5ad", xy, array)
    cells = read_cells(painted / "cells.parquet")
    frame = geopandas.GeoDataFrame({"class": "Neoplastic"}, geometry=cells.outline, index=range(len(cells.outline)))
    (folder / "cellvit_seg").mkdir(exist_ok=True)
    frame.to_parquet(folder / "cellvit_seg" / f"{sample}_cellvit_seg.parquet")
    return array


def sources(folder: Path, sample: str, **more: object) -> Sources:
    return Sources(folder / "wsis" / f"{sample}.tif", hest=folder, hest_id=sample, **more)


@pytest.mark.parametrize(
    ("said", "donor"), [("Patient 1", "Patient 1"), (7, "7"), (float("nan"), ""), (None, ""), ("  ", "")]
)
def test_a_patient_that_hest_does_not_name_is_no_donor(tmp_path, said, donor):
    write_metadata(tmp_path, "NCBI1", patient=said)
    for name in ("wsis/NCBI1.tif", "st/NCBI1.h5ad"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert open_hest(tmp_path, "NCBI1").donor == donor


def test_a_xenium_sample_is_counted_from_its_transcripts(painted, tmp_path):
    """The same cells and counts as from the tables the sample was made of; what is no molecule of a cell is told."""
    one = painted / "one"
    write_xenium_sample(tmp_path / "hest", one)
    home = Project(tmp_path / "project")
    prepare(
        home,
        Sources(one / "slide.tif", str(one / "cells.parquet"), one / "cell_counts.h5ad"),
        geometry=BY_CENTROID,
        sample="own",
    )
    done = prepare(home, sources(tmp_path / "hest", "NCBI856"), geometry=BY_CENTROID)
    assert any(
        "10 transcripts are of cells that NCBI856_xenium_cell_seg.parquet does not have" in w for w in done.warnings
    )
    ours, own = home.sample("NCBI856"), home.sample("own")
    assert ours.mpp == pytest.approx(MPP, rel=1e-4)
    assert ours.cells["cell_id"].tolist() == own.cells["cell_id"].tolist()
    found, expected = ours.cell_counts(), own.cell_counts()
    at = pd.Index(expected.genes).get_indexer(pd.Index(found.genes))
    assert (at >= 0).all()  # no control among them
    assert (found.matrix != expected.matrix[:, at]).nnz == 0
    assert found.matrix.sum() == expected.matrix.sum()


def test_pseudospots_of_hest_transcripts(painted, tmp_path):
    write_xenium_sample(tmp_path / "hest", painted / "one")
    home = Project(tmp_path / "project")
    prepare(home, sources(tmp_path / "hest", "NCBI856"), geometry=BY_CENTROID, sample="cells")
    prepare(
        home,
        sources(tmp_path / "hest", "NCBI856"),
        geometry=Geometry(membership="centroid", pseudospot="transcripts"),
        sample="all",
    )
    more = home.sample("all").spot_counts().matrix - home.sample("cells").spot_counts().matrix
    assert set(np.unique(more.data)) <= {0, 20}  # those of no cell lie at the first cell's centre


def test_a_visium_sample_has_its_arrays_neighbours_and_cellvits_nuclei(painted, tmp_path):
    array = write_visium_sample(tmp_path / "hest", painted / "one")
    home = Project(tmp_path / "project")
    done = prepare(home, sources(tmp_path / "hest", "TENX24"), geometry=BY_CENTROID)
    sample = home.sample("TENX24")
    assert done.n_spots == len(array)
    assert sample.mpp == pytest.approx(100 / PITCH, rel=1e-3)  # by the pitch: both sizes of the metadata are wrong
    assert any("the pitch of the spots say 1.25: 1.25 is used" in warning for warning in done.warnings)
    np.testing.assert_array_equal(sample.neighbours, array_neighbours(array))
    assert sample.donor == "TENX24"


@pytest.mark.parametrize(
    ("said", "expected", "told"),
    [
        ({"pixel_size_um_embedded": 1.2497, "pixel_size_um_estimated": 1.25}, 1.25, False),
        ({"pixel_size_um_embedded": 0.5, "pixel_size_um_estimated": 1.25}, 1.25, True),
        ({"pixel_size_um_embedded": 1.251, "pixel_size_um_estimated": 0.3}, 1.251, True),
        ({"pixel_size_um_embedded": None, "pixel_size_um_estimated": "nan"}, 1.25, False),
        ({"st_technology": "Visium HD", "pixel_size_um_embedded": 0.4, "pixel_size_um_estimated": 0.5}, 0.5, True),
    ],
)
def test_contradictory_pixel_sizes_are_resolved_by_evidence_and_told(painted, tmp_path, said, expected, told):
    write_visium_sample(tmp_path, painted / "one", **said)
    sample = open_hest(tmp_path, "TENX24")
    mpp, note = hest_module.believed_mpp(sample, pitch_px=PITCH)
    assert mpp == pytest.approx(expected)
    assert bool(note) is told
    if told:
        assert f"the metadata of TENX24 says {said['pixel_size_um_estimated']:.4g} um a pixel (estimated)" in note


def test_transcripts_are_evidence_whatever_the_rotation(painted, tmp_path):
    write_xenium_sample(tmp_path, painted / "one", pixel_size_um_estimated=0.2125)
    mpp, note = hest_module.believed_mpp(open_hest(tmp_path, "NCBI856"), pitch_px=200.0)
    assert mpp == MPP
    assert "the transcripts say 0.5: 0.5 is used" in note


def test_the_segmentation_is_chosen_by_name(painted, tmp_path):
    folder = tmp_path / "hest"
    write_xenium_sample(folder, painted / "one", "TENX95")
    write_visium_sample(folder, painted / "one", "TENX95", st_technology="Xenium")
    home = Project(tmp_path / "project")
    assert set(open_hest(folder, "TENX95").cells) == {"cell", "cellvit"}
    done = prepare(home, sources(folder, "TENX95", cells="cellvit"), geometry=BY_CENTROID)
    assert any("HEST's pooled spots are its expression" in warning for warning in done.warnings)
    assert home.sample("TENX95").cells["cell_id"][0] == "0"
    with pytest.raises(InputError, match=r"has no segmentation nucleus \(it has: cell, cellvit\)"):
        prepare(home, sources(folder, "TENX95", cells="nucleus"), geometry=BY_CENTROID, sample="other")
    with pytest.raises(UsageError, match="--hest has the counts already"):
        sources(folder, "TENX95", counts=Path("x.h5ad")).check()


def test_zipped_geojson_is_read_where_there_is_no_parquet(painted, tmp_path):
    write_visium_sample(tmp_path, painted / "one")
    parquet = tmp_path / "cellvit_seg" / "TENX24_cellvit_seg.parquet"
    frame = geopandas.read_parquet(parquet)
    parquet.unlink()
    packed = parquet.with_suffix(".geojson.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("TENX24_cellvit_seg.geojson", frame.to_json())
    assert open_hest(tmp_path, "TENX24").cells == {"cellvit": packed}
    cells = read_cells(packed)
    assert frame.geometry.geom_equals_exact(geopandas.GeoSeries(cells.outline), 1e-9).all()
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("readme.txt", "more")
    with pytest.raises(InputError, match=r"holds 2 files: TENX24_cellvit_seg\.geojson, readme\.txt"):
        read_cells(packed)


def test_a_folder_is_prepared_whole_and_its_patients_are_donors(painted, tmp_path, ds2c):
    folder = tmp_path / "hest"
    write_xenium_sample(folder, painted / "one", "NCBI856")
    write_visium_sample(folder, painted / "two", "TENX24", patient=None)
    requests = hest_requests(folder, [], shared=Sources(Path(), mpp=None), donor="", cohort="lung")
    assert [(request.name, request.donor) for request in requests] == [("NCBI856", "Patient 1"), ("TENX24", "")]
    done = prepare_all(Workspace(Project(tmp_path / "all")), requests, geometry=BY_CENTROID)
    assert [one.folder.name for one in done] == ["NCBI856", "TENX24"]
    ran = ds2c(
        "prepare", "--hest", folder, "--id", "NCBI856", "--project", tmp_path / "one", "--membership", "centroid"
    )
    assert ran.code == 0, ran.err
    assert ran.out.split() == [str(tmp_path / "one" / "samples" / "NCBI856")]
    missing = ds2c("prepare", "--hest", folder, "--id", "NCBI999", "--project", tmp_path / "one")
    assert missing.code == 3
    assert "NCBI999.json does not exist (metadata/ has NCBI856, TENX24)" in missing.err.replace("\n", " ")


def test_the_hub_is_asked_for_the_files_that_are_read(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda repo, **how: asked.update(how, repo=repo) or tmp_path
    )
    assert download_hest(["NCBI856"]) == tmp_path
    assert (asked["repo"], asked["repo_type"]) == ("MahmoodLab/hest", "dataset")
    assert set(asked["allow_patterns"]) == {
        "wsis/NCBI856.tif", "st/NCBI856.h5ad", "metadata/NCBI856.json", "transcripts/NCBI856_transcripts.parquet",
        "xenium_seg/NCBI856_xenium_cell_seg.parquet", "xenium_seg/NCBI856_xenium_nucleus_seg.parquet",
        "cellvit_seg/NCBI856_cellvit_seg.parquet",
    }  # fmt: skip


def test_without_access_the_hub_is_an_error_that_says_what_to_do(monkeypatch, ds2c, tmp_path):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Cannot access gated repo\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        WeightsError, match="NCBI856 cannot be downloaded from MahmoodLab/hest: Cannot access gated repo"
    ):
        download_hest(["NCBI856"])
    assert ds2c("prepare", "--hest", "hf", "--id", "NCBI856", "--project", tmp_path).code == 4
    assert ds2c("prepare", "--hest", "hf", "--project", tmp_path).code == 2
