"""The one place that writes: results and JSON to stdout; messages, tables, errors and progress to stderr."""

from __future__ import annotations

import math
import os
import select
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps
from numbers import Integral, Real
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import Ds2cError, Stopped
from ..progress import Progress

if TYPE_CHECKING:  # Rich costs 0.1 s, which `ds2c --help` has no use for
    import rich.console
    import rich.progress

LINE_EVERY = 30.0  # seconds between plain progress lines: logs of jobs stay short
DRAW_EVERY = 0.1  # seconds between two drawings of a bar
BROKEN_PIPE = 128 + signal.SIGPIPE  # 141, what a shell shows for a program that SIGPIPE ended


class Console:
    """A human reads stderr, a pipe reads stdout.

    Whether stderr is a terminal decides about bars and colours: `TERM` and `FORCE_COLOR` leak into batch jobs.
    """

    def __init__(self) -> None:
        self.configure(json=False, debug=False)

    def configure(self, json: bool, debug: bool) -> None:
        """Set what `--json` and `--debug` ask for, and forget what an earlier command wrote."""
        self.json = json
        self.debug = debug
        self._answered = False  # the one JSON document is out
        self._stderr: rich.console.Console | None = None

    def note(self, text: str) -> None:
        """Tell a human something, on one line however long."""
        self._say("", "", text)

    def warn(self, text: str) -> None:
        """Tell of something that does not stop the run but may spoil its result."""
        self._say("warning: ", "bold yellow", text)

    def hint(self, text: str) -> None:
        """Tell what to do next."""
        self._say("hint: ", "bold cyan", text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show rows to a human; columns of numbers align right, a missing number is a dash."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
        for i, name in enumerate(columns):
            numeric = all(row[i] is None or isinstance(row[i], Real) for row in rows)
            table.add_column(Text(name), justify="right" if numeric else "left")
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row))
        self._rich().print(table)

    def result(self, lines: Sequence[Path | str], document: Mapping[str, Any]) -> None:
        """Answer on stdout, once per command: `document` with `--json`, else what was produced, one per line.

        Numpy values, paths and NaN (as null) may stand anywhere in the document.
        """
        answer = dumps(_plain(document), indent=2, allow_nan=False) if self.json else "\n".join(map(str, lines))
        if answer and sys.stdout is not None:  # None where the shell closed stdout
            self._answered = True
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()  # so that a reader who left is met here and not when Python exits

    def fail(self, error: BaseException) -> int:
        """Say once what went wrong and what to do, and return the exit code.

        Silent where whoever read stdout or stderr is gone. With `--json` the message is the JSON document as well,
        unless the command has already answered.
        """
        if isinstance(error, BrokenPipeError) and _reader_left():
            return _leave_silently()
        message, hint, exit_code = _explain(error)
        self._stderr = None  # a stop may have come in the middle of a line, and Rich would say that line again
        try:
            if self.debug:
                traceback.print_exception(error)
            if exit_code < 128:
                self._say("error: ", "bold red", message)
            else:
                self.note(message)
            if hint:
                self.hint(hint)
            if self.json and not self._answered:
                self.result([], {"error": message, "hint": hint, "exit_code": exit_code})
        except BrokenPipeError:
            return _leave_silently()
        return exit_code

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A `Progress` to hand to a step: a bar a stage on a terminal, elsewhere a plain line every 30 s."""
        if self._terminal:
            with _bars(self._rich()) as tell:
                yield tell
        else:
            lines = _Lines(self)
            try:
                yield lines
            finally:
                lines.close()

    @property
    def _terminal(self) -> bool:
        """Whether a human watches stderr on a terminal that can move its cursor."""
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}

    def _rich(self) -> rich.console.Console:
        if self._stderr is None:
            from rich.console import Console as RichConsole

            class Stderr(RichConsole):
                def on_broken_pipe(self) -> None:
                    raise  # the BrokenPipeError at hand; Rich would leave with exit code 1

            self._stderr = Stderr(
                stderr=True,
                force_terminal=self._terminal,
                force_interactive=self._terminal,
                force_jupyter=False,
                # Rich would squeeze a table into 80 columns where there is no terminal to be wide.
                width=None if self._terminal else 1000,
            )
        return self._stderr

    def _say(self, label: str, style: str, text: str) -> None:
        from rich.text import Text

        self._rich().print(Text.assemble((label, style), text), soft_wrap=True)


console = Console()


def _explain(error: BaseException) -> tuple[str, str, int]:
    """What an exception means to a user: message, hint, exit code."""
    if isinstance(error, Ds2cError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, Stopped | KeyboardInterrupt):
        exit_code = error.exit_code if isinstance(error, Stopped) else 128 + signal.SIGINT
        command = shlex.join(["ds2c", *sys.argv[1:]])
        name = signal.Signals(exit_code - 128).name
        return f"stopped by {name}; finished work is kept", f"Go on from there with `{command}`.", exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{where}", "Look at the path, its permissions and the space left on its disk.", 1
    if isinstance(error, MemoryError):
        return "the machine ran out of memory", "Give the job more memory.", 1
    what = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return f"this is a bug in ds2c: {what}", "Run the same command with --debug and report what it prints.", 1


def _reader_left() -> bool:
    """Whether the other end of stdout or stderr is closed.

    Any other broken pipe (a download, a worker) is a failure like others, and must be said.
    """
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _leave_silently() -> int:
    """Send what is still buffered nowhere, so that Python does not complain when it exits; the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    return BROKEN_PIPE


