"""Of each question the first passages and the ranks of the relevant ones are kept, with short texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Passage
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.question_results import LISTED, TEXT_CHARS
from tests.unit.evaluation.report.by_hand import BENCHMARK, GivenScores, report_by_hand


def test_first_passages_and_ranks_are_those_on_paper():
    one, other = report_by_hand().results.questions.to_pylist()
    assert one["result_ids"] == ["de:0", "en:1", "de:1", "en:0"]
    assert one["result_scores"] == pytest.approx([0.9, 0.7, 0.5, 0.3])
    assert (one["relevant_ids"], one["relevant_languages"]) == (["de:0", "en:0"], ["de", "en"])
    assert (one["relevant_ranks"], one["relevant_language_ranks"]) == ([1, 4], [1, 2])
    assert one["average_precision"] == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert (other["relevant_ranks"], other["relevant_language_ranks"]) == ([3, 2], [1, 2])
    assert other["average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("run_depth", [1, 3, 100])
def test_first_passages_do_not_depend_on_the_depth_of_run_trec(run_depth: int):
    report = report_by_hand(run_depth)
    assert report.run.passage_indices.shape[1] == min(run_depth, 4)
    assert report.results.questions.equals(report_by_hand().results.questions)


def test_relevant_passage_that_the_pool_lacks_has_no_id_and_no_rank():
    judgements = {**BENCHMARK.judgements, "q:de": {"de:0": 1, "gone": 1}}
    benchmark = replace(BENCHMARK, judgements=judgements, absent={"gone": "en"})
    row = evaluate_benchmark(GivenScores(), benchmark, EvaluateConfig()).results.questions.to_pylist()[0]
    assert (row["relevant_ids"], row["relevant_languages"]) == ([None, "de:0"], ["en", "de"])
    assert (row["relevant_ranks"], row["relevant_language_ranks"]) == ([None, 1], [None, 1])


def test_only_passages_that_are_named_are_kept_and_long_texts_are_cut():
    passages = [Passage(f"p{number}", "en", f"{number} " + "word " * 400) for number in range(20)]
    judgements = {"q:de": {"p19": 1}, "q:en": {"p0": 1}}
    benchmark = replace(BENCHMARK, passages=sorted(passages, key=lambda one: one.passage_id), judgements=judgements)

    class Falling(GivenScores):
        def passages(self, texts):
            return np.linspace([1, 1], [0, 0], len(texts), dtype=np.float32)

    results = evaluate_benchmark(Falling(), benchmark, EvaluateConfig()).results
    kept = results.passages["passage_id"].to_pylist()
    assert kept == [*sorted(one.passage_id for one in passages)[:LISTED], "p19"]
    texts = results.passages["text"].to_pylist()
    assert all(TEXT_CHARS - 5 < len(text) <= TEXT_CHARS and text.endswith(" word…") for text in texts)
