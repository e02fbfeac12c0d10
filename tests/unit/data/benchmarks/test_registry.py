"""Benchmarks are read as published, and what is wrong with a file is said in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.data.benchmarks import ReadOptions, check_options, load_benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.evaluation.evaluator import check_benchmark

# Roy et al. 2020, table 2: 1,190 questions in each language, and so many sentences.
XQUAD_R = {
    **{"ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244},
    **{"ru": 1219, "th": 852, "tr": 1167, "vi": 1209, "zh": 1196},
}


def _paragraph(context: str, breaks: list[list[int]], *questions: tuple[str, str, int]) -> dict[str, Any]:
    qas = [{"id": i, "question": q, "answers": [{"answer_start": a}]} for i, q, a in questions]
    return {"context": context, "sentence_breaks": breaks, "qas": qas}


def _write(folder: Path, language: str, *paragraphs: dict[str, Any]) -> None:
    document = {"data": [{"title": "t", "paragraphs": [paragraph]} for paragraph in paragraphs]}
    (folder / f"{language}.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path, "en", _paragraph("One. Two.", [[0, 5], [5, 9]], ("a", "Which?", 5), ("b", "What?", 0)))
    _write(tmp_path, "de", _paragraph("Eins. Zwei.", [[0, 6], [6, 11]], ("a", "Welche?", 6)))
    return tmp_path


def test_sentences_are_passages_and_translations_share_judgements(folder: Path):
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


def test_with_paragraph_changes_the_text_alone(folder: Path):
    alone, together = (
        load_benchmark("squad", str(folder)),
        load_benchmark("squad", str(folder), ReadOptions(with_paragraph=True)),
    )
    assert together.passages[0].text == "Eins. Eins. Zwei."
    assert [p.passage_id for p in together.passages] == [p.passage_id for p in alone.passages]
    assert together.judgements == alone.judgements


def test_a_question_without_an_answer_has_no_judgement(tmp_path: Path):
    paragraph = _paragraph("One.", [[0, 4]], ("a", "Which?", 0))
    paragraph["qas"].append({"id": "b", "question": "What?", "answers": []})
    _write(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert len(benchmark.queries) == 2
    assert list(benchmark.judgements) == ["en:a"]


def test_xquad_r_has_its_published_counts(shared_data: Path):
    benchmark = load_benchmark("xquad-r", str(shared_data / "xquad-r"))
    check_benchmark(benchmark)
    count = dict.fromkeys(XQUAD_R, 0)
    for passage in benchmark.passages:
        count[passage.language] += 1
    assert count == XQUAD_R
    assert (len(benchmark.passages), benchmark.split) == (13_014, "")
    asked = [query.language for query in benchmark.queries]
    assert {language: asked.count(language) for language in set(asked)} == dict.fromkeys(XQUAD_R, 1_190)
    # A passage of each language answers each question.
    assert {tuple(sorted(passage_id[:2] for passage_id in judged)) for judged in benchmark.judgements.values()} == {
        tuple(XQUAD_R)
    }
    assert len(benchmark.judgements) == 11 * 1_190
    assert not benchmark.rejects


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(CorpusError, match="did you mean 'xquad-r'"):
        load_benchmark("xquad", None)
    with pytest.raises(
        CorpusError, match="there are embedded, xquad-r, squad, mlqa-r, miracl, mrtydi, beir, mldr, xm3600, pairs"
    ):
        load_benchmark("zzz", None)


@pytest.mark.parametrize(("name", "folder"), [("embedded", "/somewhere"), ("embedded/de", None)])
def test_the_embedded_benchmark_has_no_folder_and_no_parts(name: str, folder: str | None):
    with pytest.raises(
        CorpusError, match=r"'embedded' comes with the package, whole; write embedded, not embedded[=/]"
    ):
        load_benchmark(name, folder)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["pairs"], ReadOptions(split="dev"), "the benchmark 'pairs' has no splits; leave out --split"),
        (["squad", "xm3600/de"], ReadOptions(split="test"), "the benchmarks 'squad', 'xm3600/de' have no splits;"),
        (
            ["beir/nq"],
            ReadOptions(with_paragraph=True),
            "'beir/nq' has no paragraphs around passages; leave out --with-",
        ),
        (["embedded"], ReadOptions(with_paragraph=True), "'embedded' has no paragraphs around passages"),
    ],
)
def test_an_option_that_no_benchmark_knows_is_refused(names: list[str], options: ReadOptions, message: str):
    with pytest.raises(CorpusError, match=message):
        check_options(names, options)


def test_an_option_that_one_benchmark_knows_is_passed_over_by_the_others(folder: Path):
    both = ReadOptions(with_paragraph=True, split="dev")
    check_options(["pairs", "squad", "miracl/sw"], both)
    check_options(["mlqa-r"], both)
    check_options(["pairs"], ReadOptions())
    check_options([], both)
    check_options(["xquad"], both)  # which there is not, as load_benchmark tells
    assert load_benchmark("squad", str(folder), both).split == ""


def test_missing_files_are_told(tmp_path: Path):
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
def test_a_broken_file_is_told_in_one_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "en.json").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_benchmark("squad", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_broken_archive_is_told(tmp_path: Path):
    whole = gzip.compress(b'{"data": []}')
    for content in (b"not gzip", whole[:-6], whole[:12] + b"\xff" * 8):
        (tmp_path / "en.json.gz").write_bytes(content)
        with pytest.raises(CorpusError, match="fetch it again"):
            load_benchmark("squad", str(tmp_path))


def test_the_same_question_twice_is_noted_and_the_first_kept(tmp_path: Path):
    _write(tmp_path, "en", _paragraph("One.", [[0, 4]], ("a", "Which?", 0), ("a", "What?", 0)))
    benchmark = load_benchmark("squad", str(tmp_path))
    assert [query.text for query in benchmark.queries] == ["Which?"]
    assert [(reject.reason, reject.detail) for reject in benchmark.rejects] == [("repeated query id", "en:a")]


def test_paragraphs_without_sentence_breaks_are_cut_in_sentences(tmp_path: Path):
    paragraph = _paragraph("Dr. Wu came. She stayed!  Why?", [], ("a", "Who?", 0), ("b", "What?", 17))
    del paragraph["sentence_breaks"]
    _write(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert [passage.text for passage in benchmark.passages] == ["Dr. Wu came.", "She stayed!", "Why?"]
    assert benchmark.judgements == {"en:a": {"en:00000:000": 1}, "en:b": {"en:00000:001": 1}}
    assert not benchmark.rejects


def test_an_answer_outside_every_sentence_is_counted_and_the_question_kept(tmp_path: Path):
    _write(tmp_path, "en", _paragraph("One. Two.", [[0, 4], [5, 9]], ("a", "Which?", 5), ("b", "What?", 70)))
    benchmark = load_benchmark("squad", str(tmp_path))
    assert len(benchmark.queries) == 2
    reasons = [(reject.location, reject.reason) for reject in benchmark.rejects]
    assert reasons == [("en.json b", "answer in no sentence"), ("en:b", "query without a relevant passage")]


@pytest.mark.parametrize(("start", "text"), [(5, "One"), (5, "Two.."), (-4, "One"), (70, "Two"), (1, "Caf\u00e9")])
def test_an_answer_that_does_not_stand_at_its_offset_is_told_and_is_none(tmp_path: Path, start: int, text: str):
    paragraph = _paragraph("Cafe\u0301 One. Two.", [[0, 10], [11, 15]], ("a", "Which?", start), ("b", "What?", 11))
    for question, answer in zip(paragraph["qas"], (text, "Two"), strict=True):
        question["answers"][0]["text"] = answer
    _write(tmp_path, "en", paragraph)
    benchmark = load_benchmark("squad", str(tmp_path))
    assert benchmark.judgements == {"en:b": {"en:00000:001": 1}}
    assert [(reject.location, reject.reason) for reject in benchmark.rejects] == [
        ("en.json a", "answer not at its offset"),
        ("en:a", "query without a relevant passage"),
    ]
