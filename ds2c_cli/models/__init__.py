"""The models that can be trained, by the name the user types."""

from __future__ import annotations

from .additive import Additive, CellSupervised
from .base import SpotModel
from .deepsets import Paper
from .mlp import Mlp

MODELS: dict[str, type[SpotModel]] = {
    "additive": Additive,
    "paper": Paper,
    "mlp": Mlp,
    "cell-supervised": CellSupervised,
}
