"""Which device a step computes on."""

from __future__ import annotations

import torch

from .errors import UsageError


def device_of(name: str) -> torch.device:
    """The device of `--device`: auto takes CUDA where there is one.

    Raises UsageError for another word, and for cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"there is no device {name!r}", "Say --device auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", "Leave out --device, or say --device cpu.")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
