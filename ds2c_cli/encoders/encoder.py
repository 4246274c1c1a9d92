"""The encoder on a device: tiles in, embeddings out, within the memory that the device has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import nn

from ..device import device_of
from ..errors import Ds2cError, WeightsError
from . import timm_models
from .preprocessing import Tiles, pack, resize
from .specification import PRECISIONS, Specification, specify

CPU_BATCH = 32  # a CPU gains nothing beyond (benchmarks/encoder_settings.py)
CUDA_BATCHES = (64, 128, 256, 512, 1024)
GAIN = 1.03  # a doubled batch that is not this much faster is not worth its memory


class Encoder:
    """A frozen encoder on a device, at one precision.

    `batch_size` is how many tiles go through the network at once: found when 0 is asked for, and halved whenever the
    device runs out of memory.
    """

    def __init__(self, specification: Specification, device: torch.device, *, batch_size: int = 0) -> None:
        """Build and load it; raises WeightsError when the weights are not this encoder's."""
        self.specification, self.device = specification, device
        self.dimension: int = specification.recipe.dimension
        self.asynchronous = device.type == "cuda"
        if self.asynchronous:
            torch.cuda.set_device(device)  # streams, events and pinned memory are of the current one
        self._copies = torch.cuda.Stream() if self.asynchronous else None
        of = specification.preprocessing
        self._mean, self._std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (of.mean, of.std))
        try:
            self._network = build(specification).to(device).to(memory_format=torch.channels_last)
            self.batch_size = 1
            side = specification.preprocessing.tile_px or 8
            (width,) = self([np.zeros((side, side, 3), np.uint8)]).shape[1:]
            if width != self.dimension:
                raise ValueError(f"a tile becomes {width} numbers, not {self.dimension}")
        except torch.OutOfMemoryError as error:
            raise self._no_room() from error
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"the weights of {specification.recipe.name} do not fit it ({_first_line(error)})",
                f"Read from {specification.snapshot.weights}: fetch them again, or pass others with --weights.",
            ) from error
        self.batch_size = batch_size or self._find_batch_size()

    def __call__(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """Embed (side, side, 3) uint8 tiles, of sides that may differ: (n, dimension) float32."""
        return self.start(self.pack(tiles))()

    @property
    def parameters(self) -> int:
        """Count the numbers that were learned."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    # The two parts of a call, for a pipeline that has several batches under way.

    def pack(self, tiles: Sequence[np.ndarray]) -> Tiles:
        """Put the tiles into one buffer that the device can copy."""
        return pack(tiles, pinned=self.asynchronous)

    @torch.inference_mode()
    def start(self, tiles: Tiles) -> Callable[[], np.ndarray]:
        """Copy, resize and encode; the result is a call that gives the (n, dimension) float32 embeddings in order.

        Where the encoder is `asynchronous` this returns before the work is done, and that call waits for it. Raises
        Ds2cError when the device's memory does not hold a single tile.
        """
        vectors = self._within_memory(self._moved(tiles))
        if not self.asynchronous:
            return lambda: _in_order(vectors, tiles)
        # Nothing here may wait for the device: a copy from or to unpinned memory would.
        host = torch.empty(vectors.shape, pin_memory=True)
        host.copy_(vectors, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def wait() -> np.ndarray:
            done.synchronize()
            return _in_order(host, tiles)

        return wait

    def _moved(self, tiles: Tiles) -> Tiles:
        """Copy the tiles to the device while it computes the batch before."""
        if self._copies is None:
            return tiles.to(self.device)
        with torch.cuda.stream(self._copies):
            moved = tiles.to(self.device)
        computing = torch.cuda.current_stream()
        computing.wait_stream(self._copies)
        moved.pixels.record_stream(computing)
        return moved

    def _within_memory(self, tiles: Tiles) -> torch.Tensor:
        """Embed in batches that fit: (n, dimension) float32 on the device, in the buffer's order."""
        if not self.specification.preprocessing.tile_px:
            return torch.cat([self._network(pixels.float()).float() for _, pixels in tiles.groups()])
        pixels = resize(tiles, self.specification.preprocessing)
        vectors: list[torch.Tensor] = []
        at = 0
        while at < len(pixels):
            try:
                vectors.append(self._encode_batch(pixels[at : at + self.batch_size]))
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise self._no_room() from error
            else:
                at += len(vectors[-1])
                continue
            # Outside the handler, which would keep the failed batch alive.
            self.batch_size //= 2
            torch.cuda.empty_cache()
        return torch.cat(vectors)

    def _encode_batch(self, pixels: torch.Tensor) -> torch.Tensor:
        """Call `encode`; on a CPU in batches of one size, whose shape decides the order in which numbers are summed: a
        tile gets the same bits whatever was encoded beside it.
        """
        lacking = 0 if self.asynchronous else self.batch_size - len(pixels)
        whole = torch.cat([pixels, pixels.new_zeros((lacking, *pixels.shape[1:]))]) if lacking else pixels
        return self.encode(whole)[: len(pixels)]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed (n, 3, tile_px, tile_px) uint8 tiles, resized before: (n, dimension) float32, all on the device."""
        normalised = pixels.float().div_(255).sub_(self._mean).div_(self._std)
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        if self.specification.precision == "fp32":
            # CUDA would otherwise compute convolutions, the patch embedding among them, in TF32.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return self._network(normalised).float()
        with torch.autocast(self.device.type, PRECISIONS[self.specification.precision]):
            return self._network(normalised).float()

    def _find_batch_size(self) -> int:
        """Find the smallest batch that a larger one does not beat, or that memory allows; on a CPU a constant."""
        if not self.asynchronous or not self.specification.preprocessing.tile_px:
            return CPU_BATCH
        best, rate = CUDA_BATCHES[0], 0.0
        for size in CUDA_BATCHES:
            try:
                faster = self._rate(size)
            except torch.OutOfMemoryError:
                break
            if faster < GAIN * rate:
                break
            best, rate = size, faster
        torch.cuda.empty_cache()
        return best

    def _no_room(self) -> Ds2cError:
        return Ds2cError(
            f"the memory of {self.device} does not hold {self.specification.recipe.name} and one tile",
            "Free it, use a lower --precision, or say --device cpu.",
        )

    @torch.inference_mode()
    def _rate(self, size: int) -> float:
        """Measure the tiles per second at a batch size, the second time round."""
        side = self.specification.preprocessing.tile_px
        pixels = torch.zeros((size, 3, side, side), dtype=torch.uint8, device=self.device)
        for _ in range(2):
            began = perf_counter()
            self.encode(pixels)
            torch.cuda.synchronize()
        return size / (perf_counter() - began)


def build(specification: Specification) -> nn.Module:
    """Build the network with its weights, every tensor of which comes from the file: none can stay random.

    It is made on the meta device, where there are no values at all, and loaded strictly. Raises ValueError, KeyError or
    RuntimeError when the file's tensors are not the network's.
    """
    recipe, of = specification.recipe, specification.format
    with torch.device("meta"):
        network = of.network(recipe)
    if dict(network.named_buffers()).keys() - network.state_dict().keys():
        network = of.network(recipe)  # it computes tables when it is made, which the meta device cannot
    if specification.snapshot.weights is not None:
        network.load_state_dict(of.tensors(recipe, specification.snapshot.weights), strict=True, assign=True)
    timm_models.fit_to(network, specification.preprocessing.tile_px)
    return network.float().eval().requires_grad_(False)


def load(
    name: str, weights: str = "", *, device: str = "auto", precision: str = "auto", batch_size: int = 0
) -> Encoder:
    """Make an encoder ready to embed: `specify` and build. `device` auto takes CUDA where there is one."""
    return Encoder(specify(name, weights, device=device, precision=precision), device_of(device), batch_size=batch_size)


def _in_order(vectors: torch.Tensor, tiles: Tiles) -> np.ndarray:
    """Put embeddings into the order in which the tiles were given."""
    unsorted = np.empty(vectors.shape, np.float32)
    unsorted[tiles.order] = vectors.numpy()
    return unsorted


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    # torch's first line names the class only; what is missing or of another shape is below
    return " ".join(line.strip() for line in lines[:2])[:200]
