"""How close `ds2c embed` comes to its encoder's own speed, and how it compares with the published way."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from material import encoder_words, precision_word, prepared, slide_words, specified
from PIL import Image
from torch import nn
from torchvision import transforms

from ds2c_cli.cache.store import Cache, tile_keys
from ds2c_cli.device import device_of
from ds2c_cli.embeddings.pipeline import Spent, encode_blocks
from ds2c_cli.embeddings.tiles import Block
from ds2c_cli.encoders.encoder import Encoder, build
from ds2c_cli.encoders.specification import PRECISIONS, Specification
from ds2c_cli.io.slides import Slide, blocks_of, open_slide
from ds2c_cli.progress import silent
from ds2c_cli.project import Sample

WARM_SPOTS = 1


@dataclass(frozen=True)
class Round:
    """Tiles a second of the three ways, measured one after the other, and where the time of `embed` went."""

    encoder_only: float
    end_to_end: float
    published: float
    spent: Spent


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = device_of(options.device)
    with (
        prepared(options.slide, options.cells, options.mpp) as project,
        specified(options, options.precision) as specification,
    ):
        (sample,) = project.samples()
        encoder = Encoder(specification, device, batch_size=options.batch_size)
        network = build(specification).to(device)
        spots = tiles_by_spot(sample, options.tiles)
        with TemporaryDirectory(prefix="ds2c-benchmark-") as folder:
            measured(sample, spots[:WARM_SPOTS], encoder, network, Path(folder))
            rounds = [measured(sample, spots, encoder, network, Path(folder)) for _ in range(options.repeats)]
    result = summary(rounds)
    result |= {
        "slide": str(options.slide),
        "encoder": options.encoder,
        "precision": specification.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} cores",
        "tiles": rounds[0].spent.tiles,
        "spots": len(spots),
        "batch_size": encoder.batch_size,
        "repeats": len(rounds),
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
    precision_word(parser)
    parser.add_argument("--batch-size", type=int, default=0, help="tiles encoded at once; 0: as `ds2c embed` chooses")
    parser.add_argument("--tiles", type=int, default=160, help="about how many, of spots side by side; 0: all (160)")
    parser.add_argument("--repeats", type=int, default=7, help="how often each way is measured (7)")
    return parser.parse_args()


def tiles_by_spot(sample: Sample, tiles: int) -> list[np.ndarray]:
    """Boxes (1 + cells, 3) of whole spots, the spot's own first, that follow each other in reading order.

    They are taken from the middle of the slide until there are as many tiles as wanted.
    """
    spot_boxes, cell_boxes = sample.spot_boxes(), sample.cell_boxes()
    held = sample.cells.groupby("spot").indices
    order = [row for rows in blocks_of(spot_boxes) for row in rows if row in held]
    spots = [np.concatenate([spot_boxes[row : row + 1], cell_boxes[held[row]]]) for row in order]
    if not tiles:
        return spots
    spots = spots[len(spots) // 2 :] + spots[: len(spots) // 2]
    return spots[: int(np.searchsorted(np.cumsum([len(boxes) for boxes in spots]), tiles)) + 1]


def measured(sample: Sample, spots: Sequence[np.ndarray], encoder: Encoder, network: nn.Module, folder: Path) -> Round:
    """One round: the same tiles each way, side by side in time."""
    specification, device = encoder.specification, encoder.device
    boxes = np.unique(np.concatenate(spots), axis=0)
    slide = open_slide(sample.slide)
    alone = encoder_only(encoder, len(boxes))
    spent = end_to_end(sample, boxes, specification, device, encoder.batch_size)
    published = spot_by_spot(slide, spots, network, specification, device, folder)
    return Round(
        len(boxes) / alone,
        spent.tiles / spent.wall,
        sum(map(len, spots)) / published,
        spent,
    )


@torch.inference_mode()
def encoder_only(encoder: Encoder, tiles: int) -> float:
    """Seconds for so many tiles that are on the device already, resized."""
    side, size = encoder.specification.preprocessing.tile_px, encoder.batch_size
    pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, device=encoder.device)
    wait(encoder.device)
    began = perf_counter()
    for start in range(0, tiles, size):
        encoder.encode(pixels[: tiles - start])
    wait(encoder.device)
    return perf_counter() - began


def end_to_end(
    sample: Sample, boxes: np.ndarray, specification: Specification, device: torch.device, batch_size: int
) -> Spent:
    """`ds2c embed` from opening the slide to the published segment, into an empty cache; the model is loaded before."""
    keys = tile_keys(sample.slide_fingerprint, boxes, tile_px=specification.preprocessing.tile_px)
    blocks = [
        Block(
            sample=sample.name,
            slide=sample.slide,
            fingerprint=sample.slide_fingerprint,
            boxes=boxes[rows],
            keys=[keys[row] for row in rows],
            name=keys[rows[0]].hex(),
        )
        for rows in blocks_of(boxes)
    ]
    with TemporaryDirectory(prefix="ds2c-benchmark-") as folder:
        cache = Cache(Path(folder), specification.fingerprint, specification.recipe.dimension)
        spent = encode_blocks(blocks, specification, cache, devices=[device], batch_size=batch_size, progress=silent)
        if spent.tiles != len(boxes) or cache.missing(keys).any():
            raise SystemExit("not every tile was embedded")
    return spent


@torch.inference_mode()
def spot_by_spot(
    slide: Slide,
    spots: Sequence[np.ndarray],
    network: nn.Module,
    specification: Specification,
    device: torch.device,
    folder: Path,
) -> float:
    """Seconds for the published implementation's way, by the same network and precision.

    A read and a transform per tile; a batch of the cells of a spot, one of its own tile; one .npy per spot. It
    reads through this project's reader, as its own (pyvips) is not installed: a read per cell is equally fast in both.
    """
    transform = reference_transform(specification)
    kind = PRECISIONS[specification.precision]
    wait(device)
    began = perf_counter()
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        for number, boxes in enumerate(spots):
            tiles = [
                transform(Image.fromarray(slide.read(x, y, width=side, height=side))) for x, y, side in boxes.tolist()
            ]
            own = network(tiles[0][None].to(device)).float().cpu()
            cells = network(torch.stack(tiles[1:]).to(device)).float().cpu()
            np.save(folder / f"{number}.npy", torch.cat([own, cells]).numpy())
    return perf_counter() - began


def reference_transform(specification: Specification) -> transforms.Compose:
    """torchvision's transform of a PIL image that the encoder's preprocessing stands for."""
    of = specification.preprocessing
    target = of.resize_px or of.tile_px
    return transforms.Compose(
        [
            transforms.Resize((target, target), transforms.InterpolationMode(of.interpolation)),
            transforms.CenterCrop(of.tile_px),
            transforms.ToTensor(),
            transforms.Normalize(of.mean, of.std),
        ]
    )


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(rounds: Sequence[Round]) -> dict:
    """Medians over the rounds; a ratio is taken within a round, as the machine may change between two."""
    ways = ("encoder_only", "end_to_end", "published")
    ratios = {
        "end_to_end / encoder_only": [one.end_to_end / one.encoder_only for one in rounds],
        "end_to_end / published": [one.end_to_end / one.published for one in rounds],
    }
    return {
        "tiles_per_second": {way: median(getattr(one, way) for one in rounds) for way in ways},
        "ratios": {name: median(values) for name, values in ratios.items()},
        "ratios_of_rounds": ratios,
        "share_of_wall": {
            part: median(getattr(one.spent, part) / one.spent.wall for one in rounds)
            for part in ("read", "encode", "write")
        },
    }


def print_table(result: dict) -> None:
    """The rates, the two ratios with their spread, and where the time went."""
    print(
        f"{result['encoder']}, {result['precision']}, {result['device']}: {result['tiles']:,} tiles of "
        f"{result['spots']} spots, batches of {result['batch_size']}, median of {result['repeats']}"
    )
    print(f"  {'':<44} {'tiles/s':>9}")
    names = {
        "encoder_only": "encoder only, tensors on the device",
        "end_to_end": "ds2c embed, slide to published cache",
        "published": "published way, spot by spot",
    }
    for way, rate in result["tiles_per_second"].items():
        print(f"  {names[way]:<44} {rate:>9,.1f}")
    print(f"  {'':<44} {'ratio':>9}   rounds")
    for name, ratio in result["ratios"].items():
        values = " ".join(f"{value:.3f}" for value in result["ratios_of_rounds"][name])
        print(f"  {name:<44} {ratio:>9.3f}   {values}")
    parts = ", ".join(f"{part} {share:.1%}" for part, share in result["share_of_wall"].items())
    print(f"  time of ds2c embed: {parts}")


if __name__ == "__main__":
    main()