def _plain(value: Any) -> Any:
    """The same value in the types JSON knows: NaN and infinity become null, paths text, arrays lists."""
    if hasattr(value, "tolist"):  # numpy, without importing it
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _cell(value: Any) -> str:
    """One value of a table: whole numbers with thousands separated, others to three decimals."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return "-"
    if isinstance(value, Integral) and not isinstance(value, bool):
        return f"{int(value):,}"
    return f"{float(value):,.3f}" if isinstance(value, Real) and not isinstance(value, bool) else str(value)


@dataclass
class _Stage:
    """How far one stage is, and since when it is followed."""

    first: int  # done at the first call: a resumed stage does not start at 0, and its rate must not say so
    started: float  # seconds
    done: int
    total: int
    facts: str
    told: int = -1  # done when it was last shown
    told_at: float = -math.inf  # seconds

    @property
    def complete(self) -> bool:
        return self.done >= self.total > 0

    def status(self, now: float) -> str:
        """Like "4,000 of 300,000, 412/s, 12 min left, loss 0.31"."""
        seconds, fresh = now - self.started, self.done - self.first
        parts = [f"{self.done:,} of {self.total:,}" if self.total else f"{self.done:,}"]
        if seconds > 0 and fresh > 0:
            if "/s" not in self.facts:  # a step that knows its unit says the rate itself
                parts.append(_rate(fresh / seconds))
            if self.complete:
                parts.append(f"took {_duration(seconds)}")
            elif self.total:
                parts.append(f"{_duration((self.total - self.done) * seconds / fresh)} left")
        return ", ".join([*parts, self.facts] if self.facts else parts)


def _follow(stages: dict[str, _Stage], name: str, *, done: int, total: int, facts: str) -> tuple[_Stage, bool]:
    """Note a call of a `Progress`; the stage, and whether it begins here (a count that falls begins anew)."""
    stage = stages.get(name)
    if stage is None or done < stage.done:
        stages[name] = _Stage(first=done, started=monotonic(), done=done, total=total, facts=facts)
        return stages[name], True
    stage.done, stage.total, stage.facts = done, total, facts
    return stage, False


class _Lines:
    """Progress off a terminal: a line when a stage begins, every 30 s, and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stages: dict[str, _Stage] = {}

    def __call__(self, name: str, done: int, total: int, facts: str = "") -> None:
        before = dict(self._stages)
        stage, begins = _follow(self._stages, name, done=done, total=total, facts=facts)
        if begins:
            self._tell_last(before)  # a stage may end early, and the next one shows that it has
        due = monotonic() - stage.told_at >= LINE_EVERY
        if begins or due or (stage.complete and stage.told != done):
            self._tell(name, stage)

    def close(self) -> None:
        """Say where every stage stands that has moved since its last line."""
        self._tell_last(self._stages)

    def _tell_last(self, stages: Mapping[str, _Stage]) -> None:
        for name, stage in stages.items():
            if stage.told != stage.done:
                self._tell(name, stage)

    def _tell(self, name: str, stage: _Stage) -> None:
        stage.told, stage.told_at = stage.done, monotonic()
        self._console.note(f"{name}: {stage.status(stage.told_at)}")


@contextmanager
def _bars(screen: rich.console.Console) -> Iterator[Progress]:
    """Progress on a terminal: a bar a stage, drawn by whoever calls, because a drawing thread outlives a fork."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}", markup=False),
    )
    stages: dict[str, _Stage] = {}
    tasks: dict[str, rich.progress.TaskID] = {}
    # stdout belongs to the result; Rich would draw what is written there above the bars, on stderr
    with Bars(*columns, console=screen, auto_refresh=False, redirect_stdout=False) as bars:

        def tell(name: str, done: int, total: int, facts: str = "") -> None:
            stage, begins = _follow(stages, name, done=done, total=total, facts=facts)
            if begins:
                tasks[name] = bars.add_task(name, status="")
            now = monotonic()
            bars.update(tasks[name], completed=done, total=total or None, status=stage.status(now))
            if begins or stage.complete or now - stage.told_at >= DRAW_EVERY:
                stage.told_at = now
                bars.refresh()

        yield tell


def _rate(per_second: float) -> str:
    """A rate in the unit that leaves a number of at least one, if any does."""
    rate, unit = per_second, "s"
    for slower in ("min", "h"):
        if rate < 1:
            rate, unit = rate * 60, slower
    return f"{rate:,.0f}/{unit}" if rate >= 10 else f"{rate:.1f}/{unit}"


def _duration(seconds: float) -> str:
    """A time span as its two largest units."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
