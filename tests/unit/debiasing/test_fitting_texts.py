"""Languages are fitted on equally many training items, the same ones as far as they are parallel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hbt_ray.config import CorpusConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.components import item_key
from hbt_ray.data.row_tables import read_rows
from hbt_ray.debiasing import fitting_texts
from hbt_ray.debiasing.fitting_texts import choose_items, read_fitting_texts
from hbt_ray.errors import CorpusError
from tests.helpers import model_folders, tiny_corpus

TEXTS = ("question", "passage")


def by_language(**items: str) -> dict[str, dict[tuple[str, str], tuple[str, str]]]:
    return {language: {("faq", item): TEXTS for item in of} for language, of in items.items()}


def ids(chosen: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    return {language: "".join(sorted(item for _, item in items)) for language, items in chosen.items()}


def corpus(folder: Path, items: int = 30, name: str = "faq") -> CorpusConfig:
    return CorpusConfig(format="jsonl", name=name, path=str(model_folders.write_pairs(folder, items)))


def write_different(folder: Path, items: range, languages: tuple[str, ...] = ("de", "en")) -> Path:
    """Write a corpus whose texts are no near-duplicates of each other."""
    folder.mkdir()
    for language in languages:
        rows = [
            {"id": str(n), "question": words(language, n, 6), "context": words(language, -n - 1, 12)} for n in items
        ]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(language: str, item: int, number: int) -> str:
    digits = hashlib.sha256(f"{language} {item}".encode()).hexdigest()
    return " ".join(digits[5 * n : 5 * n + 5] for n in range(number))


def test_every_language_has_as_many_items_as_the_smallest():
    assert ids(choose_items(by_language(de="abcd", en="abcdef", fr="abc"), 10, seed=0)) == dict.fromkeys(
        ("de", "en", "fr"), "abc"
    )


def test_items_in_most_languages_are_chosen_first():
    chosen = ids(choose_items(by_language(de="abxyz", en="abuvw", fr="abcde"), 4, seed=3))
    assert {language: len(items) for language, items in chosen.items()} == {"de": 4, "en": 4, "fr": 4}
    assert all({"a", "b"} <= set(items) for items in chosen.values())


def test_the_seed_chooses_among_parallel_items_the_same_in_each_language():
    many = "abcdefghijklmnop"
    found = [ids(choose_items(by_language(de=many, en=many), 4, seed)) for seed in range(5)]
    assert all(one["de"] == one["en"] for one in found)
    assert len({one["de"] for one in found}) > 1
    assert ids(choose_items(by_language(de=many, en=many), 4, 0)) == found[0]


def test_texts_of_an_item_are_translations_in_the_order_of_labels(tmp_path):
    texts = read_fitting_texts([corpus(tmp_path / "faq")], 5)
    assert (texts.languages, texts.items, texts.parallel_items) == (tiny_corpus.LANGUAGES, 5, 5)
    assert texts.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    items = [int(question.split()[-1][1:]) for question in texts.questions]
    assert items[:5] == items[5:10] == items[10:]
    languages = [language for language in tiny_corpus.LANGUAGES for _ in range(5)]
    expected = [tiny_corpus.passage(one, item).strip() for one, item in zip(languages, items, strict=True)]
    assert texts.passages == expected


def test_items_that_prepare_holds_out_are_left_out(tmp_path):
    made = CorpusConfig(format="jsonl", name="faq", path=str(write_different(tmp_path / "faq", range(200))))
    texts = read_fitting_texts([made], 1000)
    held_out = {item for item in range(200) if item_key("faq", str(item)) < 0.02 * 2**64}
    assert len(held_out) > 1
    assert set(texts.questions) == {words(x, n, 6) for x in ("de", "en") for n in set(range(200)) - held_out}


def test_repeated_items_do_not_change_which_are_held_out(tmp_path):
    folder = write_different(tmp_path / "faq", range(200))
    made = CorpusConfig(format="jsonl", name="faq", path=str(folder))
    before = read_fitting_texts([made], 1000).questions
    for file in folder.iterdir():
        copies = [{**json.loads(line), "id": f"copy {n}"} for n, line in enumerate(file.read_text().splitlines())]
        file.write_text(file.read_text() + "".join(json.dumps(row) + "\n" for row in copies))
    assert sorted(read_fitting_texts([made], 1000).questions) == sorted(before)


def test_items_that_occur_in_an_evaluation_set_are_left_out(tmp_path):
    made = CorpusConfig(format="jsonl", name="faq", path=str(write_different(tmp_path / "faq", range(30))))
    in_english = load_benchmark("pairs", str(write_different(tmp_path / "pairs", range(10, 14), ("en",))))
    before, texts = read_fitting_texts([made], 100), read_fitting_texts([made], 100, 0, [in_english])
    assert (texts.items_excluded, texts.items) == (4, before.items - 4)
    assert set(before.questions) - set(texts.questions) == {words(x, n, 6) for x in ("de", "en") for n in range(10, 14)}


def test_one_language_is_refused(tmp_path):
    (tmp_path / "en.jsonl").write_text(json.dumps({"id": "1", "question": "q", "context": "c"}) + "\n")
    made = CorpusConfig(format="jsonl", path=str(tmp_path))
    with pytest.raises(CorpusError, match=r"the corpora have one language only, en, and .* two languages or more$"):
        read_fitting_texts([made], 5)


def test_corpora_without_a_row_are_refused(tmp_path):
    for language in ("de", "en"):
        (tmp_path / f"{language}.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match="corpus 'faq' has no row that can be used"):
        read_fitting_texts([CorpusConfig(format="jsonl", name="faq", path=str(tmp_path))], 5)


def test_a_line_of_plain_text_is_question_and_passage(tmp_path):
    for language in ("de", "en"):
        (tmp_path / f"{language}.txt").write_text("".join(f"{language} line {n}\n" for n in range(4)))
    texts = read_fitting_texts([CorpusConfig(format="text", name="lines", path=str(tmp_path))], 2)
    assert texts.questions == texts.passages
    assert texts.items == 2


def test_few_items_and_rejected_rows_are_said(tmp_path, caplog):
    made = corpus(tmp_path / "faq", items=9)
    with (tmp_path / "faq" / "fr.jsonl").open("a") as file:
        file.write("{\n")
    read_fitting_texts([made], 50)
    assert "faq: 1 rows cannot be used" in caplog.text
    assert " has only 9 items, so 9 of each language are used; leave it out with --languages" in caplog.text


def test_fingerprint_is_of_the_content_not_of_the_path(tmp_path):
    one, other = (read_fitting_texts([corpus(tmp_path / name)], 5).corpora for name in ("one", "other"))
    assert one == other
    assert read_fitting_texts([corpus(tmp_path / "third", items=31)], 5).corpora != one


def test_corpora_are_read_again_only_when_their_content_changed(tmp_path, monkeypatch):
    reads = []

    def counted(shards, evaluation):
        reads.append(len(shards))
        return read_rows(shards, evaluation)

    monkeypatch.setattr(fitting_texts, "read_rows", counted)
    one = corpus(tmp_path / "faq")
    first = [read_fitting_texts([one], 5, seed).questions for seed in (0, 1)]
    assert first[0] != first[1]
    assert len(reads) == 1
    file = next((tmp_path / "faq").rglob("*.jsonl"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:20]))
    read_fitting_texts([one], 5)
    assert len(reads) == 2
