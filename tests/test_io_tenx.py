"""10x feature-barcode matrices: every generation gives the counts that scanpy reads, and each gene has one name."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scanpy
from scipy import sparse
from scipy.io import mmwrite

from ds2c_cli.errors import InputError
from ds2c_cli.io.counts import read_counts
from ds2c_cli.project import Project
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

BARCODES = ["AAACAAGTATCTCCCA-1", "AAACACCAATAACTGC-1", "AAACAGAGCGACTCCT-1"]
IDS = ["ENSG01", "ENSG02", "ENSG03", "ENSG04", "CD3", "NegControlProbe_00042"]
NAMES = ["EPCAM", "TBCE", "KRT8", "TBCE", "CD3_antibody", "NegControlProbe_00042"]
TYPES = ["Gene Expression"] * 4 + ["Antibody Capture", "Negative Control Probe"]
MATRIX = np.array([[0, 3, 0, 1, 9, 0], [0, 0, 0, 0, 5, 1], [7, 0, 2, 70_000, 0, 2]])  # barcodes x features


def write_h5(path: Path, matrix: np.ndarray = MATRIX, dtype: str = "<i4") -> Path:
    """Cell Ranger 3 and later, Space Ranger and Xenium: one group `matrix`, features x barcodes by column."""
    columns = sparse.csc_matrix(matrix.T)
    with h5py.File(path, "w") as file:
        file.attrs["filetype"] = "matrix"
        group = file.create_group("matrix")
        write_columns(group, columns, dtype)
        features = group.create_group("features")
        for name, values in (("id", IDS), ("name", NAMES), ("feature_type", TYPES), ("genome", ["GRCh38"] * len(IDS))):
            features.create_dataset(name, data=np.array(values, "S"), compression="gzip")
        features.create_dataset("_all_tag_keys", data=np.array(["genome"], "S"))
    return path


def write_old_h5(path: Path, genomes: tuple[str, ...] = ("GRCh38",)) -> Path:
    """Cell Ranger 2: a group a genome, without feature types."""
    with h5py.File(path, "w") as file:
        for genome in genomes:
            group = file.create_group(genome)
            write_columns(group, sparse.csc_matrix(MATRIX[:, :4].T), "<i4")
            group.create_dataset("genes", data=np.array(IDS[:4], "S"))
            group.create_dataset("gene_names", data=np.array(NAMES[:4], "S"))
    return path


def write_columns(group: h5py.Group, columns: sparse.csc_matrix, dtype: str) -> None:
    group.create_dataset("barcodes", data=np.array(BARCODES, "S18"), compression="gzip")
    group.create_dataset("data", data=columns.data.astype(dtype), compression="gzip", chunks=True)
    group.create_dataset("indices", data=columns.indices.astype("<i8"), compression="gzip", chunks=True)
    group.create_dataset("indptr", data=columns.indptr.astype("<i8"), compression="gzip", chunks=True)
    group.create_dataset("shape", data=np.array(columns.shape, "<i4"))


def write_mtx(folder: Path, prefix: str = "") -> Path:
    """Cell Ranger 3 and later: three packed files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}matrix.mtx"
    mmwrite(path, sparse.coo_matrix(MATRIX.T), field="integer")
    path.with_suffix(".mtx.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    lines = ["\t".join(row) for row in zip(IDS, NAMES, TYPES, strict=True)]
    for name, text in (("features", lines), ("barcodes", BARCODES)):
        (folder / f"{prefix}{name}.tsv.gz").write_bytes(gzip.compress(("\n".join(text) + "\n").encode()))
    return path.with_suffix(".mtx.gz")


def write_old_mtx(folder: Path) -> Path:
    """Cell Ranger 2: plain files, and genes.tsv of two columns."""
    folder.mkdir(parents=True)
    mmwrite(folder / "matrix.mtx", sparse.coo_matrix(MATRIX[:, :4].T), field="integer")
    (folder / "genes.tsv").write_text("".join(f"{i}\t{name}\n" for i, name in zip(IDS[:4], NAMES[:4], strict=True)))
    (folder / "barcodes.tsv").write_text("".join(f"{barcode}\n" for barcode in BARCODES))
    return folder / "matrix.mtx"


WRITERS = {
    "v3.h5": write_h5,
    "floats.h5": lambda path: write_h5(path, dtype="<f4"),
    "v2.h5": write_old_h5,
    "v3": write_mtx,
    "v2": write_old_mtx,
    "geo": lambda path: write_mtx(path, "GSM123_"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_generation_gives_the_counts_of_the_genes(name: str, tmp_path: Path) -> None:
    counts = read_counts(WRITERS[name](tmp_path / name))
    assert counts.ids.tolist() == BARCODES
    assert counts.genes.tolist() == ["EPCAM", "ENSG02", "KRT8", "ENSG04"]
    np.testing.assert_array_equal(counts.matrix.toarray(), MATRIX[:, :4])
    assert counts.matrix.dtype == np.int32
    assert "2 genes share a symbol and keep their ids (TBCE)" in counts.note
    assert ("left out 1 of Antibody Capture, 1 of Negative Control Probe" in counts.note) == ("v2" not in name)


@pytest.mark.parametrize("name", ["v3.h5", "v2.h5", "v3", "v2"])
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_scanpy_reads_the_same(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    theirs = scanpy.read_10x_h5(path) if name.endswith(".h5") else scanpy.read_10x_mtx(path.parent)
    ours = read_counts(path)
    assert ours.ids.tolist() == theirs.obs_names.tolist()
    np.testing.assert_array_equal(ours.matrix.toarray(), theirs.X.toarray()[:, :4])
    assert theirs.var["gene_ids"].tolist()[1::2][:2] == [ours.genes[1], ours.genes[3]]


def test_a_file_of_two_genomes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="groups GRCh38, mm10"):
        read_counts(write_old_h5(tmp_path / "both.h5", ("GRCh38", "mm10")))


def test_what_is_no_count_is_named(tmp_path: Path) -> None:
    wrong = MATRIX.copy()
    wrong[2, 2] = -1
    with pytest.raises(InputError, match="gene KRT8 in AAACAGAGCGACTCCT-1, row 3, is -1"):
        read_counts(write_h5(tmp_path / "wrong.h5", wrong))


def test_another_hdf5_is_no_matrix(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(InputError, match=r"other\.h5 cannot be read as a feature-barcode matrix"):
        read_counts(tmp_path / "other.h5")
    (tmp_path / "cut.h5").write_bytes(write_h5(tmp_path / "whole.h5").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.h5 cannot be read as a feature-barcode matrix"):
        read_counts(tmp_path / "cut.h5")


def test_a_matrix_whose_index_leaves_it_is_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "broken.h5")
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][0] = 99
    with pytest.raises(InputError, match=r"broken\.h5 cannot be read"):
        read_counts(path)


def test_the_lists_of_a_matrix_market_folder_must_be_there_and_fit(tmp_path: Path) -> None:
    path = write_mtx(tmp_path)
    (tmp_path / "barcodes.tsv.gz").write_bytes(gzip.compress(b"AAACAAGTATCTCCCA-1\n"))
    with pytest.raises(InputError, match="6 features and 3 barcodes, its lists 6 and 1"):
        read_counts(path)
    (tmp_path / "features.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"has no features\.tsv or features\.tsv\.gz"):
        read_counts(path)


def test_a_matrix_without_genes_is_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "antibodies.h5")
    with h5py.File(path, "r+") as file:
        file["matrix/features/feature_type"][:] = b"Antibody Capt"
    with pytest.raises(InputError, match="no features of type Gene Expression"):
        read_counts(path)


def test_prepare_takes_a_cell_feature_matrix_and_says_what_it_left_out(painted: Path, tmp_path: Path) -> None:
    source = painted / "one"
    truth = read_counts(source / "cell_counts.h5ad")
    columns = sparse.csc_matrix(truth.matrix.T)
    with h5py.File(tmp_path / "cell_feature_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(columns, name)
        group["barcodes"] = np.array(truth.ids.tolist(), "S")
        kinds = ["Gene Expression"] * (len(truth.genes) - 1) + ["Unassigned Codeword"]
        for name, values in (("id", truth.genes), ("name", truth.genes), ("feature_type", kinds)):
            group[f"features/{name}"] = np.array(list(values), "S")
    sources = Sources(source / "slide.tif", str(source / "cells.parquet"), tmp_path / "cell_feature_matrix.h5")
    done = prepare(Project(tmp_path / "project"), sources, geometry=Geometry(membership="centroid"))
    assert done.n_genes == len(truth.genes) - 1
    assert any("left out 1 of Unassigned Codeword" in warning for warning in done.warnings)
