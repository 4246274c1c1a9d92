"""Every command of the README runs, and prints what the README shows but for its numbers.

`UPDATE_README=1` rewrites the shown output from a run at the demo's full size.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
PROGRESS = re.compile(r"^[\w -]+: [\d,]+ of [\d,]+")
UPDATE = bool(os.environ.get("UPDATE_README"))
MARK = "@@@"


def shapes(lines: list[str]) -> list[str]:
    """Lines without numbers, rules and padding; and without warnings, which a smaller slide has others of."""
    return [shape(line) for line in lines if not line.startswith("warning: ")]


def shape(line: str) -> str:
    """A line without its numbers, its rules and its padding."""
    return re.sub(r"\s+", " ", re.sub(r"-?\d[\d,.]*|[─ ]*─", "#", line)).strip()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command of the README prints, all in one shell, as a user would type them."""
    stamp = Path(sys.prefix) / "installed"
    if not stamp.exists():
        pytest.skip(f"{stamp} is missing: this environment was not made by make")
    home = tmp_path_factory.mktemp("readme")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (home / name).symlink_to(ROOT / name)
    (home / ".venv").symlink_to(sys.prefix)
    commands = [
        line[2:] for block in BLOCK.findall(README.read_text()) for line in block.splitlines() if line.startswith("$ ")
    ]
    script = "\n".join(f"echo '{MARK}'\n{command}" for command in commands)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DS2C", "MAKE", "MFLAGS", "VENV"))}
    env = kept | {"COLUMNS": "120"} | ({} if UPDATE else {"DEMO_FLAGS": "--size 1024"})
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    checkout = re.compile("|".join(re.escape(f"{place}/") for place in (home, Path(sys.prefix).resolve().parent)))
    outputs = [checkout.sub("", text) for text in ran.stdout.split(f"{MARK}\n")[1:]]
    cleaned = [[line.rstrip() for line in text.splitlines() if not PROGRESS.match(line)] for text in outputs]
    return dict(zip(commands, cleaned, strict=True))


def test_every_command_prints_what_the_readme_shows(printed):
    text = README.read_text()
    for block in BLOCK.findall(text):
        shown: dict[str, list[str]] = {}
        for line in block.splitlines():
            if line.startswith("$ "):
                shown[line[2:]] = command = []
            else:
                command.append(line)
        if UPDATE:
            fresh = "".join("\n".join([f"$ {name}", *printed[name], ""]) for name in shown)
            text = text.replace(f"```console\n{block}```", f"```console\n{fresh}```")
            continue
        for name, lines in shown.items():
            assert shapes(printed[name]) == shapes(lines), name
    if UPDATE:
        README.write_text(text)


def test_the_demo_took_no_shortcut(printed):
    assert any("additive" in line for line in printed["make demo"])
    assert not any("error" in line for name, lines in printed.items() if "OFFLINE" not in name for line in lines)
