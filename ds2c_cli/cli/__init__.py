"""The command line: one module a subcommand, and the one way out of the program."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from ..errors import Stopped, UsageError
from ..version import __version__
from . import benchmark, cache, demo, doctor, embed, encoders, evaluate, export, plot, predict, prepare, train
from .console import console
from .panels import PanelCommand

COMMANDS = [
    ("prepare", prepare),
    ("embed", embed),
    ("train", train),
    ("predict", predict),
    ("evaluate", evaluate),
    ("benchmark", benchmark),
    ("plot", plot),
    ("export", export),
    ("encoders", encoders),
    ("doctor", doctor),
    ("demo", demo),
]

# click's UsageError; newer Typers carry their own copy of click, so it is reached through what every Typer exports.
WrongWords: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="ds2c",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help costs no import of Rich
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, module in COMMANDS:
    app.command(name, cls=PanelCommand)(module.command)
app.add_typer(cache.app, name="cache")


def _version(asked: bool) -> None:
    if asked:
        console.result([f"ds2c {__version__}"], {"version": __version__})
        raise typer.Exit


@app.callback()
def ds2c(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Virtual single-cell spatial transcriptomics from H&E: prepare, embed, train, predict, evaluate."""


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code."""
    arguments = sys.argv[1:]
    # Wrong words are met before any command has configured the console.
    console.configure(json="--json" in arguments, debug="--debug" in arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is bytes, and is written as it came
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a damaged slide is told once, by our error
    _stop_on_signals()
    try:
        exit_code = app(arguments, prog_name="ds2c", standalone_mode=False) or 0
    except BaseException as error:  # the one place where everything ends, whatever it is
        exit_code = _end(error)
    sys.exit(exit_code)


def _end(error: BaseException) -> int | str | None:
    """Tell of whatever ended the run; the exit code."""
    if stopped := _stop_behind(error):
        return console.fail(stopped)
    if isinstance(error, SystemExit):
        if not isinstance(error.__context__, BrokenPipeError):
            return error.code  # shell completion leaves like this
        return console.fail(error.__context__)  # Typer makes exit 1 of a broken pipe
    if isinstance(error, typer.Abort):  # a question was not answered
        return console.fail(Stopped(signal.SIGINT))
    return console.fail(_wrong_words(error) if isinstance(error, WrongWords) else error)


def _stop_behind(error: BaseException) -> Stopped | None:
    """The stop that a signal asked for, also where unwinding from it failed (a worker pool in mid-flight)."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, Stopped):
        link = link.__context__
    return link


def _wrong_words(error: Any) -> UsageError:
    """Say click's complaint as ours, on one line; a bare group shows its help."""
    command = error.ctx.command_path if error.ctx else "ds2c"
    message = error.format_message()
    choice = re.search(r"(['\"].*) is not one of (.*?)\.?$", error.message)
    if choice and isinstance(error, typer.BadParameter) and error.param:
        known = choice[2].replace("'", "")
        message = f"{error.param.opts[0]} must be one of {known}, not {choice[1]}"
    if error.ctx and message == error.ctx.get_help():
        console.note(message)
        message = f"{command} needs a command"
    return UsageError(" ".join(message.split()), f"See {command} --help.").with_traceback(error.__traceback__)


def _stop_on_signals() -> None:
    """Raise `Stopped` in the main thread on the first signal that asks for a stop; a SIGINT after that kills."""
    main_process = os.getpid()
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != main_process:  # a forked worker inherits this handler, and its parent ends it by SIGTERM
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        for each in signals:  # once: what is being put away is not interrupted
            signal.signal(each, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise Stopped(signum)

    for each in signals:
        signal.signal(each, stop)
