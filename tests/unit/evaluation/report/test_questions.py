"""The worst and evenly spaced questions of each language are found, and any question by its id."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.config import EvaluateConfig
from hbt_ray.errors import UserError
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.report.questions import QuestionCollection
from tests.unit.evaluation.report.by_hand import report_by_hand
from tests.unit.evaluation.test_evaluator import parallel_benchmark, topic_embedder


@pytest.fixture(scope="module")
def questions() -> QuestionCollection:
    benchmark = parallel_benchmark(12)
    return QuestionCollection(
        evaluate_benchmark(topic_embedder(benchmark, noise=0.8), benchmark, EvaluateConfig()).results
    )


def test_question_has_its_languages_passage_first_and_marks_relevant_ones():
    question = QuestionCollection(report_by_hand().results).find("q:en")
    assert question.best is not None
    assert (question.best.passage_id, question.best.rank, question.best.language_rank) == ("en:1", 2, 2)
    assert question.best.text == "Text of en:1."
    assert question.ranks_by_language == [("en", 2), ("de", 3)]
    assert [(one.passage_id, one.is_relevant) for one in question.listed] == [
        ("en:0", False),
        ("en:1", True),
        ("de:1", True),
        ("de:0", False),
    ]


def test_worst_questions_have_the_lowest_average_precision(questions: QuestionCollection):
    worst = questions.worst("de", 12)
    values = [question.average_precision for question in worst]
    assert values == sorted(values)
    assert {question.language for question in worst} == {"de"}
    assert questions.worst("de", 3) == worst[:3]


def test_translations_of_a_question_are_sampled_together(questions: QuestionCollection):
    items = {
        language: [question.query_id.split(":")[1] for question in questions.sampled(language, 3)]
        for language in questions.languages
    }
    assert items["de"] == items["en"] == items["tr"] == ["0", "3", "9"]  # of 0 1 10 11 2 3 4 5 6 7 8 9


def test_languages_of_first_passages_are_shares_of_all_first_passages():
    languages, shares = QuestionCollection(report_by_hand().results).first_languages()
    assert languages == ["de", "en"]
    assert np.array_equal(shares, [[0.5, 0.5], [0.5, 0.5]])


def test_unknown_question_and_language_are_answered_with_what_there_is(questions: QuestionCollection):
    with pytest.raises(UserError, match=r"no question 'de:99'; its ids are like 'de:0'"):
        questions.find("de:99")
    with pytest.raises(UserError, match=r"no question in 'xx'; it has de, en, tr"):
        questions.check_language("xx")
    assert questions.check_language("DE") == "de"
