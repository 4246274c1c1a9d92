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


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes fit on the device, with as much again for what is computed from them."""
    if device.type != "cuda":
        return True
    torch.cuda.empty_cache()  # what an earlier training in this process has left behind is free
    return 2 * size < torch.cuda.mem_get_info(device)[0]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16, which then are several times as fast."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def device_of(name: str) -> torch.device:
    """The one device of a step that uses one: the first."""
    return devices_of(name)[0]
