"""Make report pages: tables, figures, and the template that holds them; one HTML file that needs no other."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from ..files import replacing
from ..version import __version__

TEMPLATES = Path(__file__).parent / "templates"
Value = str | int | float | None

SCENARIOS = {  # what a sample is to a checkpoint, in words
    "IS": "in-sample, a sample that the model was trained on",
    "VAL": "a sample that only stopped the training",
    "OOS": "out-of-sample, another sample of the same cohorts",
    "OOD": "other cohort, out of distribution",
}
PLACES = {"in": "cells inside spots", "out": "cells outside all spots"}


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of a name and numbers (None where there is none)."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True)
class Image:
    """A figure as a page holds it."""

    name: str
    base64: str


def legend(scenarios: Iterable[str]) -> str:
    """Write out the scenarios among names such as OOS_in, and what is inside and outside; empty without any."""
    parts = [part for name in scenarios for part in name.split("_")]
    words = [f"{short}: {SCENARIOS[short]}" for short in SCENARIOS if short in parts]
    words += [f"_{short}: {PLACES[short]}" for short in PLACES if short in parts]
    return f"{'; '.join(words)}." if words else ""


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> list[Image]:
    """Write figures as PNG and PDF into the folder; give what a page needs of them."""
    images = []
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        with replacing(folder / f"{name}.png") as part:
            part.write_bytes(buffer.getvalue())
        with replacing(folder / f"{name}.pdf") as part:
            figure.savefig(part, format="pdf", dpi=200)
        images.append(Image(name, base64.b64encode(buffer.getvalue()).decode()))
    return images


def write_page(path: Path, template: Path, **values: object) -> Path:
    """Fill a template, which may extend page.html.j2, and write the page; gives its path."""
    loader = FileSystemLoader([template.parent, TEMPLATES])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["shown"] = _shown
    page = environment.get_template(template.name).render(version=__version__, **values)
    with replacing(path) as part:
        part.write_text(page)
    return path


def _shown(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
