"""Counts: every format gives the same matrix, and what is no count is refused by row and gene."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from ds2c_cli.errors import InputError
from ds2c_cli.io.counts import read_counts

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")

IDS, GENES = ["10x13", "007", "c"], ["EPCAM", "NA", "CD3E", "1-Mar"]
MATRIX = np.array([[0, 3, 0, 1], [0, 0, 0, 0], [7, 0, 2, 70_000]])


def frame(matrix: np.ndarray = MATRIX) -> pd.DataFrame:
    return pd.DataFrame(matrix, IDS, GENES)


def write_h5ad(path: Path, x: object, **layers: object) -> Path:
    shape = next(m for m in (x, *layers.values()) if m is not None).shape
    data = anndata.AnnData(x, shape=None if x is not None else shape)
    data.obs_names, data.var_names = IDS[: shape[0]], GENES[: shape[1]]
    data.layers.update(layers)
    data.write_h5ad(path)
    return path


WRITERS = {
    "counts.h5ad": lambda path: write_h5ad(path, sparse.csr_matrix(MATRIX.astype(np.float32))),
    "columns.h5ad": lambda path: write_h5ad(path, sparse.csc_matrix(MATRIX)),
    "dense.h5ad": lambda path: write_h5ad(path, MATRIX.astype(np.int64)),
    "layer.h5ad": lambda path: write_h5ad(path, np.log1p(MATRIX), counts=sparse.csr_matrix(MATRIX)),
    "scaled.h5ad": lambda path: write_h5ad(path, MATRIX - 5, counts=MATRIX),
    "no_x.h5ad": lambda path: write_h5ad(path, None, counts=MATRIX),
    "counts.csv": lambda path: frame().to_csv(path),
    "quoted.csv": lambda path: frame().to_csv(path, quoting=2),
    "whole_floats.csv": lambda path: frame().astype(float).to_csv(path),
    "counts.csv.gz": lambda path: frame().to_csv(path),
    "counts.tsv": lambda path: frame().to_csv(path, sep="\t"),
    "counts.tsv.gz": lambda path: frame().to_csv(path, sep="\t"),
    "index.parquet": lambda path: frame().to_parquet(path),
    "column.parquet": lambda path: frame().reset_index(names="spot").to_parquet(path),
    "bytes.parquet": lambda path: frame().set_index(pd.Index([i.encode() for i in IDS])).to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_counts(tmp_path, name):
    WRITERS[name](tmp_path / name)
    counts = read_counts(tmp_path / name)
    assert counts.ids.tolist() == IDS
    assert counts.genes.tolist() == GENES
    assert isinstance(counts.matrix, sparse.csr_matrix)
    assert counts.matrix.dtype == np.int32
    assert counts.matrix.toarray().tolist() == MATRIX.tolist()
    assert counts.matrix.nnz == np.count_nonzero(MATRIX)


@settings(max_examples=25, deadline=None)
@given(matrix=arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 2**31 - 1)))
def test_text_is_read_back_exactly(tmp_path_factory, matrix):
    path = tmp_path_factory.mktemp("counts") / "counts.tsv"
    pd.DataFrame(matrix).rename(index="s{}".format, columns="g{}".format).to_csv(path, sep="\t")
    assert read_counts(path).matrix.toarray().tolist() == matrix.tolist()


def test_a_text_longer_than_a_block_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("ds2c_cli.io.counts.BLOCK_BYTES", 256)
    matrix = np.random.default_rng(0).poisson(2, (200, 5))
    pd.DataFrame(matrix).rename(index="s{}".format, columns="g{}".format).to_csv(tmp_path / "counts.csv")
    counts = read_counts(tmp_path / "counts.csv")
    assert counts.ids.tolist() == [f"s{i}" for i in range(200)]
    assert counts.matrix.toarray().tolist() == matrix.tolist()


# What is refused


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.5, "is 0.5, not a whole number"),
        (-1.0, "is -1.0, a negative number"),
        (np.nan, "is nan, a missing value"),
        (np.inf, "is inf, more than 32 bits hold"),
        (2.0**31, "is 2147483648.0, more than 32 bits hold"),
    ],
)
@pytest.mark.parametrize("suffix", [".h5ad", ".parquet"])
def test_a_value_that_is_no_count_is_named(tmp_path, suffix, value, reason):
    matrix = MATRIX.astype(float)
    matrix[1, 2] = value
    path = tmp_path / f"counts{suffix}"
    write_h5ad(path, matrix) if suffix == ".h5ad" else frame(matrix).to_parquet(path)
    with pytest.raises(InputError) as error:
        read_counts(path)
    assert error.value.message == f"{path}: the count of gene CD3E in 007, row 2, {reason} (1 such values)"
    assert "Raw counts are needed" in error.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",A,B\ns1,1,2\ns2,3,4.5\n", "the count of gene B in s2, row 2, is 4.5, not a whole number"),
        (",A,B\ns1,1,-2\n", "the count of gene B in s1, row 1, is -2.0, a negative number"),
        (",A,B\ns1,1,\ns2,3,4\n", "B of row key s1, row 1, is '', not a finite number"),
        (",A,B\ns1,1,2\ns2,many,4\n", "A of row key s2, row 2, is 'many', not a finite number"),
        (",A,B\ns1,1,2\ns2,3\n", "cannot be read as a table of counts"),
        (",A,B\ns1,1,2\ns1,3,4\n", "has the same row key more than once: s1"),
        (",A,B\ns1,1,2\n,3,4\n", "row 2 of 2 has no id"),
        (",A,B,A\ns1,1,2,3\n", "has the same gene more than once: A"),
        (",A,\ns1,1,2\n", "has the same gene more than once"),
        (",A,B\n", "has no rows of counts"),
        ("id\ns1\n", "has no genes in its header"),
        ("id\tA\tB\ns1\t1\t2\n", "has no genes in its header"),
        ("", "has no genes in its header"),
    ],
)
def test_bad_text_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_counts(path)
    assert message in error.value.message
    assert str(path) in error.value.message
    assert error.value.hint


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_repeated_names_in_anndata_are_refused(tmp_path):
    data = anndata.AnnData(MATRIX.astype(np.float32))
    data.obs_names, data.var_names = IDS, ["A", "B", "A", "B"]
    data.write_h5ad(tmp_path / "genes.h5ad")
    with pytest.raises(InputError, match="has the same gene more than once: A, B"):
        read_counts(tmp_path / "genes.h5ad")
    data.obs_names, data.var_names = ["c1", "c2", "c1"], GENES
    data.write_h5ad(tmp_path / "ids.h5ad")
    with pytest.raises(InputError, match="has the same row key more than once: c1"):
        read_counts(tmp_path / "ids.h5ad")


def test_an_empty_anndata_and_one_without_counts_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no rows of counts"):
        read_counts(write_h5ad(tmp_path / "empty.h5ad", np.empty((0, 2), np.float32)))
    anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"])).write_h5ad(tmp_path / "no_x.h5ad")
    with pytest.raises(InputError, match="has neither X nor layers"):
        read_counts(tmp_path / "no_x.h5ad")


def test_parquet_without_ids_or_with_more_text_than_ids(tmp_path):
    path = tmp_path / "counts.parquet"
    frame().reset_index(drop=True).to_parquet(path)
    with pytest.raises(InputError, match="has no ids"):
        read_counts(path)
    frame().assign(tissue="lung").to_parquet(path)
    with pytest.raises(InputError, match="has columns that are not numbers: tissue"):
        read_counts(path)


@pytest.mark.parametrize("name", ["counts.h5ad", "counts.tsv.gz", "index.parquet"])
def test_a_file_cut_short_is_refused(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cannot be read as"):
        read_counts(path)


@pytest.mark.filterwarnings("ignore:Element")
def test_files_that_are_something_else(tmp_path):
    (tmp_path / "counts.h5ad").write_bytes(gzip.compress(b"not HDF5"))
    with pytest.raises(InputError, match="cannot be read as AnnData"):
        read_counts(tmp_path / "counts.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = MATRIX
    with pytest.raises(InputError):
        read_counts(tmp_path / "other.h5ad")
    (tmp_path / "counts.loom").write_bytes(b"")
    with pytest.raises(InputError, match="has a suffix that counts are not read from"):
        read_counts(tmp_path / "counts.loom")


# Real counts


@needs_data
@pytest.mark.parametrize(
    ("name", "shape", "first"),
    [
        ("her2st/C2/counts.tsv.gz", (187, 15_706), "10x21"),
        ("mouse_olfactory_bulb/MOB1.tsv.gz", (1_934, 1_000), "10x10"),
        ("pancreas/P1/cell_counts.h5ad", (41_494, 377), "bbebjedl-1"),
        ("hest_ncbi858/NCBI858.h5ad", (200, 338), "aaaaaomh-1"),
    ],
)
def test_real_counts(name, shape, first):
    counts = read_counts(SHARED / name)
    assert counts.matrix.shape == shape
    assert counts.ids[0] == first
    assert counts.matrix.data.min() > 0
