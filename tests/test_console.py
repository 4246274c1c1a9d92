"""What ds2c writes, where it writes it, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2c_cli import __version__
from ds2c_cli.choices import ExportFormat, ModelName, Preset
from ds2c_cli.cli.console import LINE_EVERY, Console, _duration, _rate
from ds2c_cli.errors import Ds2cError, InputError, Stopped, UsageError, WeightsError
from ds2c_cli.exporting.export import FORMATS
from ds2c_cli.models import MODELS
from ds2c_cli.progress import silent
from ds2c_cli.settings import PRESETS

ROOT = Path(__file__).parents[1]
BATCH = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}

PROBE = """
import os, signal, sys, time
from pathlib import Path
from ds2c_cli import cli
from ds2c_cli.cli import options
from ds2c_cli.cli.console import console
from ds2c_cli.errors import InputError

@cli.app.command("probe")
@options.shared("project", "cache")
def probe(
    session: options.Session, force: options.ForceOption = False, dry_run: options.DryRunOption = False
) -> None:
    project, cache = session.folder, session.given_cache
{body}

cli.main()
"""


def probe(body: str) -> list[str]:
    """The words that run `ds2c probe`, a command whose body is given, through the real entry point."""
    return [sys.executable, "-c", PROBE.format(body=textwrap.indent(textwrap.dedent(body), "    ")), "probe"]


def run(words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=BATCH | env, timeout=60)


def ds2c(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "ds2c_cli", *words], **env)


def on_terminal(words: list[str], **env: str) -> tuple[int, str, str]:
    """Exit code, stdout (a pipe) and what a terminal on stderr received."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=slave, text=True, cwd=ROOT, env=BATCH | {"TERM": "xterm-256color"} | env
    )
    os.close(slave)
    screen = b""
    try:
        while received := os.read(master, 65536):
            screen += received
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    os.close(master)
    assert child.stdout is not None
    stdout = child.stdout.read()
    return child.wait(timeout=60), stdout, screen.decode()


@pytest.fixture
def console() -> Console:
    return Console()


