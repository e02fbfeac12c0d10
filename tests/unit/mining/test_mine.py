"""Mined corpora: candidates, passages that never become negatives, resuming, and training on them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray import mining
from hbt_ray.config import RunConfig, build_config, replace_in
from hbt_ray.data.components import ItemComponents, item_key
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.manifest import write_manifest
from hbt_ray.data.prepare import assign_shards, make_shard
from hbt_ray.data.row_tables import read_rows
from hbt_ray.data.store_maker import prepare_here
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, CorpusError, StorageError, StoreError, UserError
from hbt_ray.mining import MINED, MinedCorpora, describe_mined, language_steps, mine, mined_table
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler
from hbt_ray.training.resume import changed_settings
from hbt_ray.utils.digests import without_checksum
from tests.helpers import tiny_corpus
from tests.helpers.damage import flip_bit
from tests.helpers.full_disk import no_file_above

Pair = tuple[str, str]


class Angles:
    """Embeds a text at as many degrees as its last number says, so that all that is near can be worked out."""

    dimensions = None
    similarity = "cosine"

    query_prefix = passage_prefix = ""
    bf16 = False

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.encoder: Any = _NoModules()

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        angles = np.radians([float(re.findall(r"\d+", text)[-1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)

    passages = queries


class _NoModules(list[Any]):
    max_seq_length = 16


@pytest.fixture
def angles(monkeypatch) -> Angles:
    embedder = Angles()
    monkeypatch.setattr("hbt_ray.mining.open_embedder", lambda *_, **__: embedder)
    return embedder


def corpus(folder: Path, **languages: Mapping[str, Pair] | Sequence[dict[str, Any]]) -> Path:
    """Write a folder of `<language>.jsonl`, of items with question and passage or of whole records."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, rows in languages.items():
        if isinstance(rows, Mapping):
            rows = [{"id": item, "question": q, "context": p} for item, (q, p) in rows.items()]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def run(*folders: Path, negatives: int = 2, **sections: Any) -> RunConfig:
    plain = {
        "corpora": [{"format": "jsonl", "path": str(folder)} for folder in folders],
        "prepare": {"validation_share": 0.0} | sections.pop("prepare", {}),
        "mine": {"negatives": negatives} | sections.pop("mine", {}),
    }
    return build_config(plain | sections)


