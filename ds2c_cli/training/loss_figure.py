"""The figure of a training: its loss by epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..files import replacing


def draw_loss(path: Path, history: np.ndarray, *, best: int, title: str) -> None:
    """Draw the loss by epoch as a PNG.

    Args:
        path: the PNG.
        history: (epochs, 2) loss of the spots learned from and of the held-out ones.
        best: the epoch, from 0, whose weights were kept.
        title: the checkpoint's name.
    """
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
