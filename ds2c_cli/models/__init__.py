"""The models that can be trained, by the name the user types."""

from __future__ import annotations

from .additive import Additive
from .base import SpotModel
from .deepsets import CellSupervised, Paper
from .mlp import Mlp

MODELS: dict[str, type[SpotModel]] = {
    "additive": Additive,
    "paper": Paper,
    "mlp": Mlp,
    "cell-supervised": CellSupervised,
}
