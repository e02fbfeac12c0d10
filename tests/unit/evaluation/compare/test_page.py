"""The page of a comparison has the numbers of the reports, and nothing of what their names contain."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hbt_ray.cli import main
from hbt_ray.config import EvaluateConfig
from hbt_ray.evaluation.compare import RunGroup, differences, run_groups_in, write_comparison_page
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.report import write_report
from tests.helpers.html_pages import read_page
from tests.unit.evaluation.test_evaluator import LANGUAGES, parallel_benchmark, topic_embedder

NASTY = "<script>alert(1)</script>\u202e[bold]"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the reports of a noisy encoder and of a less noisy one."""
    root = tmp_path_factory.mktemp("reports")
    benchmark = parallel_benchmark(12)
    written = []
    for name, noise in (("noisy", 1.0), ("better", 0.3)):
        report = evaluate_benchmark(topic_embedder(benchmark, noise=noise, bias=0.4), benchmark, EvaluateConfig())
        described = {"path": f"models/{name}", "query_prefix": NASTY}
        written.append(write_report(report, root / name, described, EvaluateConfig(figures=False)))
    return written


def test_numbers_of_the_page_equal_the_reports_and_the_tests(folders: list[Path], tmp_path: Path):
    groups = run_groups_in([str(folder) for folder in folders])
    tested = differences(groups)
    page = read_page(write_comparison_page(groups, tmp_path, tested=tested).read_text(encoding="utf-8"))
    metrics, tests, first, second, *by_language = page.tables
    assert metrics[0] == ["run", "mono mAP ↑", "cross mAP ↑", "multi mAP ↑", "rank distance ↓"]
    names = ["tiny/mono/map", "tiny/cross/map", "tiny/multi/map", "tiny/multi/rank_distance"]
    for row, group in zip(metrics[1:], groups, strict=True):
        assert [float(cell) for cell in row[1:]] == pytest.approx([group.mean(name) for name in names], abs=0.05)
        assert row[1] == f"{group.mean(names[0]):.4f}"
    assert len(tests) == 1 + len(tested) == 5
    assert tests[0] == ["run", "measure", "of", "difference", "95% interval", "p (Holm)", "verdict"]
    assert {row[2] for row in tests[1:]} == {"models"}  # a seed is not known
    assert [float(row[5].removeprefix("≤ ")) for row in tests[1:]] == [round(one.p_of_models, 4) for one in tested]
    assert tests[1][3] == f"+{tested[0].models.mean:.4f}"
    assert [row[0] for row in first[1:]] == list(LANGUAGES)
    pair = groups[1].mean("tiny/cross/map/de-en") - groups[0].mean("tiny/cross/map/de-en")  # type: ignore[operator]
    assert second[1][2] == f"{pair:+.2f}".replace("0.", ".", 1).replace("-", "−")
    assert [len(table) for table in by_language] == [4, 4]
    assert f"{groups[0].mean('tiny/multi/map/tr'):.4f}" in by_language[0][3]


def test_page_shows_model_settings_and_fingerprint_as_text(folders: list[Path], tmp_path: Path):
    groups = [RunGroup.of_run(NASTY, folder) for folder in folders]
    html = write_comparison_page(groups, tmp_path, title=NASTY).read_text(encoding="utf-8")
    page = read_page(html)
    assert "\u202e" not in html
    for words in ("models/better", "36 queries, 36 passages, 3 languages", "fingerprint ", "run depth", "<script>"):
        assert words in page.text, words


def test_page_of_one_run_without_tests_is_written_twice_with_equal_bytes(folders: list[Path], tmp_path: Path):
    groups = [RunGroup.of_run("only", folders[0])]
    one, two = (write_comparison_page(groups, tmp_path / name) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert "Against" not in read_page(one.read_text(encoding="utf-8")).text


def test_tracked_runs_without_reports_have_a_page_too(tmp_path: Path):
    groups = [RunGroup(name, ({"tiny/mono/map": value},)) for name, value in (("a", 0.25), ("b", 0.5))]
    page = read_page(write_comparison_page(groups, tmp_path).read_text(encoding="utf-8"))
    assert page.tables == [[["run", "mono mAP ↑"], ["a", "0.2500"], ["b", "0.5000"]]]
    assert page.text.count("It has no report.") == 2


def test_compare_with_out_writes_the_page_and_the_figure(folders: list[Path], tmp_path: Path):
    arguments = ["compare", *map(str, folders), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert f"page     {tmp_path / 'out' / 'report.html'}" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.png", "report.html"}
