"""Pages: every link to a file of this repository leads somewhere, and what the pages say of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ds2c_cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(path.parts))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page} links to {link}, which is no heading there"


def test_every_version_is_the_same():
    assert f"version: {ds2c_cli.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_steps_of_contributing_name_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:ds2c_cli|tests|docs|examples)/[\w./]*)`", text)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists() or {"FORMAT", "NAME"} & set(re.split(r"\W", path)), path
    for name, path in re.findall(r"`(\w+)` in\s+`(ds2c_cli/[\w./]+\.py)`", text):
        assert re.search(rf"^(?:class |def )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), f"{name} in {path}"


def test_the_architecture_page_names_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for entry in (ROOT / "ds2c_cli").iterdir():
        if entry.suffix == ".py" or (entry / "__init__.py").exists():
            assert re.search(rf"^ +{re.escape(entry.name)}", text, re.MULTILINE), entry.name


def test_the_glossary_is_one_line_per_word():
    words = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) == len(set(words)) > 30


def test_no_comment_cites_a_page_that_readers_of_this_repository_do_not_have():
    cited = re.compile(r"\b(?:DESIGN|FACTS|ENCODERS) \d")
    files = [path for folder in ("ds2c_cli", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in files if cited.search(path.read_text())]