def records(mined: MinedCorpora, source: str, language: str) -> dict[str, dict[str, Any]]:
    lines = (mined.folder / source / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def negatives_of_a(config: RunConfig, out: Path, language: str = "en") -> list[str]:
    found: list[str] = records(mine(config, "angles", out), Path(config.corpora[0].path).name, language)["a"][
        "negatives"
    ]
    return found


# Questions and passages a to f stand at 0, 10, ... 50 degrees; the question a is nearest to a, then b, then c.
EN = {item: (f"ask {item} {10 * n}", f"say {item} {10 * n}") for n, item in enumerate("abcdef")}
DE = {item: (f"frag {item} {10 * n}", f"sag {item} {10 * n}") for n, item in enumerate("abcdef")}


# What is never a negative


def test_nearest_passages_of_the_same_language_are_taken(tmp_path, angles):
    config = run(corpus(tmp_path / "c", en=EN, de=DE))
    assert negatives_of_a(config, tmp_path / "out") == ["say b 10", "say c 20"]
    assert negatives_of_a(config, tmp_path / "again", "de") == ["sag b 10", "sag c 20"]


def test_untranslated_gold_in_another_language_is_no_negative(tmp_path, angles):
    # The German passage of b is the English one of a.
    untranslated = DE | {"b": ("frag b 10", "Say A, 0!")}
    config = run(corpus(tmp_path / "c", en=EN, de=untranslated))
    assert negatives_of_a(config, tmp_path / "out", "de") == ["sag c 20", "sag d 30"]


def test_item_with_the_golds_translation_gives_no_negative(tmp_path, angles):
    config = run(corpus(tmp_path / "c", en=EN, de=DE | {"c": ("frag c 20", "SAG A 0")}))
    assert negatives_of_a(config, tmp_path / "out") == ["say b 10", "say d 30"]


def test_an_equal_text_is_neither_a_negative_nor_taken_twice(tmp_path, angles):
    same = {"g": ("ask g 80", "Say: a, 0"), "h": ("ask h 80", "SAY B 10"), "i": ("ask i 80", "say, c 20")}
    config = run(corpus(tmp_path / "c", en=EN | same), negatives=3)
    assert negatives_of_a(config, tmp_path / "out") == ["say b 10", "say c 20", "say d 30"]


def test_what_answers_an_equal_question_is_no_negative(tmp_path, angles):
    also_asked = {"g": ("Ask a 0?", "say g 5")}
    config = run(corpus(tmp_path / "c", en=EN | also_asked))
    assert negatives_of_a(config, tmp_path / "out") == ["say b 10", "say c 20"]


@pytest.mark.parametrize(("threshold", "first"), [(0.92, "b 10"), (0.93, "abcdefghijklmnopqrstuvwxyz 5")])
def test_a_near_duplicate_of_the_gold_is_no_negative_at_its_threshold(tmp_path, angles, threshold, first):
    # 28 characters, 24 shingles of 5; all but the last are shared: 23 of 25.
    letters = "abcdefghijklmnopqrstuvwxyz"
    items = EN | {"a": ("ask a 0", f"{letters} 0"), "g": ("ask g 80", f"{letters} 5")}
    config = run(corpus(tmp_path / "c", en=items), prepare={"near_duplicate_threshold": threshold})
    assert negatives_of_a(config, tmp_path / "out")[0].endswith(first)


def test_items_left_out_of_training_are_no_negatives(tmp_path, angles):
    # b has the question of an evaluation set; c is in German what item a is under another name.
    evaluated = corpus(tmp_path / "e", en={"1": ("ASK B 10", "something else 1")})
    twice = {"z": ("frag a 0", "sag a 0")}
    config = run(
        corpus(tmp_path / "c", en=EN | {"z": ("ask z 15", "say z 15")}, de=DE | twice),
        prepare={"evaluation_sets": {"pairs": str(evaluated)}},
    )
    mined = mine(config, "angles", tmp_path / "out")
    assert records(mined, "c", "en")["a"]["negatives"] == ["say c 20", "say d 30"]
    assert list(records(mined, "c", "en")) == list(records(mined, "c", "de")) == ["a", "c", "d", "e", "f"]
    counts = mined.summary["sources"]["c"]
    assert (counts["items_dropped_for_evaluation"], counts["items_dropped_as_repeated"]) == (1, 1)


def test_held_out_items_get_negatives_but_are_none(tmp_path, angles):
    items = {f"i{n}": (f"ask i{n} {n}", f"say i{n} {n}") for n in range(60)}
    config = run(corpus(tmp_path / "c", en=items), prepare={"validation_share": 0.4})
    mined = mine(config, "angles", tmp_path / "out")
    keys = np.array([item_key("c", item) for item in items], np.uint64)
    held_out = {x for x, one in zip(items, ItemComponents().held_out(keys, 0.4, 60), strict=True) if one}
    assert 10 < len(held_out) < 50
    found = records(mined, "c", "en")
    assert found.keys() == items.keys()
    assert all(len(record["negatives"]) == 2 for record in found.values())
    assert not {text for record in found.values() for text in record["negatives"]} & {items[x][1] for x in held_out}
    summary = mined.summary["languages"]["en"]
    assert (summary["items_held_out"], summary["passages"]) == (len(held_out), 60 - len(held_out))
    assert [one.name for one in mined.corpora] == ["c"]  # so that the same are held out


def test_items_that_are_left_out_do_not_change_which_are_held_out(tmp_path, angles):
    items = {f"{copy}{n}": (f"ask i{n} {n}", f"say i{n} {n}") for n in range(90) for copy in "ab"}
    items |= {f"c{n}": (f"ask i{n} {n}", f"say i{n + 1} {n + 1}") for n in range(0, 90, 9)}  # a chain of 2 each
    config = run(corpus(tmp_path / "c", en=items), prepare={"validation_share": 0.3})
    mined = mine(config, "angles", tmp_path / "out")
    assert mined.summary["sources"]["c"]["items_dropped_as_repeated"] == 90
    on_mined = replace_in(config, "corpora", mined.corpora)
    splits = []
    for one in (config, on_mined):
        store = TokenStore.open(prepare_here(one.prepare_inputs, tmp_path / "stores"))
        number = store.manifest.sources["c"].items("validation")
        splits.append(sorted(store.item_ids("c", np.arange(number), "validation")))
    assert 10 < len(splits[0]) == mined.summary["languages"]["en"]["items_held_out"] < 50
    assert splits[0] == splits[1]


def test_negatives_come_from_all_sources_of_a_language(tmp_path, angles):
    other = corpus(tmp_path / "d", en={"a": ("ask more 5", "say more 5")})
    mined = mine(run(corpus(tmp_path / "c", en=EN), other), "angles", tmp_path / "out")
    assert records(mined, "c", "en")["a"]["negatives"] == ["say more 5", "say b 10"]
    assert records(mined, "d", "en")["a"]["negatives"] == ["say b 10", "say a 0"]  # equally far; the greater id first


def test_languages_that_are_not_mined_still_reveal_parallel_items(tmp_path, angles):
    config = run(corpus(tmp_path / "c", en=EN, de=DE | {"b": ("frag b 10", "sag a 0")}), languages=["en"])
    mined = mine(config, "angles", tmp_path / "out")
    assert records(mined, "c", "en")["a"]["negatives"] == ["say c 20", "say d 30"]
    assert [file.name for file in (mined.folder / "c").iterdir()] == ["en.jsonl"]


def test_sources_without_a_mined_language_are_no_corpora_to_train_on(tmp_path, angles):
    french = corpus(tmp_path / "d", fr={"z": ("demande z 0", "dis z 0")})
    mined = mine(run(corpus(tmp_path / "c", en=EN), french, languages=["en"]), "angles", tmp_path / "out")
    assert [one.name for one in mined.corpora] == ["c"]
    assert len([row for one in mined.corpora for part in list_shards(one) for row in read_shard(part)]) == len(EN)


TEXTS = [f"{form} {number}" for number in (0, 20, 40, 60) for form in ("say", "Say,", "SAY it is", "it")]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["de", "en", "fr"]), st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), min_size=1
        ),
        min_size=1,
        max_size=14,
    ),
    st.integers(0, 2),
)
def test_no_negative_says_what_the_gold_says_in_any_language(items: list[dict[str, Pair]], skip_first: int):
    languages = sorted({language for item in items for language in item})
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr("hbt_ray.mining.open_embedder", lambda *_, **__: Angles())
        folder = corpus(
            Path(scratch) / "c",
            **{x: {f"i{n}": item[x] for n, item in enumerate(items) if x in item} for x in languages},
        )
        mined = mine(run(folder, negatives=5, mine={"skip_first": skip_first}), "angles", Path(scratch) / "out")
        of_language = {x: records(mined, "c", x) for x, found in mined.summary["languages"].items() if found["items"]}
        kept = {item_id: items[int(item_id[1:])] for found in of_language.values() for item_id in found}
        for language, found in of_language.items():
            for item_id, record in found.items():
                taken = [normalize_for_matching(text) for text in record["negatives"]]
                assert len(set(taken)) == len(taken)
                assert set(taken) <= {
                    normalize_for_matching(item[language][1]) for item in kept.values() if language in item
                }
                assert not set(taken) & {
                    normalize_for_matching(passage) for _, passage in items[int(item_id[1:])].values()
                }
                # Nor is any the passage of an item that has a passage or a question of the gold's item.
                parallel = [
                    other for other in kept.values() if language in other and texts(other) & texts(kept[item_id])
                ]
                assert not set(taken) & {normalize_for_matching(other[language][1]) for other in parallel}