class TestCommandLine:
    def test_help_lists_every_step(self) -> None:
        done = ds2c("--help")
        assert done.returncode == 0
        assert done.stderr == ""
        listed = [line.split()[0] for line in done.stdout.split("Commands:")[1].strip().splitlines()]
        assert {"prepare", "embed", "train", "predict", "evaluate", "demo"} <= set(listed)

    def test_help_imports_nothing_heavy(self) -> None:
        script = """
            import sys
            from ds2c_cli.cli import main
            try:
                main()
            except SystemExit:
                heavy = {"torch", "pandas", "anndata", "timm", "numpy", "scipy", "pyarrow", "shapely", "rich"}
                print(sorted(heavy & set(sys.modules)), file=sys.stderr)
        """
        assert run([sys.executable, "-c", textwrap.dedent(script), "--help"]).stderr == "[]\n"

    def test_version(self) -> None:
        done = ds2c("--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"ds2c {__version__}\n", "")

    def test_no_command_shows_the_help_and_is_an_error(self) -> None:
        done = ds2c()
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("Usage: ds2c")
        assert done.stderr.endswith("error: ds2c needs a command\nhint: See ds2c --help.\n")

    def test_wrong_words_name_the_help_of_their_command(self) -> None:
        done = run([*probe("pass"), "--colour"])
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: No such option: --colour\nhint: See ds2c probe --help.\n"

    def test_an_unknown_command_names_the_nearest_in_json_too(self) -> None:
        done = ds2c("embd", "--json")
        assert done.returncode == 2
        assert done.stderr == "error: No such command 'embd'. Did you mean 'embed'?\nhint: See ds2c --help.\n"
        document = json.loads(done.stdout)
        assert document == {
            "error": "No such command 'embd'. Did you mean 'embed'?",
            "hint": "See ds2c --help.",
            "exit_code": 2,
        }

    def test_choices_are_the_names_of_their_tables(self) -> None:
        for choice, table in ((Preset, PRESETS), (ModelName, MODELS), (ExportFormat, FORMATS)):
            assert get_args(choice) == tuple(table)

    def test_a_choice_is_shown_and_a_wrong_one_is_told(self) -> None:
        assert "grid|hex" in ds2c("prepare", "--help").stdout
        done = ds2c("prepare", "slide.tif", "--layout", "square")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: --layout must be one of grid, hex, not 'square'\n")

    def test_help_has_panels_and_those_of_every_run_are_the_last(self) -> None:
        lines = ds2c("prepare", "--help").stdout.splitlines()
        titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
        assert titles[:3] == ["Arguments:", "Slide:", "Cells:"]
        assert titles[-1] == "Run:"
        assert "--visium" in lines[lines.index("Visium:") + 1]
        assert lines[-1].split()[:2] == ["-h,", "--help"]

    def test_shared_options_take_flag_then_variable_then_default(self) -> None:
        words = probe("console.result([f'{project} {cache} {force} {dry_run}'], {})")
        assert run(words, DS2C_PROJECT="lung", DS2C_CACHE="/c").stdout == "lung /c False False\n"
        flags = [*words, "--project", "breast", "--force", "--dry-run"]
        assert run(flags, DS2C_PROJECT="lung").stdout == "breast None True True\n"
        assert run(words, DS2C_PROJECT="").stdout == ". None False False\n"


class TestResult:
    def test_paths_one_a_line(self, console: Console, capsys: pytest.CaptureFixture[str]) -> None:
        console.result([Path("samples/P1"), Path("samples/P2")], {"samples": ["P1", "P2"]})
        assert capsys.readouterr() == ("samples/P1\nsamples/P2\n", "")

    def test_nothing_produced_writes_nothing(self, console: Console, capsys: pytest.CaptureFixture[str]) -> None:
        console.result([], {"samples": []})
        assert capsys.readouterr().out == ""

    def test_json_knows_paths_numpy_and_missing_numbers(
        self, console: Console, capsys: pytest.CaptureFixture[str]
    ) -> None:
        console.configure(json=True, debug=False)
        console.result(
            [Path("a")],
            {
                "path": Path("a/b"),
                "r": np.float32(0.5),
                "nan": float("nan"),
                "infinite": np.float64("inf"),
                "cells": np.int64(3),
                "ok": np.bool_(True),
                "table": [{"values": np.array([[1.0, np.nan]])}, (None, "µm")],
                "1": "key",
            },
        )
        assert json.loads(capsys.readouterr().out) == {
            "path": "a/b",
            "r": 0.5,
            "nan": None,
            "infinite": None,
            "cells": 3,
            "ok": True,
            "table": [{"values": [[1.0, None]]}, [None, "µm"]],
            "1": "key",
        }

    @settings(max_examples=30, derandomize=True, deadline=None)
    @given(
        st.dictionaries(
            st.text(),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.text()
                | st.floats(allow_nan=False, allow_infinity=False),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=10,
            ),
        )
    )
    def test_what_json_can_say_comes_back_as_it_was(self, document: dict[str, object]) -> None:
        written: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.stdout, "write", written.append)
            one = Console()
            one.configure(json=True, debug=False)
            one.result([], document)
        assert json.loads("".join(written)) == document

    def test_with_json_stdout_is_one_document_whatever_is_said(self) -> None:
        body = """
            console.note("reading")
            console.warn("mpp and spot pitch disagree")
            console.table("scores", ["gene", "r"], [["EPCAM", 0.5]])
            with console.progress() as tell:
                tell("embed", 1, 1, "")
            console.result([Path("a")], {"path": Path("a")})
        """
        done = run([*probe(body), "--json"])
        assert json.loads(done.stdout) == {"path": "a"}
        assert "warning: mpp and spot pitch disagree\n" in done.stderr

    def test_a_failure_after_the_answer_adds_no_second_document(self) -> None:
        done = run(
            [*probe("console.result([], {'path': 'a'})\nraise InputError('cells.parquet is cut short')"), "--json"]
        )
        assert done.returncode == 3
        assert json.loads(done.stdout) == {"path": "a"}
        assert "cells.parquet is cut short" in done.stderr

    def test_a_path_is_written_with_the_bytes_it_has(self) -> None:
        words = probe("console.result([Path(os.fsdecode(b'/data/M\\xfcller'))], {})")
        done = subprocess.run(words, capture_output=True, cwd=ROOT, env=BATCH | {"LC_ALL": "C.UTF-8"})
        assert (done.returncode, done.stdout) == (0, b"/data/M\xfcller\n")


