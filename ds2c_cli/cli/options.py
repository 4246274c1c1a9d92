"""The options that several commands share, each spelled once, and what a command is given of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from ..choices import Precision
from .console import console
from .panels import ENCODER, RUN

if TYPE_CHECKING:
    from ..project import Project, Workspace

ProjectOption = Annotated[
    Path,
    typer.Option("--project", metavar="DIR", envvar="DS2C_PROJECT", help="The project directory.", rich_help_panel=RUN),
]  # default Path(".")
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        envvar="DS2C_CACHE",
        help="Where embeddings are kept for every project; by default in the user's cache directory.",
        rich_help_panel=RUN,
    ),
]  # default None
JsonOption = Annotated[
    bool, typer.Option("--json", help="Answer with one JSON document on stdout.", rich_help_panel=RUN)
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Do it again, and replace a result made from other inputs or settings.", rich_help_panel=RUN
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=RUN)]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.", rich_help_panel=RUN)
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda (every CUDA device) or cuda:0,cuda:1.", rich_help_panel=RUN)
]  # default "auto"
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="phikon-v2, imagenet-lite0, ...: `ds2c encoders` lists them.",
        rich_help_panel=ENCODER,
    ),
]  # default None
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="PATH", help="File or folder of the encoder's weights.", rich_help_panel=ENCODER),
]  # default None
PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="Of the encoder; auto is fp32 on a CPU, bf16 on CUDA.", rich_help_panel=ENCODER),
]  # default None
SamplesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[SAMPLE]...", help="Samples; all of the project by default.")
]  # default None


SHARED: dict[str, tuple[Any, Any]] = {
    "device": (DeviceOption, "auto"),
    "project": (ProjectOption, Path()),
    "cache": (CacheOption, None),
    "json": (JsonOption, False),
    "debug": (DebugOption, False),
}  # name: type, default

FIELDS = {"device": "device", "project": "folder", "cache": "given_cache"}  # of a session, by option

Command = Callable[..., None]


@dataclass(frozen=True)
class Session:
    """What the shared options of one run say."""

    device: str = "auto"
    folder: Path = Path()  # of the project
    given_cache: Path | None = None

    @cached_property
    def project(self) -> Project:
        """Open the project."""
        from ..project import Project

        return Project(self.folder)

    @property
    def cache(self) -> Path:
        """Name the folder of embeddings: the one given, else the default."""
        from ..project import default_cache

        return self.given_cache or default_cache()

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """Open the workspace, and show how far its steps are until the block ends."""
        from ..project import Workspace

        with console.progress() as tell:
            yield Workspace(self.project, cache=self.cache, device=self.device, progress=tell)


def shared(*names: Literal["device", "project", "cache"]) -> Callable[[Command], Command]:
    """Give a command the shared options that are named, and `--json` and `--debug`.

    The command takes a `Session` of them before its own options; the console is configured when it begins.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(*, json: bool, debug: bool, **given: Any) -> None:
            console.configure(json=json, debug=debug)
            command(Session(**{name: given.pop(option) for option, name in FIELDS.items() if option in names}), **given)

        hints = get_type_hints(command, include_extras=True)
        own = list(signature(command).parameters.values())[1:]
        parameters = [each.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[each.name]) for each in own]
        for name, (kind, default) in SHARED.items():
            if name in names or name in ("json", "debug"):
                parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind))
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def listed(values: Sequence[str] | None) -> list[str]:
    """Names given by repeating an option or with commas between them."""
    return [name for value in values or () for name in value.split(",") if name]