def texts(item: Mapping[str, Pair]) -> set[tuple[str, str]]:
    """Sides and texts of an item in all languages, as they are compared."""
    return {
        (side, normalize_for_matching(text)) for pair in item.values() for side, text in zip("qp", pair, strict=True)
    }


# What is left


def test_row_keeps_its_answer_at_its_cleaned_position(tmp_path, angles):
    rows = [
        {"id": "a", "question": "ask  a 0", "context": "say  it\u200b a 0", "answer_text": "a 0", "answer_start": 9},
        {"id": "b", "question": "ask b 10", "context": "say b 10", "answer_text": "b", "answer_start": -1},
        {"id": "c", "question": "ask c 20", "context": "say c 20"},
    ]
    mined = mine(run(corpus(tmp_path / "c", en=rows)), "angles", tmp_path / "out")
    found = records(mined, "c", "en")
    assert found["a"] == {
        "id": "a",
        "language": "en",
        "question": "ask a 0",
        "context": "say it a 0",
        "negatives": ["say b 10", "say c 20"],
        "answer_text": "a 0",
        "answer_start": 7,
    }
    assert (found["b"]["answer_text"], found["b"]["answer_start"]) == ("b", -1)
    assert "answer_text" not in found["c"]
    [part] = list_shards(mined.corpora[0])
    assert [row.negatives for row in read_shard(part)] == [tuple(found[x]["negatives"]) for x in "abc"]


