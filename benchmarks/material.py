"""What the benchmarks work on: a slide prepared in a temporary project, and checkpoints of random numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from safetensors.torch import save_file

from ds2c_cli.encoders.specification import PRECISIONS, Specification, specify
from ds2c_cli.project import Project
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.settings import Geometry

TIMM = "timm:"


def slide_words(parser: argparse.ArgumentParser) -> None:
    """The words that name a slide and its cells."""
    parser.add_argument("slide", type=Path)
    parser.add_argument("cells", help="outlines of cells in any format that ds2c reads, or grid:SIDE_UM")
    parser.add_argument("--mpp", type=float, help="microns a pixel, where the slide does not say")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def encoder_words(parser: argparse.ArgumentParser) -> None:
    """The words that name an encoder and where it computes."""
    parser.add_argument("--encoder", default=f"{TIMM}vit_small_patch16_224", help="as of `ds2c embed` (a ViT-S/16)")
    parser.add_argument("--weights", default="", help="a file or folder of weights")
    parser.add_argument("--random-weights", action="store_true", help=f"make them up, for an encoder {TIMM}NAME")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")


def precision_word(parser: argparse.ArgumentParser) -> None:
    """The precision, where it is not what is measured."""
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS])


@contextmanager
def prepared(slide: Path, cells: str, mpp: float | None) -> Iterator[Project]:
    """A temporary project whose one sample is the slide with its cells, on ds2c's default grid of spots."""
    with TemporaryDirectory(prefix="ds2c-benchmark-") as folder:
        project = Project(Path(folder))
        prepare(project, Sources(slide.resolve(), cells, mpp=mpp, trust_coordinates=True), geometry=Geometry())
        yield project


@contextmanager
def specified(options: argparse.Namespace, precision: str) -> Iterator[Specification]:
    """The encoder of the words; with random weights their file lasts as long as this context.

    The weights say nothing about speed. With random ones the embeddings mean nothing.
    """
    with TemporaryDirectory(prefix="ds2c-benchmark-") as folder:
        weights = options.weights
        if options.random_weights:
            weights = str(random_checkpoint(options.encoder, Path(folder)))
        yield specify(options.encoder, weights, device=options.device, precision=precision)


def random_checkpoint(encoder: str, folder: Path) -> Path:
    """A file of random numbers in the shapes of the weights of `timm:NAME`, drawn as timm starts a training."""
    if not encoder.startswith(TIMM):
        raise SystemExit(f"--random-weights are for encoders {TIMM}NAME, not {encoder}")
    torch.manual_seed(0)
    path = folder / "model.safetensors"
    save_file(timm.create_model(encoder.removeprefix(TIMM), pretrained=False, num_classes=0).state_dict(), path)
    return path
