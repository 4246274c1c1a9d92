"""Which devices a step computes on."""

from __future__ import annotations

import re

import torch

from .errors import UsageError

WORD = re.compile(r"auto|cpu|cuda(:\d+)?")


def devices_of(name: str) -> list[torch.device]:
    """The devices of `--device`: auto takes every CUDA device there is, else the CPU; several stand between commas.

    Raises UsageError for another word, and for a CUDA device that is not there.
    """
    devices = []
    for word in name.split(","):
        if not WORD.fullmatch(word):
            raise UsageError(f"there is no device {word!r}", "Say --device auto, cpu, cuda or cuda:0,cuda:1.")
        count = torch.cuda.device_count() if word != "cpu" else 0
        index = int(word.partition(":")[2] or 0)
        if word.startswith("cuda") and index >= count:
            raise UsageError(
                f"there is no CUDA device {index} here" if count else "there is no CUDA device here",
                "Leave out --device, or say --device cpu.",
            )
        if word in ("auto", "cuda") and count:
            devices += [torch.device("cuda", number) for number in range(count)]
        else:
            devices.append(torch.device("cuda", index) if word.startswith("cuda") else torch.device("cpu"))
    return devices


def device_of(name: str) -> torch.device:
    """The one device of a step that uses one: the first."""
    return devices_of(name)[0]
