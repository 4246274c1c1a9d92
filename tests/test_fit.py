"""The optimiser's loop: what is kept, and that spots alone teach an additive model its cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ds2c_cli.expression import log_share
from ds2c_cli.models import MODELS
from ds2c_cli.models.base import SpotLabels
from ds2c_cli.settings import Training
from ds2c_cli.training.checkpoint import build_model
from ds2c_cli.training.dataset import SpotDataset
from ds2c_cli.training.fit import _moving_average, fit, uses_mixed_precision
from ds2c_cli.training.labels import Labels

PROFILES = np.array([[60, 2, 0.5, 20, 5, 1], [1, 30, 0.5, 2, 5, 20]])  # counts of a cell of each kind


@pytest.fixture
def mixed():
    """240 spots of two samples, the second sequenced three times as deep, of six cells each of two kinds.

    Returns dataset, what was measured of their spots, and each cell's kind.
    """
    random = np.random.default_rng(0)
    spots, each = 240, 6
    kind = (random.random(spots * each) < np.repeat(random.beta(1, 1, spots), each)).astype(int)
    sample = np.repeat([0, 1], spots // 2)
    counts = random.poisson(PROFILES[kind] * np.repeat(np.where(sample, 3, 1), each)[:, None])
    counts = counts.reshape(spots, each, -1).sum(1)
    cells = np.column_stack([2 * kind - 1, random.normal(size=(len(kind), 2))]) + 0.1 * random.normal(
        size=(len(kind), 3)
    )
    dataset = SpotDataset(
        cells=torch.from_numpy(cells.astype(np.float32)),
        area=torch.ones(len(kind)),
        inside=torch.ones(len(kind), dtype=torch.bool),
        start=torch.arange(0, spots * each + 1, each),
        tiles=torch.zeros(spots, 3),
        around=torch.full((spots, 1), -1),
        cell_row=np.arange(len(kind)),
        sample=sample,
    )
    total = counts.sum(1, dtype=float)
    depth = np.array([np.median(total[sample == s]) for s in (0, 1)])[sample]
    as_column = (torch.from_numpy(values.astype(np.float32)).unsqueeze(1) for values in (total, depth))
    return dataset, SpotLabels(torch.from_numpy(counts.astype(np.float32)), *as_column), kind


def learn(model, dataset, measured, settings):
    """Fit to five of six spots, and stop on the others."""
    rows = np.arange(dataset.n_spots)
    learned, stop = rows[rows % 6 > 0], rows[rows % 6 == 0]
    device = torch.device("cpu")
    return fit(model, dataset, labels=Labels(measured), learn=learned, stop=stop, settings=settings, device=device)


def fitted(dataset, measured, epochs=60):
    torch.manual_seed(0)
    model = MODELS["additive"](3, PROFILES.shape[1], hidden=16, dropout=0.0)
    settings = Training(model="additive", learning_rate=5e-3, batch_spots=32, epochs=epochs, patience=100)
    return model, learn(model, dataset, measured, settings)


def test_spots_alone_teach_the_additive_model_its_cells(mixed):
    dataset, measured, kind = mixed
    model, history = fitted(dataset, measured)
    with torch.no_grad():
        rates = model.rates(dataset.batch(torch.arange(dataset.n_spots))).numpy()
    found = np.stack([rates[kind == k].mean(0) for k in (0, 1)])
    # Relative to the depth of its sample, a spot's counts are those of its cells whichever the sample.
    scale = PROFILES.sum() / found.sum()
    np.testing.assert_allclose(found * scale, PROFILES, rtol=0.25, atol=0.5)
    assert history[-1, 1] < history[0, 1]


def test_what_is_kept_is_what_was_best_on_held_out_spots(mixed):
    dataset, measured, _ = mixed
    model, history = fitted(dataset, measured, epochs=10)
    held = torch.arange(0, dataset.n_spots, 6)
    with torch.no_grad():
        losses = [model.loss(dataset.batch(rows), measured.at(rows)).item() * len(rows) for rows in held.split(32)]
    assert sum(losses) / len(held) == pytest.approx(history[:, 1].min(), rel=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        {"model": "additive"},
        {"model": "mlp"},
        {"model": "paper"},
        {"model": "paper", "pooling": "mean"},
        {"model": "paper", "pooling": "gru"},
    ],
)
def test_mixed_precision_learns_the_same(mixed, shape):
    dataset, measured, _ = mixed
    found = []
    for words in ("off", "on"):
        settings = Training(
            **shape, hidden=16, learning_rate=5e-3, batch_spots=32, epochs=15, patience=100, mixed_precision=words
        )
        torch.manual_seed(0)
        model = build_model(settings, dimension=3, genes=PROFILES.shape[1])
        history = learn(model, dataset, measured, settings)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        with torch.no_grad():
            found.append((history[:, 1], model.spot(dataset.batch(torch.arange(dataset.n_spots))).numpy()))
    (exact, exact_spots), (near, near_spots) = found
    assert not np.array_equal(exact, near)  # bfloat16 was at work
    assert near.min() < exact[0]  # and it learned
    assert np.corrcoef(exact_spots.ravel(), near_spots.ravel())[0, 1] > 0.99


def test_mixed_precision_is_asked_of_the_device(monkeypatch):
    cpu = torch.device("cpu")
    for there in (True, False):
        monkeypatch.setattr("ds2c_cli.training.fit.multiplies_bfloat16", lambda device, there=there: there)
        said = [uses_mixed_precision(Training(mixed_precision=words), cpu) for words in ("auto", "on", "off")]
        assert said == [there, True, False]


def test_a_device_without_room_for_all_is_sent_batches(mixed, monkeypatch):
    dataset, measured, _ = mixed
    _, history = fitted(dataset, measured, epochs=3)
    sizes = []
    monkeypatch.setattr("ds2c_cli.training.fit.has_room", lambda device, size: sizes.append(size))
    moved = []
    monkeypatch.setattr(SpotDataset, "to", lambda self, device: moved.append(device))
    sent, send = [], SpotLabels.to
    monkeypatch.setattr(SpotLabels, "to", lambda self, device: sent.append(len(self.counts)) or send(self, device))
    _, again = fitted(dataset, measured, epochs=3)
    assert sizes == [4 * 3 * (len(dataset.cells) + len(dataset.tiles)), measured.counts.nbytes]
    assert not moved
    assert max(sent) <= 32
    np.testing.assert_array_equal(history, again)


def test_the_average_of_weights():
    last, five = _moving_average(1), _moving_average(5)
    mean = value = torch.tensor(1.0)
    assert last(torch.tensor(7.0), torch.tensor(3.3), 9) == torch.tensor(3.3)
    for number, value in enumerate((2.0, 3.0, 4.0), 1):
        mean = five(mean, torch.tensor(value), number)
    assert mean.item() == pytest.approx(2.5)  # of the first steps the mean
    assert five(mean, torch.tensor(0.0), 100).item() == pytest.approx(2.0)  # then a fifth of the way each step


def test_the_log_is_that_of_counts_per_ten_thousand():
    counts = np.array([[3, 0, 7], [1, 1, 998]])
    total = counts.sum(1)
    column = torch.from_numpy(total.astype(np.float32)).unsqueeze(1)
    measured = SpotLabels(torch.from_numpy(counts.astype(np.float32)), column, torch.ones(2, 1))
    np.testing.assert_allclose(measured.log.numpy(), log_share(counts, total), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(measured.at(torch.tensor([1])).counts.numpy(), counts[1:], rtol=1e-5, atol=1e-5)