def test_of_several_rows_of_an_item_the_first_stays(tmp_path, angles):
    rows = [{"id": "a", "question": f"ask {n} 0", "context": f"say {n} 0"} for n in range(12)]
    rows += [{"id": "b", "question": "ask b 10", "context": "say b 10"}]
    mined = mine(run(corpus(tmp_path / "c", en=rows)), "angles", tmp_path / "out")
    assert [(x["id"], x["context"]) for x in records(mined, "c", "en").values()] == [
        ("a", "say 0 0"),
        ("b", "say b 10"),
    ]


def test_languages_that_cannot_name_a_file_are_in_the_rows(tmp_path, angles):
    rows = [
        {"id": item, "language": language, "question": q, "context": p}
        for language, items in (("en", EN), ("deu_Latn", DE))
        for item, (q, p) in items.items()
    ]
    mined = mine(run(corpus(tmp_path / "c", all_languages=rows)), "angles", tmp_path / "out")
    read = [row for part in list_shards(mined.corpora[0]) for row in read_shard(part)]
    assert sorted({row.language for row in read}) == ["deu_Latn", "en"]
    assert len(read) == 12


def test_summary_has_counts_and_inputs(tmp_path, angles):
    config = run(corpus(tmp_path / "c", en={item: EN[item] for item in "abc"}), negatives=2, mine={"depth": 2})
    mined = mine(config, "angles", tmp_path / "out")
    summary = without_checksum((tmp_path / "out" / MINED).read_text())
    assert summary == mined.summary
    en = summary["languages"]["en"]
    # Two are looked at, one of them its own.
    assert (en["items"], en["passages"], en["negatives"], en["items_with_fewer"]) == (3, 3, 3, 3)
    assert en["mean_gold_score"] == pytest.approx(1.0)
    assert en["mean_negative_score"] == pytest.approx(np.cos(np.radians(10)))
    assert (summary["mined_with"]["model"], summary["mined_with"]["mine.depth"]) == ("angles", 2)
    assert not (tmp_path / "out" / "mining.partial").exists()
    [row] = zip(*(column.cells for column in mined_table(mined).columns), strict=True)
    assert row == ("en", "3", "3", "3", "3", f"{np.cos(np.radians(10)):.3f}", "1.000")
    assert "questions with fewer than 2 negatives" in str(mined_table(mined).caption)


@pytest.mark.parametrize(("scale", "same"), [(0, "0"), (1, "the same")])
def test_a_model_with_equal_vectors_is_warned_of(tmp_path, angles, monkeypatch, scale, same):
    equal = lambda texts: np.full((len(texts), 2), scale, np.float32)  # noqa: E731
    monkeypatch.setattr(angles, "passages", equal)
    mined = mine(run(corpus(tmp_path / "c", en=EN)), "angles", tmp_path / "out")
    sentence = f"the vector of all passages is {same}: the model does not distinguish texts, and the negatives are"
    assert f"en: warning: {sentence}" in describe_mined(mined)
    assert "queries" not in describe_mined(mined).partition("warning")[2]


def test_the_folder_trains_with_its_negatives_in_the_batch(tmp_path):
    tiny_corpus.make_encoder(tmp_path / "model")
    items = range(60)
    folder = corpus(
        tmp_path / "c",
        **{
            x: {f"i{n:02}": (tiny_corpus.question(x, n), tiny_corpus.passage(x, n)) for n in items}
            for x in ("de", "en")
        },
    )
    config = run(folder, negatives=3, evaluate={"precision": "fp32"})
    mined = mine(config, str(tmp_path / "model"), tmp_path / "out")
    trained = config.model_copy(
        update={
            "corpora": mined.corpora,
            "text": tiny_corpus.TEXT,
            "mix": config.mix.model_copy(update={"hard_negatives": 3, "alpha": 1.0}),
            "train": config.train.model_copy(update={"global_batch_pairs": 8}),
        }
    )
    parts = [part for one in trained.corpora for part in list_shards(one)]
    tokenization = tiny_corpus.tokenization()
    rows = assign_shards(pa.concat_tables(read_rows(parts, None)), np.empty(0, np.uint64), {"c": 1}, 0.0)
    shard, rejects, _ = make_shard(rows, tmp_path / "store", tokenization)
    assert rejects.num_rows == 0
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenization.token_type)
    store = TokenStore.open(tmp_path / "store")
    spec = training_sampler(trained, store.manifest).batch(0)
    batch = build_batch(spec, store)
    assert (batch.num_pairs, batch.num_negatives) == (8, 3)
    found = records(mined, "c", str(spec.passage_languages[0]))
    expected = [
        tokenization.encode([text], "passage")[0].tolist()
        for item in store.item_ids("c", spec.rows)
        for text in found[item]["negatives"]
    ]
    ends = np.cumsum(batch.passage_lengths)
    sequences = [ids.tolist() for ids in np.split(batch.passage_ids, ends[:-1])]
    assert sequences[8:] == expected


