"""The page of a report has its numbers, runs nothing that texts contain, and stays small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ir_measures
import pytest
from ir_measures import AP, RR, R, Success, nDCG

from hbt_ray import __version__
from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.report import write_report
from hbt_ray.evaluation.report.page import report_page, trec_rows
from tests.helpers.html_pages import read_page
from tests.unit.evaluation.report.by_hand import BENCHMARK, GivenScores, report_by_hand, report_with_texts
from tests.unit.evaluation.test_evaluator import parallel_benchmark, topic_embedder
from tests.unit.evaluation.test_report import WholeNumbers
from tests.unit.utils.test_html_page import NASTY

SETTINGS = EvaluateConfig(figures=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    benchmark = parallel_benchmark(12)
    report = evaluate_benchmark(topic_embedder(benchmark, noise=0.7, bias=0.4), benchmark, EvaluateConfig(run_depth=7))
    described = {"path": "models/one", "base_model": "org/base"}
    return write_report(report, tmp_path_factory.mktemp("report"), described, SETTINGS)


def test_numbers_of_the_page_equal_report_json(folder: Path):
    page = read_page((folder / "report.html").read_text(encoding="utf-8"))
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    metrics = written["metrics"]
    for name in ("mono/map", "cross/map", "multi/map", "mono/ndcg@10", "multi/ndcg@10"):
        assert f"{metrics[f'tiny/{name}']:.4f}" in page.text, name
    pairs, gap, bias, first, *_ = page.tables
    low, high = written["intervals"]["tiny/gap/map"]
    assert gap[1] == ["mAP", f"{metrics['tiny/gap/map']:.4f}", f"{low:.4f} to {high:.4f}"]
    assert gap[2][0] == "size-matched mAP"
    assert pairs[0][1:] == ["de", "en", "tr"]
    assert pairs[2][1] == f"{metrics['tiny/cross/map/en-de']:.2f}".removeprefix("0")
    headlines = ["mono mAP", "cross mAP", "multi mAP", "rank distance"]
    assert bias[0] == ["language", *headlines, "max rank", "same language first"]
    assert bias[3][1:] == [
        f"{metrics['tiny/mono/map/tr']:.4f}",
        f"{(metrics['tiny/cross/map/tr-de'] + metrics['tiny/cross/map/tr-en']) / 2:.4f}",
        f"{metrics['tiny/multi/map/tr']:.4f}",
        f"{metrics['tiny/multi/rank_distance/tr']:,.1f}",
        f"{metrics['tiny/multi/max_rank/tr']:,.1f}",
        f"{metrics['tiny/multi/same_language_first/tr']:.4f}",
    ]
    assert bias[4][:2] == ["worst-tenth", f"{min(metrics[f'tiny/mono/map/{x}'] for x in ('de', 'en', 'tr')):.4f}"]
    assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=0.03) for row in first[1:])
    words = ["models/one", "org/base", written["fingerprint"], written["date"], f"version{__version__}", "36 queries"]
    for word in words:
        assert word in page.text.replace("\n", ""), word


def test_difference_from_ir_measures_is_computed_and_explained(folder: Path):
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    run = list(ir_measures.read_trec_run(str(folder / "run.trec")))
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.trec")))
    measures = {
        **{"map": AP, "ndcg@10": nDCG @ 10, "recall@1": R @ 1, "recall@10": R @ 10, "recall@100": R @ 100},
        **{"success@10": Success @ 10, "mrr": RR, "mrr@10": RR @ 10},
    }
    theirs = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    assert written["run.trec"] == pytest.approx({name: theirs[measure] for name, measure in measures.items()})
    [shown] = [table for table in read_page((folder / "report.html").read_text()).tables if "run.trec" in table[0]]
    assert shown[1][0] == "multi mAP"
    assert shown[1][3] == "run.trec ends at rank 7"
    assert shown[3] == ["multi recall@1", *[f"{theirs[R @ 1]:.4f}"] * 2, "equal"]


def test_run_file_metrics_are_those_on_paper():
    report = report_by_hand(run_depth=2)  # q:de finds de:0 at rank 1 only, q:en finds en:1 at rank 2 only
    assert report.run_file_metrics["map"] == pytest.approx(((1 / 1) / 2 + (1 / 2) / 2) / 2)
    assert report.metrics["paper/multi/map"] == pytest.approx((0.75 + (1 / 2 + 2 / 3) / 2) / 2)
    assert trec_rows(report)[0] == ["multi mAP", "0.6667", "0.3750", "run.trec ends at rank 2"]
    assert trec_rows(report_by_hand())[0][3] == "equal"


def test_questions_are_shown_with_gold_passage_and_first_passages():
    page = read_page(report_page(report_by_hand(), {}))
    for words in ("Wo?", "✓ de · rank 1 of all, 1 in its language", "Best rank by language: de 1 · en 4", "0.9000"):
        assert words in page.text, words
    assert page.attributes.count(("span", "dir", "auto")) == 2 * (1 + 4)
    assert page.attributes.count(("p", "dir", "auto")) == 2


def test_texts_and_ids_of_a_benchmark_never_become_markup():
    texts = ["plain", *(text.replace("\ud800", "") for text in NASTY), "{% raw %}{{ title }}"]
    html = report_page(report_with_texts(texts), {"model": "</title><script>", "settings": {"x": "<b>"}})
    page = read_page(html)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ title }}" in page.text
    assert "\u202e" not in html


def test_question_without_a_relevant_passage_is_left_out_of_the_worst():
    benchmark = replace(BENCHMARK, judgements={"q:de": {"de:0": 1}})
    page = read_page(report_page(evaluate_benchmark(GivenScores(), benchmark, EvaluateConfig()), {}))
    assert "Wo?" in page.text
    assert "Where?" not in page.text
    assert "ours counts questions without a judgement as 0" in page.text


def test_page_of_11_languages_with_long_texts_is_under_one_megabyte():
    languages = [f"a{letter}" for letter in "abcdefghijk"]
    items = [(language, number) for language in languages for number in range(10)]
    long = "ภ" * 1000
    benchmark = Benchmark(
        "long",
        [Query(f"{language}:{number}", language, f"{language}{number}{long}") for language, number in items],
        [Passage(f"{language}:{number:02}", language, f"{language}{number}{long}") for language, number in items],
        {f"{language}:{number}": {f"{other}:{number:02}": 1 for other in languages} for language, number in items},
    )
    report = evaluate_benchmark(WholeNumbers(), benchmark, EvaluateConfig())
    html = report_page(report, {})
    assert len(html.encode()) < 1_000_000
    assert html.count('class="question"') > 11 * 5


def test_equal_reports_have_equal_pages(folder: Path, tmp_path: Path):
    report = report_by_hand()
    one, two = (write_report(report, tmp_path / name, settings=SETTINGS) for name in ("one", "two"))
    for name in ("report.html", "questions.parquet", "passages.parquet", "report.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
