"""The options that several subcommands share, each spelled once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Precision

ProjectOption = Annotated[
    Path, typer.Option("--project", metavar="DIR", envvar="DS2C_PROJECT", help="The project directory.")
]  # default Path(".")
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        envvar="DS2C_CACHE",
        help="Where embeddings are kept for every project; by default in the user's cache directory.",
    ),
]  # default None
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Do it again, and replace a result made from other inputs or settings.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda (every CUDA device) or cuda:0,cuda:1.")
]  # default "auto"
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", metavar="NAME", help="phikon-v2, imagenet-lite0, ...: `ds2c encoders` lists them."),
]  # default None
WeightsOption = Annotated[
    str | None, typer.Option("--weights", metavar="PATH", help="File or folder of the encoder's weights.")
]  # default None
PrecisionOption = Annotated[
    Precision | None, typer.Option("--precision", help="Of the encoder; auto is fp32 on a CPU, bf16 on CUDA.")
]  # default None
SamplesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[SAMPLE]...", help="Samples; all of the project by default.")
]  # default None


def listed(values: Sequence[str] | None) -> list[str]:
    """Names given by repeating an option or with commas between them."""
    return [name for value in values or () for name in value.split(",") if name]