# Called again


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.jsonl"))}


@pytest.mark.parametrize("rows_per_shard", [1, 2, 5])
def test_negatives_and_summary_are_the_same_for_any_number_of_shards(tmp_path, angles, monkeypatch, rows_per_shard):
    items = {f"i{n}": (f"ask i{n} {n * 7 % 80}", f"say i{n} {n * 7 % 80}") for n in range(12)}
    other = corpus(tmp_path / "d", en={"a": ("ask more 5", "say i3 21"), "b": ("ask i4 28", "say more 9")})
    config = run(corpus(tmp_path / "c", en=items, de=DE), other, negatives=3, prepare={"validation_share": 0.2})
    whole = mine(config, "angles", tmp_path / "whole")
    monkeypatch.setattr(language_steps, "ROWS_PER_SHARD", rows_per_shard)
    monkeypatch.setattr(language_steps, "CHUNKS_PER_TASK", 1)
    parts = mine(config, "angles", tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    for summary in (whole.summary, parts.summary):
        for found in summary["languages"].values():
            found.pop("seconds")
    assert parts.summary == whole.summary


@pytest.mark.parametrize("last_step", ["index_language", "embed_texts", "join_vectors", "mine_shard"])
def test_a_step_that_was_done_is_not_done_again(tmp_path, angles, monkeypatch, last_step):
    config = run(corpus(tmp_path / "c", en=EN))
    mine(config, "angles", tmp_path / "whole")
    monkeypatch.setattr(language_steps, "ROWS_PER_SHARD", 4)
    done = getattr(language_steps, last_step)

    def stop(*arguments: Any) -> None:
        done(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(language_steps, last_step, stop)
        with pytest.raises(KeyboardInterrupt):
            mine(config, "angles", tmp_path / "out")
    work = tmp_path / "out/mining.partial/work/en"
    made = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert made
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # so that what was made can be looked at
    mine(config, "angles", tmp_path / "out")
    assert (tmp_path / "out/c/en.jsonl").read_bytes() == (tmp_path / "whole/c/en.jsonl").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in made if path.exists()} == made


def test_a_finished_language_is_not_mined_again_after_an_interruption(tmp_path, monkeypatch):
    config = run(corpus(tmp_path / "c", en=EN, de=DE))
    whole, stopped, going_on = Angles(), Angles(), Angles()
    monkeypatch.setattr("hbt_ray.mining.open_embedder", lambda *_, **__: whole)
    mine(config, "angles", tmp_path / "whole")

    def stop(texts: Sequence[str]) -> np.ndarray:
        if texts[0].startswith("say"):
            raise KeyboardInterrupt
        return Angles().passages(texts)

    stopped.passages = stop  # type: ignore[method-assign]
    monkeypatch.setattr("hbt_ray.mining.open_embedder", lambda *_, **__: stopped)
    with pytest.raises(KeyboardInterrupt):
        mine(config, "angles", tmp_path / "out")
    assert not (tmp_path / "out" / MINED).exists()
    assert (tmp_path / "out/c/de.jsonl").exists()
    monkeypatch.setattr("hbt_ray.mining.open_embedder", lambda *_, **__: going_on)
    monkeypatch.setattr("hbt_ray.mining.corpus_rows.read_rows", lambda *_: pytest.fail("the corpora were read again"))
    mined = mine(config, "angles", tmp_path / "out")
    assert going_on.seen
    assert all(text.startswith(("ask", "say")) for text in going_on.seen)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    going_on.seen.clear()
    assert mine(config, "angles", tmp_path / "out") == mined
    assert going_on.seen == []


def test_corpora_that_were_read_in_part_are_read_again(tmp_path, monkeypatch, angles):
    config = run(corpus(tmp_path / "c", en=EN, de=DE))
    whole = mining.corpus_rows.read_rows

    def breaks_off(*arguments: Any) -> Iterable[Any]:
        yield next(iter(whole(*arguments)))
        raise KeyboardInterrupt

    monkeypatch.setattr("hbt_ray.mining.corpus_rows.read_rows", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        mine(config, "angles", tmp_path / "out")
    monkeypatch.setattr("hbt_ray.mining.corpus_rows.read_rows", whole)
    assert mine(config, "angles", tmp_path / "out").summary["languages"]["de"]["items"] == 6


def test_damaged_intermediate_files_are_made_again(tmp_path, monkeypatch, angles):
    config = run(corpus(tmp_path / "c", en=EN, de=DE))
    mine(config, "angles", tmp_path / "whole")
    out = tmp_path / "out"
    for damaged in (
        "c/de.jsonl",
        "mining.partial/de.json",
        "mining.partial/rows/en/00001.arrow",
        "mining.partial/_begun.json",
    ):
        shutil.rmtree(out, ignore_errors=True)
        with monkeypatch.context() as stopped:
            stopped.setattr("hbt_ray.mining.finish_mining", lambda mining: None)
            mine(config, "angles", out)
        flip_bit(out / damaged)
        mine(config, "angles", out)
        assert files_of(out) == files_of(tmp_path / "whole"), damaged


@pytest.mark.parametrize("damaged", ["c/en.jsonl", "rejects.jsonl", MINED])
def test_damaged_negatives_are_refused_by_name(tmp_path, angles, damaged):
    config = run(corpus(tmp_path / "c", en={**EN, "bad": ("ask x 1", "")}), prepare={"max_reject_share": 1})
    mine(config, "angles", tmp_path / "out")
    flip_bit(tmp_path / "out" / damaged)
    with pytest.raises(StoreError, match=rf"{damaged} is not as it was written; delete .*out to mine again"):
        mine(config, "angles", tmp_path / "out")


# Refusals


def test_folder_mined_with_other_settings_is_refused(tmp_path, angles):
    folder = corpus(tmp_path / "c", en=EN)
    out = tmp_path / "out"
    mine(run(folder), "angles", out)
    with pytest.raises(ConfigError, match=r"mined with mine\.negatives=2, and this call has 3; write another --out$"):
        mine(run(folder, negatives=3), "angles", out)
    with pytest.raises(ConfigError, match="mined with model=angles, and this call has other;"):
        mine(run(folder), "other", out)
    with pytest.raises(ConfigError, match=r"mined with corpora\.c\.path="):
        mine(run(corpus(tmp_path / "d" / "c", en=EN)), "angles", out)
    mine(run(folder, train={"steps": 7}, mix={"alpha": 0.1}), "angles", out)
    corpus(tmp_path / "c", en=EN | {"g": ("ask g 60", "say g 60")})
    with pytest.raises(ConfigError, match=r"mined with file .*/c/en\.jsonl="):
        mine(run(folder), "angles", out)


def test_folder_mined_with_another_limit_of_lines_is_refused(tmp_path, angles, monkeypatch):
    folder = corpus(tmp_path / "c", en=EN)
    mine(run(folder), "angles", tmp_path / "out")
    monkeypatch.setenv("HBT_MAX_LINE_BYTES", "1000")
    with pytest.raises(ConfigError, match="mined with HBT_MAX_LINE_BYTES=None, and this call has 1000;"):
        mine(run(folder), "angles", tmp_path / "out")


@pytest.mark.parametrize("name", ["collection.tsv", "queries.train.tsv"])
def test_changed_texts_of_ms_marco_are_refused(tmp_path, angles, name):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{n}\tsay {n}\n" for n in (10, 20, 30)))
    (folder / "queries.train.tsv").write_text("1\task 10\n2\task 20\n")
    (folder / "qrels.train.tsv").write_text("1\t0\t10\t1\n2\t0\t20\t1\n")
    config = run(corpora=[{"format": "msmarco", "path": str(folder), "language": "en"}])
    mine(config, "angles", tmp_path / "out")
    (folder / name).write_text((folder / name).read_text().replace("20\n", "25\n"))
    with pytest.raises(ConfigError, match=f"mined with file .*/c/{name}="):
        mine(config, "angles", tmp_path / "out")


def test_prefixes_that_are_given_come_before_those_of_the_model(tmp_path):
    config = run(corpus(tmp_path / "c", en=EN), evaluate={"precision": "fp32"})
    tiny_corpus.make_encoder(tmp_path / "model")
    found = mine(config, str(tmp_path / "model"), tmp_path / "out", query_prefix="q: ").summary["mined_with"]
    assert (found["model.query_prefix"], found["model.passage_prefix"]) == ("q: ", tiny_corpus.TEXT.passage_prefix)


def test_a_model_that_was_trained_on_is_another_model(tmp_path):
    config = run(corpus(tmp_path / "c", en=EN), evaluate={"precision": "fp32"})
    tiny_corpus.make_encoder(tmp_path / "model")
    mine(config, str(tmp_path / "model"), tmp_path / "out")
    (tmp_path / "model" / "more.txt").write_text("trained on")
    with pytest.raises(ConfigError, match=r"mined with model\.files="):
        mine(config, str(tmp_path / "model"), tmp_path / "out")


def test_negatives_of_a_model_whose_folder_was_moved_are_not_mined_again(tmp_path):
    config = run(corpus(tmp_path / "c", en=EN), evaluate={"precision": "fp32"})
    tiny_corpus.make_encoder(tmp_path / "model")
    mine(config, str(tmp_path / "model"), tmp_path / "out")
    mined = files_of(tmp_path / "out")
    (tmp_path / "model").rename(tmp_path / "moved")
    mine(config, str(tmp_path / "moved"), tmp_path / "out")
    assert files_of(tmp_path / "out") == mined


def test_mining_settings_do_not_prevent_resuming_a_training():
    assert changed_settings(build_config({}), build_config({"mine": {"negatives": 7, "margin": 0.9}})) == []


def test_a_folder_with_other_files_is_not_written_to(tmp_path, angles):
    folder = corpus(tmp_path / "c", en=EN)
    before = files_of(tmp_path)
    with pytest.raises(ConfigError, match="holds something other than mined negatives; write another --out"):
        mine(run(folder), "angles", tmp_path)
    assert files_of(tmp_path) == before


def test_corpora_without_an_item_or_a_language_to_mine_are_refused(tmp_path, angles):
    folder = corpus(tmp_path / "c", en=EN, de=DE)
    with pytest.raises(CorpusError, match=r"none of the run's languages; they have de, en$"):
        mine(run(folder, languages=["fr"]), "angles", tmp_path / "out")
    with pytest.raises(CorpusError, match=r"no item is left to train on: 0 occur in evaluation sets, 0 are repeated"):
        mine(run(folder, prepare={"validation_share": 1.0}), "angles", tmp_path / "out")
    (folder / "en.jsonl").write_text("{\n" * 9)
    with pytest.raises(CorpusError, match=r"9 of 15 rows of corpus 'c' cannot be used"):
        mine(run(folder), "angles", tmp_path / "out")


def test_plain_text_is_refused_before_it_is_read(tmp_path, angles):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "en.txt").write_text("say a 10\n")
    config = build_config({"corpora": [{"format": "text", "path": str(tmp_path / "c")}]})
    with pytest.raises(ConfigError, match=r"corpus 'c' is plain text and has no questions to mine negatives for"):
        mine(config, "angles", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_gives_nan_is_refused(tmp_path, angles, monkeypatch):
    monkeypatch.setattr(angles, "queries", lambda texts: np.full((len(texts), 2), np.nan, np.float32))
    with pytest.raises(UserError, match="the vectors of the questions hold NaN"):
        mine(run(corpus(tmp_path / "c", en=EN)), "angles", tmp_path / "out")


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path, angles):
    folder = corpus(tmp_path / "c", en={f"i{n}": (f"ask i{n} {n}", f"say i{n} {n} " + "so " * 300) for n in range(50)})
    config = run(folder)
    embedder = mining.open_miner(config, "angles")
    started = mining.start_mining(config, "angles", embedder, tmp_path / "out")
    with (
        no_file_above(10_000),
        pytest.raises(StorageError, match=r"negatives cannot be written to .*; free disk space, or"),
    ):
        mining.mine_language(started, "en", embedder)
    assert list(tmp_path.glob("out/c/*")) == list(tmp_path.glob("out/mining.partial/**/*.partial*")) == []
    assert mine(config, "angles", tmp_path / "out").summary["languages"]["en"]["items"] == 50
