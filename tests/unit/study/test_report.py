from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hbt_ray.config import replace_in
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import StorageError
from hbt_ray.study.report import write_study_report
from hbt_ray.study.report_sections import StudyInputs
from hbt_ray.study.results import StudyResults
from tests.helpers.full_disk import no_file_above
from tests.helpers.html_pages import read_page
from tests.unit.study.example_study import LANGUAGES, MANIFEST, SETTINGS, write_reports


def recompute(folder: Path, method: str, seed: int) -> dict[str, float]:
    """Return the metrics from an experiment's per-query files, by loops."""

    def averages(name: str) -> dict[tuple[str, str, str], float]:
        file = folder / "cells" / method / f"seed-{seed}" / "evaluation" / name / "per_query.parquet"
        found: dict[tuple[str, str, str], list[float]] = {}
        for row in pq.read_table(file).to_pylist():
            key = (row["setting"], row["language"], row["passage_language"] or "")
            found.setdefault(key, []).append(row["ap"])
        return {key: sum(values) / len(values) for key, values in found.items()}

    original, perturbed = averages("tiny"), averages("tiny-case")
    multi = np.mean([original["multi", x, ""] for x in LANGUAGES])
    gaps = [original["mono", x, x] - np.mean([original["cross", x, y] for y in LANGUAGES if y != x]) for x in LANGUAGES]
    return {
        "tiny/multi/map": multi,
        "tiny/mono/map/low-resource": original["mono", "sw", "sw"],
        "tiny/gap/map": np.mean(gaps),
        "drop/tiny/multi/map": multi - np.mean([perturbed["multi", x, ""] for x in LANGUAGES]),
    }


@pytest.fixture(scope="module")
def written(results: StudyResults) -> Path:
    """Return the folder of the study, after its report was written."""
    write_study_report(results, StudyInputs({"store": MANIFEST}), "hbt study small")
    return results.folder


@pytest.fixture
def short(results: StudyResults, tmp_path: Path) -> StudyResults:
    """Return a copy of the study without optional sections, which have most of the figures."""
    copied = StudyResults(replace_in(results.config, "chapters", ()), tmp_path / "study")
    shutil.copytree(results.folder / "cells", copied.folder / "cells")
    return copied


def test_summary_can_be_recomputed_from_the_per_query_files(written: Path):
    summary = json.loads((written / "summary.json").read_text())
    for method in SETTINGS["methods"]:
        for index, seed in enumerate((0, 1, 2)):
            for metric, value in recompute(written, method, seed).items():
                assert summary["measures"][metric][method][index] == pytest.approx(value, abs=1e-12), metric


def test_report_interrupted_by_a_full_disk_leaves_the_earlier_one(short: StudyResults):
    write_study_report(short, StudyInputs(), "first command")

    def files() -> dict[str, bytes]:
        found = (path for path in short.folder.rglob("*") if path.is_file() and "cells" not in path.parts)
        return {str(path.relative_to(short.folder)): path.read_bytes() for path in found}

    before = files()
    sizes = sorted(len(before[name]) for name in ("summary.json", "table.csv", "report.md", "report.html"))
    for size in (0, *(size - 50 for size in sizes)):
        with no_file_above(size), pytest.raises(StorageError, match="the report cannot be written"):
            write_study_report(short, StudyInputs(), "second command")
        assert files() == before, size
    write_study_report(short, StudyInputs(), "second command")
    assert files().keys() == before.keys()
    assert b"second command" in files()["report.html"]


def test_reports_of_two_equal_studies_are_equal(written: Path, benchmark: Benchmark, tmp_path: Path):
    write_study_report(write_reports(tmp_path, benchmark), StudyInputs({"store": MANIFEST}), "hbt study small")
    for name in ("summary.json", "table.csv", "report.md", "report.html"):
        assert (written / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_report_has_question_data_methods_tests_limits_and_command(written: Path):
    text = (written / "report.md").read_text()
    wanted = ["Which is better?", "numbers | 7 | 0 | 3 | 2 | 0 | made here", "mix.strategy = x-y", "not fine-tuned"]
    wanted += ["It is made up.", "hbt study small", "95% confidence", "Holm", "worst-group drop"]
    for words in wanted:
        assert words in text, words
    shown = {line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert shown == {f"figures/{file.name}" for file in (written / "figures").glob("*.png")}
    html = (written / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(shown)
    assert 'src="figures' not in html


def test_page_escapes_html_in_title_and_text(short: StudyResults):
    short.config = replace_in(replace_in(short.config, "title", "<b>&</b>"), "limits", ("<script>x</script>",))
    html = write_study_report(short, StudyInputs({"store": MANIFEST}), "hbt study small").read_text()
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt;</title>" in html
    assert "<h1>&lt;b&gt;&amp;&lt;/b&gt;</h1>" in html
    assert "<li>&lt;script&gt;" in html
    assert "<script>x" not in html
    read_page(html)


def test_page_holds_no_file_or_image_but_its_figures(short: StudyResults):
    secret = short.folder / "secret.txt"
    secret.write_text("canary", encoding="utf-8")
    images = (
        "![a](figures/../../secret.txt)",
        f"![b]({secret})",
        "![c](https://example.org/x.png)",
        "![d](figures/no.png)",
    )
    short.config = replace_in(short.config, "limits", images)
    html = write_study_report(short, StudyInputs({"store": MANIFEST}), "hbt study small").read_text()
    assert base64.b64encode(b"canary").decode() not in html
    assert all(f"<li>{text}</li>" in html for text in "abcd")
    assert re.findall(r'src="(.{22})', html) == ["data:image/png;base64,"] * html.count("<img")
    assert html.count("<img") == len(list((short.folder / "figures").glob("*.png")))
    assert "default-src 'none'" in html
