"""Scores of one sample, counted whole however many pieces it comes in."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made import checkpoint_info
from scipy import sparse

from ds2c_cli.evaluation import metrics
from ds2c_cli.evaluation.scoring import score
from ds2c_cli.prediction import inference
from ds2c_cli.prediction.inference import PredictedCells

GENES = ["A", "B", "C"]
INFO = checkpoint_info(genes=list(GENES))
SPOTS, EACH = 12, 8


class Sample(SimpleNamespace):
    """A prepared sample of 12 spots with eight cells each; the last two cells of the last spot are outside."""

    def __init__(self, genes=GENES, empty=()):
        spot = np.repeat(np.arange(SPOTS), EACH)
        inside = np.arange(SPOTS * EACH) < SPOTS * EACH - 2
        counts = np.random.default_rng(0).poisson(3, (SPOTS * EACH, len(genes)))
        counts[np.isin(spot, list(empty))] = 0
        of_spot = np.stack([counts[(spot == s) & inside].sum(0) for s in range(SPOTS)])
        places = np.column_stack([np.arange(SPOTS * EACH) * 10.0, np.zeros(SPOTS * EACH)])
        super().__init__(
            name="a", mpp=1.0, has_cell_truth=True, has_spot_counts=True,
            cells=pd.DataFrame({"spot": spot, "inside": inside, "x": places[:, 0], "y": 0.0, "area_um2": 50.0}),
            spots=pd.DataFrame({"x": np.arange(SPOTS) * 80.0, "y": 0.0}),
            cell_counts=lambda: table(counts, genes), spot_counts=lambda: table(of_spot, genes),
        )  # fmt: skip


def table(counts, genes):
    return SimpleNamespace(matrix=sparse.csr_matrix(counts), genes=np.array(genes), ids=np.arange(len(counts)))


def pieces(sample, number):
    """Random predictions in so many pieces."""
    spot, inside = sample.cells["spot"].to_numpy(), sample.cells["inside"].to_numpy()
    rates = np.random.default_rng(1).uniform(1, 2, (len(spot), len(GENES))).astype(np.float32)
    for spots in np.array_split(np.arange(SPOTS), number):
        rows = np.flatnonzero(np.isin(spot, spots))
        yield PredictedCells(spots, rows, spot[rows], inside[rows], share_log=np.log1p(rates[rows]), share=rates[rows])


def scored(sample, number):
    predictions = list(pieces(sample, number))
    return score(INFO, predictions, sample=sample, scenario="OOS", label="additive", baselines=False)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 50)


def test_scores_do_not_depend_on_the_pieces_a_sample_comes_in():
    """OOS is of all cells, also of the pieces whose cells are all members."""
    whole, parts = (pd.DataFrame(scored(Sample(), number).rows) for number in (1, 6))
    assert {"OOS", "OOS_in", "OOS_out"} <= set(whole["scenario"])
    image = parts[(parts["model"] == "additive") & (parts["scenario"] == "OOS")]
    assert set(image["n_cells"]) == {SPOTS * EACH}
    pd.testing.assert_frame_equal(whole, parts, atol=1e-9)


def test_baselines_do_not_depend_on_how_many_cells_fit(monkeypatch):
    sample = Sample()
    values = []
    for at_once in (inference.CELLS_AT_ONCE, 1):
        monkeypatch.setattr(inference, "CELLS_AT_ONCE", at_once)
        predictions = list(pieces(sample, 3))
        found = score(INFO, predictions, sample=sample, scenario="OOS", label="additive", baselines=True)
        values.append([(row["model"], row["scenario"], row["n_cells"], row["value"]) for row in found.rows])
    assert {"even split", "area split"} < {row[0] for row in values[0]}
    for whole, in_parts in zip(*values, strict=True):
        assert whole[:3] == in_parts[:3]
        assert whole[3] == pytest.approx(in_parts[3], abs=1e-6, nan_ok=True)


def test_cells_left_out_are_counted_over_all_pieces():
    found = scored(Sample(empty=(0, 5)), 6)
    assert found.left_out == 2 * EACH
    assert found.warnings("a") == ["a: 16 cells have a spot without counts as context and are left out"]


def test_a_sample_that_shares_no_gene_has_no_score_and_says_so():
    found = scored(Sample(genes=["X", "Y", "Z"]), 2)
    assert found.rows == []
    assert found.resamples.shape == (0, 50)
    assert found.painted == []
    assert "nothing is scored" in found.warnings("a")[0]
