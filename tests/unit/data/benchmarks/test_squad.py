"""Benchmarks in SQuAD's format."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions, load_benchmark
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.evaluation.evaluator import check_benchmark
from tests.helpers.benchmark_files import squad_paragraph, write_squad

# Roy et al. 2020, table 2: the number of sentences; each language has 1,190 questions.
XQUAD_R = {
    **{"ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244},
    **{"ru": 1219, "th": 852, "tr": 1167, "vi": 1209, "zh": 1196},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_squad(tmp_path, "en", squad_paragraph("One. Two.", [[0, 5], [5, 9]], ("a", "Which?", 5), ("b", "What?", 0)))
    write_squad(tmp_path, "de", squad_paragraph("Eins. Zwei.", [[0, 6], [6, 11]], ("a", "Welche?", 6)))
    return tmp_path


def test_sentences_are_passages_and_translations_share_them(folder: Path):
    benchmark = load_benchmark("squad", str(folder))
    assert [(p.passage_id, p.language, p.text) for p in benchmark.passages] == [
        ("de:00000:000", "de", "Eins."),
        ("de:00000:001", "de", "Zwei."),
        ("en:00000:000", "en", "One."),
        ("en:00000:001", "en", "Two."),
    ]
    assert [query.query_id for query in benchmark.queries] == ["de:a", "en:a", "en:b"]
    assert benchmark.judgements == {
        "de:a": {"de:00000:001": 1, "en:00000:001": 1},
        "en:a": {"de:00000:001": 1, "en:00000:001": 1},
        "en:b": {"en:00000:000": 1},
    }


def test_questions_on_one_paragraph_in_any_language_are_one_cluster(folder: Path):
    before = load_benchmark("squad", str(folder))
    assert {query.query_id: query.cluster for query in before.queries} == {"de:a": "a", "en:a": "a", "en:b": "a"}
    write_squad(folder, "es", squad_paragraph("Uno.", [[0, 4]], ("c", "¿Cuál?", 0)))
    clusters = {query.query_id: query.cluster for query in load_benchmark("squad", str(folder)).queries}
    assert clusters == {"de:a": "a", "en:a": "a", "en:b": "a", "es:c": "c"}


def test_clusters_are_not_in_the_fingerprint(folder: Path):
    benchmark = load_benchmark("squad", str(folder))
    without = [replace(query, cluster="") for query in benchmark.queries]
    assert replace(benchmark, queries=without).fingerprint() == benchmark.fingerprint()


def test_with_paragraph_changes_only_the_texts(folder: Path):
    without = load_benchmark("squad", str(folder))
    together = load_benchmark("squad", str(folder), ReadOptions(with_paragraph=True))
    assert together.passages[0].text == "Eins. Eins. Zwei."
    assert [p.passage_id for p in together.passages] == [p.passage_id for p in without.passages]
    assert together.judgements == without.judgements


def test_question_without_an_answer_has_no_judgement(tmp_path: Path):
    paragraph = squad_paragraph("One.", [[0, 4]], ("a", "Which?", 0))
    paragraph["qas"].append({"id": "b", "question": "What?", "answers": []})
    write_squad(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert len(benchmark.queries) == 2
    assert list(benchmark.judgements) == ["en:a"]


def test_question_marked_as_unanswerable_is_no_query(tmp_path: Path):
    paragraph = squad_paragraph("One.", [[0, 4]], (7, "Which?", 0))  # type: ignore[arg-type]
    paragraph["qas"].append({"id": "b", "question": "What?", "is_impossible": True, "answers": []})
    write_squad(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert [query.query_id for query in benchmark.queries] == ["en:7"]
    assert [reject.reason for reject in benchmark.rejects] == ["marked as unanswerable"]


def test_xquad_r_has_its_published_counts(xquad_r: Benchmark):
    check_benchmark(xquad_r)
    count = dict.fromkeys(XQUAD_R, 0)
    for passage in xquad_r.passages:
        count[passage.language] += 1
    assert count == XQUAD_R
    assert (len(xquad_r.passages), xquad_r.split) == (13_014, "")
    languages = [query.language for query in xquad_r.queries]
    assert {language: languages.count(language) for language in set(languages)} == dict.fromkeys(XQUAD_R, 1_190)
    # A passage of each language answers each question.
    assert {tuple(sorted(passage_id[:2] for passage_id in judged)) for judged in xquad_r.judgements.values()} == {
        tuple(XQUAD_R)
    }
    assert len(xquad_r.judgements) == 11 * 1_190
    assert len({query.cluster for query in xquad_r.queries}) == 240  # its paragraphs
    assert not xquad_r.rejects


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(CorpusError, match="needs the folder"):
        load_benchmark("xquad-r", None)
    with pytest.raises(CorpusError, match="nothing at"):
        load_benchmark("xquad-r", str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match="<language>"):
        load_benchmark("xquad-r", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"en\.json.*Invalid JSON"),
        (b"[]", "is not SQuAD"),
        (b'{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\]\.paragraphs\[0\]\.context: Field required"),
    ],
)
def test_error_of_a_malformed_file_is_one_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "en.json").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_benchmark("squad", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_damaged_gzip_file_is_refused(tmp_path: Path):
    whole = gzip.compress(b'{"data": []}')
    for content in (b"not gzip", whole[:-6], whole[:12] + b"\xff" * 8):
        (tmp_path / "en.json.gz").write_bytes(content)
        with pytest.raises(CorpusError, match="fetch it again"):
            load_benchmark("squad", str(tmp_path))


def test_repeated_question_is_rejected_and_the_first_is_kept(tmp_path: Path):
    write_squad(tmp_path, "en", squad_paragraph("One.", [[0, 4]], ("a", "Which?", 0), ("a", "What?", 0)))
    benchmark = load_benchmark("squad", str(tmp_path))
    assert [query.text for query in benchmark.queries] == ["Which?"]
    assert [(reject.reason, reject.detail) for reject in benchmark.rejects] == [("repeated query id", "en:a")]


def test_paragraphs_without_sentence_breaks_are_split(tmp_path: Path):
    paragraph = squad_paragraph("Dr. Wu came. She stayed!  Why?", [], ("a", "Who?", 0), ("b", "What?", 17))
    del paragraph["sentence_breaks"]
    write_squad(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert [passage.text for passage in benchmark.passages] == ["Dr. Wu came.", "She stayed!", "Why?"]
    assert benchmark.judgements == {"en:a": {"en:00000:000": 1}, "en:b": {"en:00000:001": 1}}
    assert not benchmark.rejects


def test_answer_outside_of_sentences_is_rejected_but_no_question(tmp_path: Path):
    write_squad(tmp_path, "en", squad_paragraph("One. Two.", [[0, 4], [5, 9]], ("a", "Which?", 5), ("b", "What?", 70)))
    benchmark = load_benchmark("squad", str(tmp_path))
    assert len(benchmark.queries) == 2
    reasons = [(reject.location, reject.reason) for reject in benchmark.rejects]
    assert reasons == [("en.json b", "answer in no sentence"), ("en:b", "query without a relevant passage")]


@pytest.mark.parametrize(("start", "text"), [(5, "One"), (5, "Two.."), (-4, "One"), (70, "Two"), (1, "Caf\u00e9")])
def test_answer_not_at_its_offset_is_rejected(tmp_path: Path, start: int, text: str):
    paragraph = squad_paragraph("Cafe\u0301 One. Two.", [[0, 10], [11, 15]], ("a", "Which?", start), ("b", "What?", 11))
    for question, answer in zip(paragraph["qas"], (text, "Two"), strict=True):
        question["answers"][0]["text"] = answer
    write_squad(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert benchmark.judgements == {"en:b": {"en:00000:001": 1}}
    assert [(reject.location, reject.reason) for reject in benchmark.rejects] == [
        ("en.json a", "answer not at its offset"),
        ("en:a", "query without a relevant passage"),
    ]
