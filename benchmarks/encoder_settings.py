"""What batch size, channels_last and torch.compile change in an encoder's speed on tiles that are on the device."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from material import encoder_words, precision_word, specified
from torch import nn

from ds2c_cli.device import device_of
from ds2c_cli.encoders.encoder import build
from ds2c_cli.encoders.specification import PRECISIONS, Specification

STANDARD = "channels_last, batches of 32"


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = device_of(options.device)
    with specified(options, options.precision) as specification:
        plain = build(specification).to(device)
        ways = settings(plain, specification, device, options.batch_sizes)
        if options.compile:
            compiled = torch.compile(copy.deepcopy(plain).to(memory_format=torch.channels_last))
            ways["torch.compile, batches of 32"] = way(compiled, specification, device, 32, torch.channels_last)
        first, rates = measured(ways, options.tiles, options.repeats)
    ratios = {
        name: median(a / b for a, b in zip(values, rates[STANDARD], strict=True)) for name, values in rates.items()
    }
    result = {
        "encoder": options.encoder,
        "precision": specification.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} cores",
        "first_seconds": first,
        "tiles_per_second": {name: median(values) for name, values in rates.items()},
        "ratios": ratios,
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


def arguments() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    encoder_words(parser)
    precision_word(parser)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64], help="to compare with 32")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which needs a C++ compiler")
    parser.add_argument("--tiles", type=int, default=64, help="tiles a measurement (64)")
    parser.add_argument("--repeats", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


def settings(
    plain: nn.Module, specification: Specification, device: torch.device, sizes: list[int]
) -> dict[str, Callable[[int], None]]:
    """Each setting by name; a call encodes so many tiles."""
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    ways = {
        f"channels_last, batches of {size}": way(last, specification, device, size, torch.channels_last)
        for size in sorted({*sizes, 32})
    }
    ways["contiguous, batches of 32"] = way(plain, specification, device, 32, torch.contiguous_format)
    return ways


def way(
    network: Callable, specification: Specification, device: torch.device, size: int, order: torch.memory_format
) -> Callable[[int], None]:
    """A call that encodes so many normalised tiles in batches of this size."""
    side, kind = specification.preprocessing.tile_px, PRECISIONS[specification.precision]
    pixels = torch.randn((size, 3, side, side), device=device).contiguous(memory_format=order)

    @torch.inference_mode()
    def encode(tiles: int) -> None:
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            for _ in range(0, tiles, size):
                network(pixels)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return encode


def measured(
    ways: dict[str, Callable[[int], None]], tiles: int, repeats: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of the first batch of each, which compiles, and tiles per second of every round; the ways take turns."""
    first, rates = {}, {name: list[float]() for name in ways}
    for name, encode in ways.items():
        began = perf_counter()
        encode(1)
        first[name] = perf_counter() - began
    for _ in range(repeats):
        for name, encode in ways.items():
            began = perf_counter()
            encode(tiles)
            rates[name].append(tiles / (perf_counter() - began))
    return first, rates


def print_table(result: dict) -> None:
    """A row a setting."""
    print(f"{result['encoder']}, {result['precision']}, {result['device']}")
    print(f"  {'':<34} {'tiles/s':>9} {'ratio':>7} {'first batch, s':>15}")
    for name, rate in result["tiles_per_second"].items():
        print(f"  {name:<34} {rate:>9,.1f} {result['ratios'][name]:>7.2f} {result['first_seconds'][name]:>15.1f}")


if __name__ == "__main__":
    main()