class TestMessages:
    def test_off_a_terminal_nothing_is_coloured_wrapped_or_marked_up(self) -> None:
        body = """
            console.note("[bold]" + "x" * 300)
            console.warn(":warning: [/red]")
            console.hint("use --mpp")
            console.table("t", ["gene", "cells"], [["y" * 200, 1234567], ["[b]", None]])
            with console.progress() as tell:
                tell("embed", 0, 2, "")
                tell("embed", 2, 2, "")
            raise InputError("no mpp", "Give --mpp.")
        """
        done = run(probe(body), FORCE_COLOR="1", TERM="xterm-256color", TTY_COMPATIBLE="1", TTY_INTERACTIVE="1")
        assert done.returncode == 3
        assert "\x1b" not in done.stderr
        assert "\r" not in done.stderr
        assert "[bold]" + "x" * 300 + "\nwarning: :warning: [/red]\nhint: use --mpp\n" in done.stderr
        assert "y" * 200 in done.stderr

    def test_a_table_aligns_numbers_right(self, console: Console, capsys: pytest.CaptureFixture[str]) -> None:
        rows: list[list[Any]] = [
            ["additive", np.float64(0.4567), 1_234_567],
            ["mean", None, np.int64(12)],
            ["mlp", float("nan"), 0],
        ]
        console.table("OOS", ["model", "r", "cells"], rows)
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line.strip() for line in captured.err.splitlines() if line.strip()]
        assert lines[0] == "OOS"
        assert [line.split() for line in lines if line[0].isalpha()][1:] == [
            ["model", "r", "cells"],
            ["additive", "0.457", "1,234,567"],
            ["mean", "-", "12"],
            ["mlp", "-", "0"],
        ]
        assert lines[-1].endswith("        0")

    def test_a_terminal_shows_colour(self) -> None:
        _, _, screen = on_terminal(probe("console.warn('few cells')"))
        assert "\x1b[1;33mwarning: \x1b[0mfew cells" in screen

    def test_no_color_is_honoured_on_a_terminal(self) -> None:
        body = """
            console.warn("few cells")
            with console.progress() as tell:
                tell("embed", 1, 2, "")
        """
        _, _, screen = on_terminal(probe(body), NO_COLOR="1")
        colours = [code for code in screen.split("\x1b[")[1:] if code.split("m")[0].lstrip("1;").startswith(("3", "9"))]
        assert colours == []
        assert "few cells" in screen


class TestFailure:
    @pytest.mark.parametrize(
        ("error", "exit_code"),
        [(Ds2cError("a", "b"), 1), (UsageError("a", "b"), 2), (InputError("a", "b"), 3), (WeightsError("a", "b"), 4)],
    )
    def test_one_message_one_hint_one_code(
        self, console: Console, capsys: pytest.CaptureFixture[str], error: Ds2cError, exit_code: int
    ) -> None:
        assert console.fail(error) == exit_code
        assert capsys.readouterr() == ("", "error: a\nhint: b\n")

    def test_an_error_without_a_hint_has_none(self, console: Console, capsys: pytest.CaptureFixture[str]) -> None:
        console.fail(InputError("cells.parquet, row 7: x is missing"))
        assert capsys.readouterr().err == "error: cells.parquet, row 7: x is missing\n"

    def test_a_full_disk_is_no_bug(self, console: Console, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.fail(OSError(28, "No space left on device", "/scratch/seg.mdb")) == 1
        assert capsys.readouterr().err.startswith("error: No space left on device: /scratch/seg.mdb\nhint: ")

    def test_no_memory_is_no_bug(self, console: Console, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.fail(MemoryError()) == 1
        assert capsys.readouterr().err.startswith("error: the machine ran out of memory\nhint: ")

    @pytest.mark.parametrize("error", [Stopped(signal.SIGINT), KeyboardInterrupt()])
    def test_a_stop_is_no_error_and_says_how_to_go_on(
        self,
        console: Console,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["/venv/bin/ds2c", "embed", "--cache", "/my data"])
        assert console.fail(error) == 130
        expected = (
            "stopped by SIGINT; finished work is kept\nhint: Go on from there with `ds2c embed --cache '/my data'`.\n"
        )
        assert capsys.readouterr() == ("", expected)

    def test_an_unknown_exception_is_a_bug_on_one_line(self) -> None:
        done = run(probe("raise ValueError('shapes\\n  do not fit')"))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "error: this is a bug in ds2c: ValueError: shapes do not fit\n"
            "hint: Run the same command with --debug and report what it prints.\n"
        )

    def test_debug_shows_the_traceback_of_bad_input_too(self) -> None:
        done = run([*probe("raise InputError('P1 has no mpp')"), "--debug"])
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("Traceback (most recent call last)")
        assert ", in probe" in done.stderr
        assert done.stderr.endswith("error: P1 has no mpp\n")

    def test_json_says_the_failure_on_stdout(self) -> None:
        done = run([*probe("raise InputError('P1 has no mpp', 'Give --mpp.')"), "--json"])
        assert done.returncode == 3
        assert json.loads(done.stdout) == {"error": "P1 has no mpp", "hint": "Give --mpp.", "exit_code": 3}
        assert done.stderr == "error: P1 has no mpp\nhint: Give --mpp.\n"


class TestBrokenPipe:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("console.result([Path('x' * 100)] * 10_000, {})", []),
            ("console.result([], {'a': 1})", ["--json"]),
            ("raise InputError('no mpp')", ["--json"]),
            ("", ["--help"]),
        ],
    )
    def test_a_reader_of_stdout_who_leaves_is_met_with_silence(self, body: str, words: list[str]) -> None:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [*probe(body or "pass"), *words], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BATCH
        )
        os.close(write)
        assert done.returncode == 141
        assert done.stderr in ("", "error: no mpp\n")

    def test_a_reader_of_stderr_who_leaves_is_met_with_silence(self) -> None:
        read, write = os.pipe()
        os.close(read)
        words = probe("console.note('reading')")
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=write, text=True, cwd=ROOT, env=BATCH)
        os.close(write)
        assert (done.returncode, done.stdout) == (141, "")

    def test_another_broken_pipe_is_not_silent(self) -> None:
        done = run(probe("raise BrokenPipeError(32, 'Broken pipe')"))
        assert done.returncode == 1
        assert done.stderr.startswith("error: Broken pipe\n")


