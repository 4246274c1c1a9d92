"""ds2c: virtual single-cell spatial transcriptomics from H&E, learned from spots; the public API, imported lazily."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .embeddings.embed import embed
    from .evaluation.evaluate import evaluate
    from .exporting.export import export
    from .plotting.plot import plot
    from .prediction.file import read_prediction
    from .prediction.predict import predict
    from .project import Project, Workspace
    from .samples.prepare import prepare
    from .samples.sources import Sources
    from .settings import Embedding, Geometry, Training
    from .training.train import train

__all__ = [
    "Embedding",
    "Geometry",
    "Project",
    "Sources",
    "Training",
    "Workspace",
    "embed",
    "evaluate",
    "export",
    "plot",
    "predict",
    "prepare",
    "read_prediction",
    "train",
]

# Where each name is defined: imported on its first use, so that the command line opens fast.
_HOME = {
    "Embedding": "settings",
    "Geometry": "settings",
    "Project": "project",
    "Sources": "samples.sources",
    "Training": "settings",
    "Workspace": "project",
    "embed": "embeddings.embed",
    "evaluate": "evaluation.evaluate",
    "export": "exporting.export",
    "plot": "plotting.plot",
    "predict": "prediction.predict",
    "prepare": "samples.prepare",
    "read_prediction": "prediction.file",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, whether used yet or not."""
    return sorted({*globals(), *__all__})
