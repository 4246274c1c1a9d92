"""Settings: the example of a settings file says every one of them, with its default."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from ds2c_cli.project import Project
from ds2c_cli.settings import Embedding, Geometry, Training

EXAMPLE = Path(__file__).parents[1] / "examples" / "ds2c.toml"


@pytest.mark.parametrize("section", [Geometry, Embedding, Training])
def test_the_example_of_a_settings_file_says_the_defaults(section, tmp_path, monkeypatch):
    for name in section.model_fields:
        monkeypatch.delenv(f"DS2C_{name.upper()}", raising=False)
    shutil.copy(EXAMPLE, tmp_path / "ds2c.toml")
    assert Project(tmp_path).settings(section, {}) == section()
    table = tomllib.loads(EXAMPLE.read_text())[section.__name__.lower()]
    assert list(table) == list(section.model_fields)
