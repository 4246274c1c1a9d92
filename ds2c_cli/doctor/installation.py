"""The installation: this Python, its packages, and whether they read a slide."""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..version import __version__
from .answers import Answer, Asked, one_line

PYTHON = (3, 11)  # pyproject.toml
TORCH = (2, 6)
PACKAGES = (
    "numpy", "pandas", "anndata", "torch", "torchvision", "timm", "tifffile", "imagecodecs", "lmdb", "huggingface-hub",
)  # fmt: skip


def python(asked: Asked) -> Answer:
    """Name the interpreter, and this ds2c."""
    found = f"Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable}), ds2c {__version__}"
    if sys.version_info[:2] < PYTHON:
        needed = ".".join(map(str, PYTHON))
        return Answer("fail", found, f"Install ds2c in an environment with Python {needed} or newer.")
    return Answer("ok", found)


def packages(asked: Asked) -> Answer:
    """Check that the packages that matter are here, and torchvision and timm can be imported beside this torch."""
    held, absent = [], []
    for name in PACKAGES:
        try:
            held.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        return Answer("fail", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    for name in ("torch", "torchvision", "timm"):
        try:
            importlib.import_module(name)
        except (FileNotFoundError, PermissionError):  # torch wants a temporary folder
            raise
        except Exception as error:
            # A torchvision of another torch: "operator torchvision::nms does not exist", as a RuntimeError.
            return Answer(
                "fail",
                f"import {name}: {one_line(error)} (torch {version('torch')}, torchvision {version('torchvision')})",
                "torch and torchvision must be built for each other: `pip install --force-reinstall torch torchvision`,"
                " both from the same index.",
            )
    return Answer("ok", ", ".join(held))


def torch_build(asked: Asked) -> Answer:
    """Name the version of torch, and what it is built for."""
    import torch

    release = str(torch.__version__)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPUs only"
    found = f"torch {release}, built for {build}"
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < TORCH:
        return Answer("fail", found, f"pip install --upgrade 'torch>={'.'.join(map(str, TORCH))}' torchvision")
    return Answer("ok", found)


def slide_reading(asked: Asked) -> Answer:
    """Check that a tiled JPEG TIFF, as scanners write them, is written, opened and read back."""
    import imagecodecs
    import numpy as np
    import tifffile

    from ..io.slides import open_slide

    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
    with tempfile.TemporaryDirectory(prefix="ds2c-doctor-") as folder:
        path = Path(folder) / "slide.tif"
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), compression="jpeg")
        read = open_slide(path).read(0, 0, width=256, height=256)
    found = f"a tiled JPEG TIFF, by tifffile {tifffile.__version__} and imagecodecs {imagecodecs.__version__}"
    if np.abs(read.astype(int) - pixels).mean() > 4:  # JPEG changes these pixels by about one
        return Answer("fail", f"{found}: other pixels were read than written", "pip install -U imagecodecs tifffile")
    return Answer("ok", found)
