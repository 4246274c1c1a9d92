"""The self-test of an encoder: do its weights change the network, and are its embeddings those we know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from time import perf_counter
from typing import TypedDict

import numpy as np
import torch

from ..device import device_of
from ..errors import WeightsError
from .encoder import Encoder
from .preprocessing import pack, resize
from .specification import specify

SIDES = (72, 112, 300)  # of the fixed tiles: enlarged, as most cell tiles are, and reduced
GOLDEN = "golden.json"  # embeddings of the fixed tiles, fp32, for the encoders whose weights we have
LEARNED = 1e-3  # relative distance that any training moves an embedding by, and rounding does not
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}  # relative L2; lite0 in bf16 was measured at 4.6 %


@dataclass
class Checked:
    """What the self-test saw; distances are relative L2, over all fixed tiles."""

    encoder: str
    weights: str  # the file
    as_published: bool | None  # whether its sha256 is the registry's; None where none is known
    fingerprint: str
    dimension: int
    device: str
    precision: str
    parameters: int
    from_untrained: float | None  # distance to the same network with random weights; None where it has no weights
    from_golden: float | None  # distance to the stored embeddings; None where there are none
    seconds_to_load: float
    first: list[float]  # the first numbers of the first tile's embedding, to compare two machines by eye


def check(name: str, weights: str = "", *, device: str = "auto", precision: str = "auto") -> Checked:
    """Load an encoder and embed the fixed tiles.

    Raises WeightsError when that cannot be done, when the weights leave the network as it was, when it does not tell
    the tiles apart, or when the embeddings are not the stored ones.
    """
    began = perf_counter()
    specification = specify(name, weights, device=device, precision=precision)
    encoder = Encoder(specification, device_of(device), batch_size=len(SIDES))
    seconds = perf_counter() - began
    tiles = [fixed_tile(side) for side in SIDES]
    embeddings = encoder(tiles)
    hint = f"Read from {specification.snapshot.weights}: fetch the weights again, and report this if it stays."
    if not np.isfinite(embeddings).all():
        raise WeightsError(f"{name} gives embeddings that are not finite", hint)
    if min(distance(a, b) for a, b in pairwise(embeddings)) < LEARNED:
        raise WeightsError(f"{name} gives one embedding for different tiles", hint)
    untrained = golden = None
    if specification.snapshot.weights is not None:
        untrained = distance(embeddings, _untrained(encoder, tiles))
        if untrained < LEARNED:
            raise WeightsError(f"the weights of {name} leave the network as random as it was made", hint)
    if (known := _golden().get(name)) and known["weights"] == specification.description.weights:
        golden = distance(embeddings, np.array(known["embeddings"]))
        if not golden < TOLERANCE[specification.precision]:
            raise WeightsError(
                f"{name} differs from its stored embeddings by {golden:.2g} of their length", "Report this."
            )
    published = specification.recipe.sha256
    return Checked(
        encoder=specification.recipe.name,
        weights=str(specification.snapshot.weights or ""),
        as_published=specification.description.weights == published if published else None,
        fingerprint=specification.fingerprint,
        dimension=encoder.dimension,
        device=str(encoder.device),
        precision=specification.precision,
        parameters=encoder.parameters,
        from_untrained=untrained,
        from_golden=golden,
        seconds_to_load=seconds,
        first=[round(float(value), 4) for value in embeddings[0, :4]],
    )


def fixed_tile(side: int) -> np.ndarray:
    """Paint a (side, side, 3) uint8 tile in whole numbers, alike on every machine: smooth discs on pink."""
    y, x = np.indices((side, side))
    wave = np.abs((x * x // 9 + y * y // 7 + 5 * x) % 128 - 64)  # triangles, 0..64
    nucleus = np.abs((3 * x + 2 * y) % 96 - 48)
    stain = side // 8  # each tile a little darker, so that their colours differ too
    return np.stack([235 - wave - stain, 180 - wave - nucleus, 225 - nucleus - stain], -1).clip(0, 255).astype(np.uint8)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Measure the relative L2 distance of two embeddings."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@torch.inference_mode()
def _untrained(encoder: Encoder, tiles: list[np.ndarray]) -> np.ndarray:
    """Embed the tiles by the encoder's architecture with random weights (n, dimension), on a CPU."""
    specification = encoder.specification
    torch.manual_seed(0)
    network = specification.format.network(specification.recipe).eval()
    packed = pack(tiles)
    of = specification.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (of.mean, of.std))
    network.requires_grad_(False)
    vectors = network((resize(packed, of).float() / 255 - mean) / std)
    unsorted = np.empty(vectors.shape, np.float32)
    unsorted[packed.order] = vectors.numpy()
    return unsorted


class _Stored(TypedDict):
    """What golden.json has of an encoder."""

    weights: str  # sha256
    embeddings: list[list[float]]


def _golden() -> dict[str, _Stored]:
    stored: dict[str, _Stored] = json.loads((files(__package__) / GOLDEN).read_text())
    return stored
