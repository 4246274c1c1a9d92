"""Report pages: tags are closed, text is escaped, scenarios are written out."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from pages import unbalanced

from ds2c_cli.benchmark import report as benchmark_report
from ds2c_cli.evaluation.page import TEMPLATES, Table, legend, save_figures, write_page
from ds2c_cli.evaluation.report import ORDER
from ds2c_cli.models import MODELS
from ds2c_cli.training.train import CELL_SUPERVISED

TABLES = [Table("r of <A> & 'B'", ["model", "OOS"], [["a <b>", 0.12345], ["none", None], ["nan", float("nan")]])]


def evaluation(folder: Path) -> str:
    figures = save_figures(folder, {"one": Figure()})
    path = write_page(
        folder / "report.html", TEMPLATES / "evaluation.html.j2", name="<mine>", samples="a (1 scored)",
        warnings=["a & b"], legend=legend(["OOS_in"]), tables=TABLES, more_tables=[("all", TABLES)], figures=figures,
        all_scores=TABLES[0],
    )  # fmt: skip
    return path.read_text()


def benchmark(folder: Path) -> str:
    figures = save_figures(folder, {"one": Figure()})
    path = write_page(
        folder / "report.html", benchmark_report.TEMPLATE, name="<mine>", summary=["a & b."], legend="",
        tables=TABLES, reference="<additive>", differences=TABLES, figures=figures, costs=TABLES, resamples=10_000,
    )  # fmt: skip
    return path.read_text()


@pytest.mark.parametrize("made", [evaluation, benchmark])
def test_every_tag_is_closed_and_text_is_escaped(made, tmp_path):
    page = made(tmp_path)
    assert unbalanced(page) == []
    assert page.count("<table>") == page.count("</table>") >= 3
    assert "&lt;mine&gt;" in page
    assert "a &amp; b" in page
    assert "<td>a &lt;b&gt;</td><td>0.123</td>" in page
    assert page.count("<td>–</td>") == 2 * page.count("<table>")
    assert 'src="data:image/png;base64,' in page
    assert (tmp_path / "one.pdf").exists()


def test_the_check_of_tags_finds_what_is_open():
    assert unbalanced("<p>a<table><tr><td>b</table>")
    assert unbalanced("<p>a</p></div>")
    assert not unbalanced('<p>a<img src="b"></p>')


def test_the_templates_are_files_of_the_package():
    for package in ("ds2c_cli.evaluation", "ds2c_cli.benchmark"):
        found = [each.name for each in (resources.files(package) / "templates").iterdir()]
        assert [name for name in found if name.endswith(".html.j2")]


def test_scenarios_are_written_out_where_they_occur():
    words = legend(["OOS_in", "OOS_out", "OOS"])
    assert "OOS: out-of-sample" in words
    assert "_in: cells inside spots; _out: cells outside" in words
    assert "in-sample, a" not in words
    assert legend([]) == ""


def test_every_model_has_its_place_before_the_ceiling():
    assert set(MODELS) < set(ORDER)
    assert ORDER[-1] == CELL_SUPERVISED
    assert [name for name in ORDER if name in ("mlp", "paper", "additive")] == ["mlp", "paper", "additive"]
