"""The optimiser's loop: a model is fitted to labels of spots, or of cells."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from scipy import sparse
from torch.optim.swa_utils import AveragedModel

from ..device import has_room, multiplies_bfloat16
from ..errors import InputError
from ..models import SpotModel
from ..models.base import SpotLabels
from ..progress import Progress, silent
from ..settings import Training
from .dataset import SpotDataset
from .labels import Labels


def fit(
    model: SpotModel,
    dataset: SpotDataset,
    *,
    labels: Labels,
    learn: np.ndarray,
    stop: np.ndarray,
    settings: Training,
    device: torch.device,
    progress: Progress = silent,
) -> np.ndarray:
    """Train in place, Adam on the model's loss; ends with the best weights on `stop`.

    Embeddings and labels are kept on the device where they fit, else those of a batch are sent there. With mixed
    precision only the layers' products are of bfloat16, and only while learning.

    Args:
        model: with its first weights; it ends on the CPU.
        dataset: standardised.
        labels: of all spots of the dataset.
        learn: (n,) rows of spots to learn from.
        stop: (m,) rows of spots that stop the training.
        settings: complete, as `with_own_defaults` makes them.
        device: to train on.
        progress: told of every epoch.

    Returns: the loss on `learn` and on `stop` of every epoch, (epochs, 2).
    """
    model.to(device)
    dataset = dataset.to(device) if has_room(device, dataset.size) else dataset
    if has_room(device, labels.spots.counts.nbytes):
        labels = replace(labels, spots=labels.spots.to(device))
    learned_rows, stopped_rows = torch.from_numpy(learn), torch.from_numpy(stop)
    model.start_at(labels.spots.at(learned_rows), _cells_per_spot(dataset, learn))  # no epoch is spent on genes' means
    size = _spots_per_batch(dataset, labels, learn=learn, settings=settings)
    average = AveragedModel(model, avg_fn=_moving_average(model.averaged))
    judged = cast(SpotModel, average.module)
    learner = _learner(model, average, settings=settings, device=device)
    best, best_state, history = float("inf"), model.state_dict(), []
    began = time.perf_counter()
    for epoch in range(settings.epochs):
        learned = one_pass(model.train(), dataset, labels=labels, spots=learned_rows, size=size, learner=learner)
        with torch.inference_mode():
            stopped = one_pass(judged.eval(), dataset, labels=labels, spots=stopped_rows, size=size)
        history.append((learned, stopped))
        if not np.isfinite(stopped):
            raise InputError("the loss is not a number any more", "Lower --learning-rate.")
        if stopped < best:
            best, best_state = stopped, copy.deepcopy(judged.state_dict())
        facts = f"{(epoch + 1) / (time.perf_counter() - began):.1f} epochs/s"
        progress("train", epoch + 1, settings.epochs, f"loss {learned:.4f}, held out {stopped:.4f}, {facts}")
        if epoch - int(np.argmin([s for _, s in history])) >= settings.patience:
            facts = f"stopped early after {epoch + 1} epochs, {facts}"
            progress(f"train {settings.model}", settings.epochs, settings.epochs, facts)
            break
    model.load_state_dict(best_state)
    parts = stopped_rows.to(dataset.tiles.device).split(size)
    model.eval().settle((dataset.batch(rows).to(device), labels.spots.at(rows).to(device)) for rows in parts)
    model.to("cpu")
    return np.array(history)


@dataclass(frozen=True)
class Learner:
    """What learning takes beside a model and what it learns from."""

    optimiser: torch.optim.Optimizer
    generator: torch.Generator  # of the order of spots
    average: AveragedModel | None = None  # of the weights over the last steps
    mixed: bool = False  # whether products are of bfloat16


def _learner(model: SpotModel, average: AveragedModel, *, settings: Training, device: torch.device) -> Learner:
    optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(settings.seed)
    return Learner(optimiser, generator, average, uses_mixed_precision(settings, device))


def one_pass(
    model: SpotModel,
    dataset: SpotDataset,
    *,
    labels: Labels,
    spots: torch.Tensor,
    size: int,
    learner: Learner | None = None,
) -> float:
    """Go over the spots once, with a learner in an order of its own and a step per batch.

    Args:
        model: on the device that computes.
        dataset: standardised.
        labels: of all spots of the dataset.
        spots: (n,) rows.
        size: spots per batch.
        learner: none to judge the model as it is.

    Returns: the mean loss, of spots or of cells as the labels are.
    """
    order = spots[torch.randperm(len(spots), generator=learner.generator)] if learner else spots
    total, number = 0.0, 0
    device = next(model.parameters()).device
    for rows in order.to(dataset.tiles.device).split(size):
        batch = dataset.batch(rows).to(device)
        found = labels.spots.at(rows).to(device)
        if labels.cells is not None:
            cells, spot_of = dataset.cell_index(rows)
            found = _of_cells(labels.cells, cells, found.at(spot_of.to(device)))
        mixed = learner is not None and learner.mixed
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):  # left at every step: it keeps cast weights
            loss = model.loss(batch, found)
        if learner is not None:
            learner.optimiser.zero_grad()
            loss.backward()
            learner.optimiser.step()
            if learner.average is not None:
                learner.average.update_parameters(model)
        total, number = total + float(loss.detach()) * len(found.counts), number + len(found.counts)
    return total / max(number, 1)


def uses_mixed_precision(settings: Training, device: torch.device) -> bool:
    """What the settings say of the device, which by default is asked itself."""
    return settings.mixed_precision == "on" or (settings.mixed_precision == "auto" and multiplies_bfloat16(device))


def _moving_average(steps: int) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int], torch.Tensor]:
    """Of the first steps the mean, then the exponential moving average over so many."""
    return lambda mean, value, number: mean.lerp(value, max(1 / steps, 1 / (int(number) + 1)))


def _of_cells(counts: sparse.csr_matrix, cells: torch.Tensor, spots: SpotLabels) -> SpotLabels:
    """Put the counts of single cells (rows of `counts`) in place of those of their spots, whose totals stay."""
    rows = counts[cells.cpu().numpy()].toarray().astype(np.float32)
    return replace(spots, counts=torch.from_numpy(rows).to(spots.counts.device))


def _cells_per_spot(dataset: SpotDataset, spots: np.ndarray) -> float:
    return float((dataset.start[spots + 1] - dataset.start[spots]).float().mean())


def _spots_per_batch(dataset: SpotDataset, labels: Labels, *, learn: np.ndarray, settings: Training) -> int:
    """The paper's 256 spots; as many cells where single cells are the labels."""
    if labels.cells is None:
        return settings.batch_spots
    return max(1, round(settings.batch_spots / _cells_per_spot(dataset, learn)))
