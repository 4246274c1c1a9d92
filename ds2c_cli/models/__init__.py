"""The models that can be trained, by the name the user types."""

from __future__ import annotations

from .additive import Additive
from .base import SpotModel
from .cell_supervised import CellSupervised
from .deepsets import Paper
from .istar import Istar
from .mlp import Mlp
from .scstgcn import ScstGcn

__all__ = ["MODELS", "SpotModel"]

MODELS: dict[str, type[SpotModel]] = {
    "additive": Additive,
    "paper": Paper,
    "mlp": Mlp,
    "cell-supervised": CellSupervised,
    "istar": Istar,
    "scstgcn": ScstGcn,
}
