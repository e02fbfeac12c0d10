"""Perturbations change only the texts of queries, in the same way for every model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.debiasing.language_means import LanguageMeans
from hbt_ray.errors import CorpusError
from hbt_ray.evaluation.evaluator import embed_queries
from hbt_ray.evaluation.query_perturbation import TYPO_FRACTION, perturbed, with_typos, without_accents
from hbt_ray.evaluation.run_evaluation import evaluate_model
from hbt_ray.models.encoder import save_encoder
from tests.helpers.tiny_corpus import make_encoder
from tests.unit.evaluation.test_evaluator import TableEmbedder

QUERIES = [Query("de:1", "de", "Wo liegt Malmö?", "1"), Query("en:1", "en", "Where is Malmö located?", "1")]
BENCHMARK = Benchmark("places", QUERIES, [Passage("p", "en", "In Sweden.")], {"de:1": {"p": 1}, "en:1": {"p": 1}})


@pytest.mark.parametrize("kind", ["typos", "case", "accents", "translation"])
def test_only_the_words_of_the_queries_change(kind):
    changed = perturbed(BENCHMARK, kind)
    assert changed.name == f"places-{kind}"
    assert [(q.query_id, q.language, q.group) for q in changed.queries] == [
        (q.query_id, q.language, q.group) for q in QUERIES
    ]
    assert [q.text for q in changed.queries] != [q.text for q in QUERIES]
    assert (changed.passages, changed.judgements) == (BENCHMARK.passages, BENCHMARK.judgements)
    assert changed == perturbed(BENCHMARK, kind)


def test_case_accents_and_translation_on_paper():
    assert [q.text for q in perturbed(BENCHMARK, "case").queries] == ["WO LIEGT MALMÖ?", "WHERE IS MALMÖ LOCATED?"]
    assert perturbed(BENCHMARK, "accents").queries[0].text == "Wo liegt Malmo?"
    assert [q.text for q in perturbed(BENCHMARK, "translation").queries] == [QUERIES[1].text, QUERIES[0].text]


def test_a_translation_has_the_mean_of_its_own_language_subtracted():
    means = LanguageMeans(("de", "en"), np.array([[1, 0, 0], [0, 1, 0]], np.float32), np.zeros((2, 3), np.float32))
    vectors = {query.text: np.array([1.0, 1.0, 1.0]) + means.queries[row] for row, query in enumerate(QUERIES)}
    embedder = TableEmbedder({text: vector.astype(np.float32) for text, vector in vectors.items()})
    plain, translated = (
        embed_queries(embedder, one, means) for one in (BENCHMARK, perturbed(BENCHMARK, "translation"))
    )
    assert translated[::-1].tolist() == plain.tolist()


@pytest.mark.parametrize(("before", "after"), [("żółw Ёлка ἄνθρωπος", "zołw Елка ανθρωπος"), ("ที่นี่ हिन्दी", "ที่นี่ हिन्दी")])
def test_without_accents_keeps_marks_that_are_vowels(before, after):
    assert without_accents(before) == after


def test_translation_needs_parallel_queries():
    single = Benchmark("single", [Query("1", "en", "Why?")], BENCHMARK.passages, {})
    with pytest.raises(CorpusError, match="no query of the benchmark 'single' has a translation"):
        perturbed(single, "translation")


@given(st.text(max_size=80), st.integers(0, 2**32 - 1))
def test_typos_change_one_letter_in_a_fifth_of_the_words(text, seed):
    mistyped = with_typos(text, np.random.default_rng(seed))
    before, after = text.split(" "), mistyped.split(" ")
    assert len(after) == len(before)
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert len(changed) <= max(1, round(len(before) / 5))
    for one, other in changed:
        apart = Counter(one) - Counter(other) + (Counter(other) - Counter(one))
        assert sum(apart.values()) == abs(len(one) - len(other)) <= 1
    assert with_typos(text, np.random.default_rng(seed)) == mistyped


@given(st.text("abl ", max_size=80), st.integers(0, 2**32 - 1))
def test_typos_change_a_word_also_where_letters_are_repeated(text, seed):
    """Equal letters were swapped."""
    before, after = text.split(" "), with_typos(text, np.random.default_rng(seed)).split(" ")
    long_enough = sum(len(word) >= 3 for word in before)
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    assert changed == min(max(1, round(TYPO_FRACTION * len(before))), long_enough)


def test_perturbed_queries_search_passages_embedded_once(tmp_path: Path):
    save_encoder(make_encoder(tmp_path / "initial"), tmp_path / "model")
    settings = EvaluateConfig(benchmarks={"pairs": str(_parallel(tmp_path))}, perturbations=("case",), figures=False)
    plain, capitals = evaluate_model(str(tmp_path / "model"), settings, tmp_path / "out")
    assert (plain.benchmark, capitals.benchmark) == ("pairs", "pairs-case")
    assert plain.counts == capitals.counts
    for name in ("pairs", "pairs-case"):
        assert (tmp_path / "out" / name / "per_query.parquet").exists()
        assert not list((tmp_path / "out" / name).glob("*.png"))
    assert set(capitals.metrics) == {name.replace("pairs/", "pairs-case/") for name in plain.metrics}


def _parallel(folder: Path) -> Path:
    for language in ("de", "en"):
        rows = (f'{{"id": "{n}", "question": "{language} {n}?", "context": "{language} is {n}"}}\n' for n in range(3))
        (folder / "pairs").mkdir(exist_ok=True)
        (folder / "pairs" / f"{language}.jsonl").write_text("".join(rows))
    return folder / "pairs"
