"""How far bf16 and fp16 embeddings are from fp32 ones on real tiles, and how much faster they are made."""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import perf_counter

import numpy as np
import torch
from material import encoder_words, prepared, slide_words, specified

from ds2c_cli.device import device_of
from ds2c_cli.encoders.encoder import Encoder
from ds2c_cli.encoders.preprocessing import pack, resize
from ds2c_cli.encoders.specification import PRECISIONS
from ds2c_cli.io.slides import blocks_of, crop_block, open_slide
from ds2c_cli.project import Sample

EXACT, STORED = "fp32", "fp32 in the cache"


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = device_of(options.device)
    with prepared(options.slide, options.cells, options.mpp) as project:
        (sample,) = project.samples()
        tiles = some_tiles(sample, options.tiles)
        encoders = {}
        for precision in PRECISIONS:
            with specified(options, precision) as one:
                encoders[precision] = Encoder(one, device, batch_size=options.batch_size)
        vectors, rates = embedded(tiles, encoders, device)
    vectors[STORED] = vectors[EXACT].astype(np.float16).astype(np.float32)
    centre = vectors[EXACT].mean(0)
    result = {
        "slide": str(options.slide),
        "encoder": options.encoder,
        "random_weights": options.random_weights,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} cores",
        "tiles": len(tiles),
        "speed": rates,
        "cosine": {
            precision: {
                "raw": spread(cosine(vectors[EXACT], values)),
                "centred": spread(cosine(vectors[EXACT] - centre, values - centre)),
            }
            for precision, values in vectors.items()
            if precision != EXACT
        },
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


def arguments() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    slide_words(parser)
    encoder_words(parser)
    parser.add_argument("--tiles", type=int, default=2000, help="tiles of cells, drawn at random (2000)")
    parser.add_argument("--batch-size", type=int, default=32, help="tiles encoded at once (32)")
    return parser.parse_args()


def some_tiles(sample: Sample, count: int) -> list[np.ndarray]:
    """The crops (side, side, 3) of some cells."""
    boxes = sample.cell_boxes()
    boxes = boxes[np.sort(np.random.default_rng(0).permutation(len(boxes))[:count])]
    slide = open_slide(sample.slide)
    return [crop.copy() for rows in blocks_of(boxes) for crop in crop_block(slide, boxes[rows])]


@torch.inference_mode()
def embedded(
    tiles: list[np.ndarray], encoders: dict[str, Encoder], device: torch.device
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Vectors (n, dimension) of each precision from the same pixels, and its speed relative to fp32.

    The precisions take turns batch by batch; the speed is the median over the batches.
    """
    size = encoders[EXACT].batch_size
    preprocessing = encoders[EXACT].specification.preprocessing
    vectors: dict[str, list[torch.Tensor]] = {precision: [] for precision in encoders}
    faster: dict[str, list[float]] = {precision: [] for precision in encoders}
    for start in range(0, len(tiles), size):
        pixels = resize(pack(tiles[start : start + size]).to(device), preprocessing)
        seconds = {}
        for precision, encoder in encoders.items():
            began = perf_counter()
            vectors[precision].append(encoder.encode(pixels).cpu())  # which waits for the device
            seconds[precision] = perf_counter() - began
        if start:  # the first time everything is slower
            for precision, value in seconds.items():
                faster[precision].append(seconds[EXACT] / value)
    return (
        {precision: torch.cat(parts).numpy() for precision, parts in vectors.items()},
        {precision: median(values) for precision, values in faster.items()},
    )


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine similarities (n,) of the rows of two matrices (n, dimension), in float64."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and worst."""
    return {"median": float(np.median(values)), "worst": float(values.min())}


def print_table(result: dict) -> None:
    """A row a precision."""
    doubt = "; RANDOM WEIGHTS, no pathology model" if result["random_weights"] else ""
    print(f"{result['encoder']}, {result['device']}: {result['tiles']:,} tiles of {result['slide']}{doubt}")
    heads = ("cosine with fp32", "median", "worst", "less the mean tile", "worst", "speed")
    print("  {:<20} {:>10} {:>10} {:>20} {:>10} {:>7}".format(*heads))
    for precision, found in result["cosine"].items():
        figures = [found[kind][which] for kind in ("raw", "centred") for which in ("median", "worst")]
        speed = f"{result['speed'][precision]:.2f}" if precision in result["speed"] else ""
        numbers = " ".join(f"{value:>{width}.6f}" for value, width in zip(figures, (10, 10, 20, 10), strict=True))
        print(f"  {precision:<20} {numbers} {speed:>7}")


if __name__ == "__main__":
    main()
