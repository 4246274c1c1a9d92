"""The optimiser's loop: a model is fitted to labels of spots, or of cells, and its loss drawn."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import sparse
from torch.optim.swa_utils import AveragedModel

from ..device import has_room, multiplies_bfloat16
from ..errors import InputError
from ..expression import log_share
from ..files import replacing
from ..models import SpotModel
from ..models.base import Measured
from ..progress import Progress, silent
from ..settings import Training
from .dataset import Bags


@dataclass
class Labels:
    """What is learned: the spots' expression; for the ceiling also their cells' counts."""

    spots: Measured  # NaN rows where the spot has no counts
    cells: sparse.csr_matrix | None = None  # (C, G) raw counts, in the order of the bags' cells


def fit(
    model: SpotModel,
    bags: Bags,
    labels: Labels,
    learn: np.ndarray,
    stop: np.ndarray,
    settings: Training,
    device: torch.device,
    progress: Progress = silent,
) -> np.ndarray:
    """Train in place, Adam on the model's loss; ends with the best weights on `stop`.

    All embeddings and labels are kept on the device where they fit, else those of a batch are sent there. With mixed
    precision the layers' products are of bfloat16 while learning; weights, losses and what is judged on `stop` are of
    single precision.
    Returns the loss on `learn` and on `stop` of every epoch: (epochs, 2).
    """
    model.to(device)
    if has_room(device, bags.size):
        bags = bags.to(device)
    mixed = uses_mixed_precision(settings, device)
    measured = labels.spots.to(device) if has_room(device, labels.spots.log.nbytes) else labels.spots
    # No epoch is spent on finding every gene's mean.
    model.start_at(measured.at(torch.from_numpy(learn)), _cells_a_spot(bags, learn))
    optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
    average = AveragedModel(model, avg_fn=_moving_average(model.averaged))
    judged = cast(SpotModel, average.module)
    generator = torch.Generator().manual_seed(settings.seed)
    size = _spots_a_batch(bags, labels, learn, settings)
    best, best_state, history = float("inf"), model.state_dict(), []
    began = time.perf_counter()
    for epoch in range(settings.epochs):
        model.train()
        learned = one_pass(
            model, bags, labels, measured, torch.from_numpy(learn), size, generator, optimiser, average, mixed
        )
        judged.eval()
        with torch.inference_mode():
            stopped = one_pass(judged, bags, labels, measured, torch.from_numpy(stop), size)
        history.append((learned, stopped))
        if not np.isfinite(stopped):
            raise InputError("the loss is not a number any more", "Lower --learning-rate.")
        if stopped < best:
            best, best_state = stopped, copy.deepcopy(judged.state_dict())
        since_best = epoch - int(np.argmin([s for _, s in history]))
        rate = (epoch + 1) / (time.perf_counter() - began)
        progress(
            "train", epoch + 1, settings.epochs, f"loss {learned:.4f}, held out {stopped:.4f}, {rate:.1f} epochs/s"
        )
        if since_best >= settings.patience:
            facts = f"stopped early after {epoch + 1} epochs, {rate:.1f} epochs/s"
            progress(f"train {settings.model}", settings.epochs, settings.epochs, facts)
            break
    model.load_state_dict(best_state)
    model.eval()
    parts = torch.from_numpy(stop).to(bags.tiles.device).split(size)
    model.settle((bags.batch(rows).to(device), measured.at(rows).to(device)) for rows in parts)
    model.to("cpu")
    return np.array(history)


def one_pass(
    model: SpotModel,
    bags: Bags,
    labels: Labels,
    measured: Measured,
    spots: torch.Tensor,
    size: int,
    generator: torch.Generator | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    average: AveragedModel | None = None,
    mixed: bool = False,
) -> float:
    """Once over the spots, learning where there is an optimiser: the mean loss."""
    order = spots[torch.randperm(len(spots), generator=generator)] if generator else spots
    total, number = 0.0, 0
    device = next(model.parameters()).device
    for rows in order.to(bags.tiles.device).split(size):
        bag = bags.batch(rows).to(device)
        found = measured.at(rows).to(device)
        if labels.cells is not None:
            cells, spot_of = bags.cell_index(rows)
            found = _of_cells(labels.cells, cells, found.at(spot_of.to(device)))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):  # left at every step: it keeps cast weights
            loss = model.loss(bag, found)
        weight = len(found.log)
        if optimiser is not None:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if average is not None:
            average.update_parameters(model)
        total, number = total + float(loss.detach()) * weight, number + weight
    return total / max(number, 1)


def uses_mixed_precision(settings: Training, device: torch.device) -> bool:
    """What the settings say of the device, which by default is asked itself."""
    return settings.mixed_precision == "on" or (settings.mixed_precision == "auto" and multiplies_bfloat16(device))


def _moving_average(steps: int) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int], torch.Tensor]:
    """Of the first steps the mean, then the exponential moving average over so many."""
    return lambda mean, value, number: mean.lerp(value, max(1 / steps, 1 / (int(number) + 1)))


def _of_cells(counts: sparse.csr_matrix, cells: torch.Tensor, spots: Measured) -> Measured:
    """The same of single cells (rows of the counts), each as a share of its spot."""
    share = log_share(counts[cells.cpu().numpy()].toarray(), spots.total[:, 0].cpu().numpy())
    return replace(spots, log=torch.from_numpy(share).to(spots.log.device))


def _cells_a_spot(bags: Bags, spots: np.ndarray) -> float:
    return float((bags.start[spots + 1] - bags.start[spots]).float().mean())


def _spots_a_batch(bags: Bags, labels: Labels, learn: np.ndarray, settings: Training) -> int:
    """The paper's 256 spots; as many cells where single cells are the labels."""
    if labels.cells is None:
        return settings.batch_spots
    return max(1, round(settings.batch_spots / _cells_a_spot(bags, learn)))


def draw_loss(path: Path, history: np.ndarray, best: int, title: str) -> None:
    """A PNG of the loss by epoch."""
    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, len(history) + 1)
    axes.plot(epochs, history[:, 0], label="training spots", color="#0057b8")
    axes.plot(epochs, history[:, 1], label="held-out spots", color="#d95f02", linestyle="--")
    axes.axvline(best + 1, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel="epoch", ylabel="loss", title=f"{title}: best epoch {best + 1}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as part:
        figure.savefig(part, format="png")