class TestSignals:
    def stop(self, body: str, *signals: signal.Signals, words: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Send one signal at each line that says "ready"."""
        child = subprocess.Popen(
            [*probe(body), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BATCH
        )
        assert child.stdout is not None
        assert child.stderr is not None
        for each in signals:
            assert child.stderr.readline() == "ready\n"
            child.send_signal(each)
        stdout, stderr = child.communicate(timeout=60)
        return child.returncode, stdout, stderr

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
    def test_a_signal_ends_with_128_plus_its_number(self, signum: signal.Signals) -> None:
        body = "try:\n    console.note('ready')\n    time.sleep(30)\nexcept Exception:\n    console.note('swallowed')"
        code, stdout, stderr = self.stop(body, signum, words=("--json",))
        assert code == 128 + signum
        message, hint = stderr.splitlines()
        assert message == f"stopped by {signum.name}; finished work is kept"
        assert json.loads(stdout) == {
            "error": message, "hint": hint.removeprefix("hint: "), "exit_code": 128 + signum
        }  # fmt: skip

    def test_a_stop_whose_cleanup_fails_is_still_a_stop(self) -> None:
        body = "try:\n    console.note('ready')\n    time.sleep(30)\nfinally:\n    raise RuntimeError('worker died')"
        code, _, stderr = self.stop(body, signal.SIGUSR2)
        assert code == 128 + signal.SIGUSR2
        assert stderr.startswith("stopped by SIGUSR2; ")

    CLEAN_UP = """
        try:
            os.write(2, b'ready\\n')
            time.sleep(30)
        finally:
            os.write(2, b'ready\\n')
            time.sleep(SECONDS)
            console.note('cleaned up')
    """

    def test_cleaning_up_is_not_interrupted_by_a_second_term(self) -> None:
        code, _, stderr = self.stop(self.CLEAN_UP.replace("SECONDS", "0.3"), signal.SIGUSR2, signal.SIGTERM)
        assert code == 128 + signal.SIGUSR2
        assert stderr.startswith("cleaned up\nstopped by SIGUSR2; ")

    def test_a_second_interrupt_kills_at_once(self) -> None:
        code, _, stderr = self.stop(self.CLEAN_UP.replace("SECONDS", "30"), signal.SIGINT, signal.SIGINT)
        assert (code, stderr) == (-signal.SIGINT, "")

    def test_a_forked_worker_leaves_stopping_to_its_parent(self) -> None:
        body = """
            def worker(signum):
                child = os.fork()
                if child == 0:
                    os.kill(os.getpid(), signum)
                    os._exit(7)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

            console.result([str([worker(s) for s in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)])], {})
        """
        done = run(probe(body))
        assert (done.stdout, done.stderr) == ("[7, 7, 143]\n", "")


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        module = sys.modules[Console.__module__]  # which its one object hides from the package
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
        return now

    def test_plain_lines_come_at_the_start_now_and_then_and_at_the_end(
        self, console: Console, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        with console.progress() as tell:
            for done in range(121):
                tell("embed", 100 * done, 12_000, "")
                clock[0] += 1.0
        assert capsys.readouterr() == (
            "",
            "embed: 0 of 12,000\n"
            "embed: 3,000 of 12,000, 100/s, 2 min left\n"
            "embed: 6,000 of 12,000, 100/s, 1 min left\n"
            "embed: 9,000 of 12,000, 100/s, 30 s left\n"
            "embed: 12,000 of 12,000, 100/s, took 2 min\n",
        )
        assert LINE_EVERY == 30.0

    def test_a_resumed_stage_rates_only_what_it_did_itself(
        self, console: Console, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        with console.progress() as tell:
            tell("embed", 200_000, 300_000, "")
            clock[0] += 30
            tell("embed", 200_300, 300_000, "")
        assert capsys.readouterr().err.splitlines()[1] == "embed: 200,300 of 300,000, 10/s, 2 h 46 min left"

    def test_a_step_that_knows_its_unit_says_the_rate_itself(
        self, console: Console, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        with console.progress() as tell:
            tell("embed", 0, 100, "")
            clock[0] += 50
            tell("embed", 50, 100, "1 tiles/s")
        assert capsys.readouterr().err.splitlines()[1] == "embed: 50 of 100, 50 s left, 1 tiles/s"

    def test_a_stage_that_ends_early_says_where(
        self, console: Console, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        with console.progress() as tell:
            tell("train", 0, 500, "")
            clock[0] += 20
            tell("train", 37, 500, "loss 0.31")
            tell("predict", 0, 0, "")
            tell("predict", 8, 0, "")
        assert capsys.readouterr().err.splitlines() == [
            "train: 0 of 500",
            "train: 37 of 500, 1.9/s, 4 min left, loss 0.31",
            "predict: 0",
            "predict: 8",
        ]

    def test_a_stage_may_run_again(
        self, console: Console, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        with console.progress() as tell:
            for _fold in range(2):
                tell("train", 0, 10, "")
                clock[0] += 5
                tell("train", 10, 10, "")
        assert capsys.readouterr().err.splitlines() == ["train: 0 of 10", "train: 10 of 10, 2.0/s, took 5 s"] * 2

    def test_a_failing_step_leaves_its_last_state(
        self, console: Console, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        def step() -> None:
            with console.progress() as tell:
                tell("embed", 0, 10, "")
                tell("embed", 4, 10, "")
                raise Stopped(signal.SIGTERM)

        with pytest.raises(Stopped):
            step()
        assert capsys.readouterr().err.splitlines() == ["embed: 0 of 10", "embed: 4 of 10"]

    BARS = """
        with console.progress() as tell:
            for done in range(4):
                tell("embed", done, 3, "loss [0.3]")
            console.warn("3 cells have no area")
            tell("train", 1, 2, "")
        console.result([Path("lung.pt")], {})
    """

    def test_a_terminal_draws_bars_and_stdout_stays_clean(self) -> None:
        code, stdout, screen = on_terminal(probe(self.BARS), COLUMNS="120")
        assert (code, stdout) == (0, "lung.pt\n")
        assert "━" in screen
        assert "3 of 3" in screen
        assert "loss [0.3]" in screen
        assert "3 cells have no area" in screen
        assert "\x1b[?25h" in screen  # the cursor is given back

    def test_a_dumb_terminal_gets_plain_lines(self) -> None:
        _, _, screen = on_terminal(probe(self.BARS), TERM="dumb")
        assert "\x1b" not in screen
        assert "embed: 0 of 3, loss [0.3]" in screen

    def test_a_stop_gives_the_cursor_back(self) -> None:
        body = """
            with console.progress() as tell:
                tell("embed", 1, 3, "")
                os.kill(os.getpid(), signal.SIGTERM)
        """
        code, _, screen = on_terminal(probe(body))
        assert code == 143
        assert "\x1b[?25h" in screen
        assert "stopped by SIGTERM; finished work is kept" in screen

    def test_silence_is_a_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        silent("embed", 1, 2)
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            *((0, "0 s"), (59.4, "59 s"), (59.9, "1 min"), (3_599, "1 h 0 min")),
            *((12_000, "3 h 20 min"), (172_799, "2 d 0 h"), (190_000, "2 d 5 h")),
        ],
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert _duration(seconds) == text

    @pytest.mark.parametrize(
        ("per_second", "text"), [(41_234.5, "41,234/s"), (1.94, "1.9/s"), (0.2, "12/min"), (0.001, "3.6/h")]
    )
    def test_rates(self, per_second: float, text: str) -> None:
        assert _rate(per_second) == text
