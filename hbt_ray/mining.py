"""A run's corpora with hard negatives, mined with a model: a folder of corpora to train on.

Its files are `<source>/<language>.jsonl`, the rows that training would see, each with the passages that
`hard_negatives` chose; and `mined.json`, which is written last, so that it stands for a complete folder. What is still
in the making stands in a folder beside them, so that a call goes on where another was stopped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.cleaning import normalise_for_match
from hbt_ray.config import CorpusConfig, MineConfig, RunConfig, absolute_path, flatten, with_absolute_paths
from hbt_ray.corpora import Part, list_parts
from hbt_ray.corpora.files import LANGUAGE
from hbt_ray.decontamination import is_near_duplicate
from hbt_ray.embedder import TextEmbedder
from hbt_ray.errors import ConfigError, CorpusError, StorageError
from hbt_ray.evaluate import Embedder
from hbt_ray.evaluate_model import description, open_embedder
from hbt_ray.hard_negatives import KnownAnswers, hard_negatives, pool_of, shared_texts, text_keys
from hbt_ray.preparation import (
    REJECTS,
    check_languages,
    check_rejects,
    count_rows,
    evaluation_texts,
    file_states,
    load_evaluation_sets,
    place_order,
    read_rows,
    rejects_of,
    repeated_items,
    split_of,
    write_rejects,
)
from hbt_ray.ranks import check_vectors, exact_scores
from hbt_ray.records import Benchmark, Reject
from hbt_ray.storage import Place
from hbt_ray.store import folder_name
from hbt_ray.vectors import vectors_fingerprint
from hbt_ray.windows import pieces_of

MINED = "mined.json"
_BEGUN = "begun.json"
_PARTIAL = "mining.partial"  # no source's folder is called so: theirs have no dot
_MINED_WITH = ("corpora.", "languages", "mine.", "prepare.near_duplicate_threshold", "prepare.validation_share")
_KEPT = ("source", "item_id", "language", "question", "passage", "answer", "answer_start", "place")
_CACHED_TEXTS = 1 << 14  # normalised: what comes first for one question does so for others


@dataclass(frozen=True, slots=True)
class Mined:
    """A complete folder."""

    folder: Path
    summary: dict[str, Any]  # what `mined.json` holds

    @property
    def corpora(self) -> tuple[CorpusConfig, ...]:
        """What to train on. The sources keep their names, and so the same items are held out."""
        return tuple(
            CorpusConfig(format="jsonl", name=source, path=str(self.folder / folder_name(source)))
            for source in self.summary["sources"]
        )


def mine(config: RunConfig, model: str, out: str | Path) -> Mined:
    """Mines hard negatives of a run's corpora with a model, in this process.

    The corpora are read, cleaned and decontaminated as `prepare` does. A question is asked among those passages of its
    own language, of all sources, that are trained on. Held-out items are there as well, so that a training on the
    folder can be validated; their questions are asked, but their passages are nobody's negatives.

    Called again for the same folder, it goes on: no language is mined twice.

    Args:
        model: folder or hub name.
        out: a folder that is empty or not there yet, or what an earlier call left.

    Raises:
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are bad.
        ConfigError: the model cannot be loaded; or the folder holds something else, such as what was mined otherwise.
        StorageError: the folder cannot be written.
        UserError: the vectors hold NaN.
    """
    embedder = open_miner(config, model)
    mining = begin(config, model, embedder, out)
    for language in mining.unfinished():
        mine_language(mining, language, embedder)
    return finish(mining)


def open_miner(config: RunConfig, model: str) -> TextEmbedder:
    """The model as it is measured, too. Raises ConfigError when it cannot be loaded."""
    return open_embedder(model, config.evaluate, config.model.pooling)


@dataclass(frozen=True, slots=True)
class Mining:
    """A folder in the making: the corpora are read, and some languages may be finished."""

    out: Path
    settings: MineConfig
    near_duplicate_threshold: float
    mined_with: dict[str, Any]  # all that the negatives follow from
    sources: dict[str, Any]  # what was read and left out of each
    languages: tuple[str, ...]

    @property
    def partial(self) -> Path:
        return self.out / _PARTIAL

    def unfinished(self) -> list[str]:
        """Languages that are still to be mined."""
        if (self.out / MINED).exists():
            return []
        return [language for language in self.languages if not self.summary_of(language).exists()]

    def summary_of(self, language: str) -> Path:
        """The file that says that a language is finished, and how it went."""
        return self.partial / f"{language}.json"

    def file_of(self, source: str, language: str) -> Path:
        """A file named by its language; by something else where a language cannot name one, for then rows do."""
        names_files = all(LANGUAGE.fullmatch(one) for one in self.languages)
        return self.out / folder_name(source) / f"{language}{'' if names_files else '.rows'}.jsonl"


def begin(config: RunConfig, model: str, embedder: TextEmbedder, out: str | Path) -> Mining:
    """Reads the corpora, where an earlier call has not done so. Raises what `mine` raises."""
    config, out = with_absolute_paths(config), Path(out).expanduser().resolve()
    parts = [part for corpus in config.corpora for part in list_parts(corpus)]
    evaluation_sets = load_evaluation_sets(config)
    mined_with = _mined_with(config, model, embedder, parts, evaluation_sets)
    begun = out / MINED if (out / MINED).exists() else out / _PARTIAL / _BEGUN
    if begun.exists():
        _check_same(out, json.loads(begun.read_text(encoding="utf-8"))["mined_with"], mined_with)
    else:
        with _told(out):
            _check_empty(out)
            shutil.rmtree(begun.parent, ignore_errors=True)
            (begun.parent / "rows").mkdir(parents=True)
            sources, languages = _read_corpora(config, parts, evaluation_sets, begun.parent)
        read = {"mined_with": mined_with, "sources": sources, "languages": languages}
        Place.of(begun).write_text(json.dumps(read))  # last, so that its existence means that all is read
    read = json.loads(begun.read_text(encoding="utf-8"))
    threshold = config.prepare.near_duplicate_threshold
    return Mining(out, config.mine, threshold, mined_with, read["sources"], tuple(read["languages"]))


def _mined_with(
    config: RunConfig, model: str, embedder: TextEmbedder, parts: Sequence[Part], evaluation_sets: Sequence[Benchmark]
) -> dict[str, Any]:
    """All that the negatives follow from, by name, as JSON has it."""
    described = description(absolute_path(model) or model, embedder)
    found = {
        "model": described.pop("path"),
        **{f"model.{key}": value for key, value in described.items()},
        "model.files": vectors_fingerprint(model, ""),
        **{key: value for key, value in flatten(config).items() if key.startswith(_MINED_WITH)},
        **{f"evaluation_sets.{one.name}": one.fingerprint() for one in evaluation_sets},
        **{
            f"file {place}": _state(place)
            for place in dict.fromkeys(Path(part.place) for part in parts)
            if place.exists()
        },
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def _state(place: Path) -> str:
    """Other hex digits when a file, or one in a folder, was changed."""
    return hashlib.sha256(repr(file_states(place)).encode()).hexdigest()[:16]


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in (*now, *before):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{out} holds negatives mined with {key}={before.get(key)}, and this call has {now.get(key)}; "
                "write another --out"
            )


def _check_empty(out: Path) -> None:
    """A folder of somebody's own corpora may have the very names that are written."""
    if out.exists() and any(path.name != _PARTIAL for path in out.iterdir()):
        raise ConfigError(f"{out} holds something other than mined negatives; write another --out")


def _read_corpora(
    config: RunConfig, parts: Sequence[Part], evaluation_sets: Sequence[Benchmark], folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """Leaves the good rows of each language in a file, and what is known of their items in two others.

    `rows/<language>.arrow` numbers items in the order in which they were met; `items.arrow` has a row for each of them,
    and `shared.arrow` the pairs of `shared_texts`. Of the corpora no more is held than ids, and a key for each text.

    Returns:
        What was read and left out of each source, and the languages to mine.
    """
    rows = _Reading(folder)
    with contextlib.ExitStack() as files:
        for table in read_rows(parts, evaluation_texts(config, evaluation_sets)):
            rows.add(table, files)
    rows_read: Counter[str] = Counter()
    for (source, _, _), number in rows.counts.items():
        rows_read[source] += number
    write_rejects(folder / REJECTS, rows.rejects)
    check_rejects(rows_read, rows.rejects, config.prepare.max_reject_share, folder / REJECTS)
    check_languages(config.corpora, dict(rows.counts))

    pairs = repeated_items(pa.concat_tables(rows.pairs)).to_pylist()
    repeated = {rows.numbers[pair["source"], pair["item_id"]] for pair in pairs} - rows.occurring
    left_out = np.zeros(len(rows.numbers), bool)
    left_out[[*rows.occurring, *repeated]] = True
    share = config.prepare.validation_share
    held_out = np.array([split_of(*name, share) == "validation" for name in rows.numbers])
    if (left_out | held_out).all():
        raise CorpusError(
            f"no item is left to train on: {len(rows.occurring)} occur in evaluation sets, {len(repeated)} are "
            "repeated, and the others are held out"
        )
    _write_table(folder / "items.arrow", left_out=left_out, held_out=held_out)
    shared, texts = shared_texts(np.concatenate(rows.items_of_texts), np.concatenate(rows.keys_of_texts))
    _write_table(folder / "shared.arrow", item=shared, text=texts)

    source_of = [source for source, _ in rows.numbers]
    dropped, again = (Counter(source_of[item] for item in items) for items in (rows.occurring, repeated))
    rejected = Counter(reject.source for reject in rows.rejects)
    sources = {
        corpus.name: {
            "rows_read": rows_read[corpus.name],
            "rows_rejected": rejected[corpus.name],
            "items_dropped_for_evaluation": dropped[corpus.name],
            "items_dropped_as_repeated": again[corpus.name],
        }
        for corpus in config.corpora
    }
    languages = [x for x in sorted(rows.writers) if config.languages is None or x in config.languages]
    if not languages:
        raise CorpusError(f"the corpora have none of the run's languages; they have {', '.join(sorted(rows.writers))}")
    return sources, languages


class _Reading:
    """What is seen of the corpora, table by table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[tuple[str, str], int] = {}  # of items, by source and id, ascending
        self.counts: Counter[tuple[str, str, str]] = Counter()  # as `count_rows`
        self.rejects: list[Reject] = []
        self.occurring: set[int] = set()  # items that occur in evaluation sets
        self.pairs: list[pa.Table] = []  # for `repeated_items`
        self.items_of_texts: list[np.ndarray] = []
        self.keys_of_texts: list[np.ndarray] = []
        self.writers: dict[str, Any] = {}  # by language

    def add(self, table: pa.Table, files: contextlib.ExitStack) -> None:
        """Counts the rows of a table and writes the good ones. `files` closes what is opened."""
        self.counts.update(count_rows(table))
        self.rejects += rejects_of(table)
        good = table.filter(pc.is_null(table.column("rejected")))
        names = zip(good.column("source").to_pylist(), good.column("item_id").to_pylist(), strict=True)
        items = np.array([self.numbers.setdefault(name, len(self.numbers)) for name in names], np.int64)
        self.occurring.update(items[good.column("occurs_in_evaluation").is_valid().to_numpy()].tolist())
        self.pairs.append(good.select(["pair_key", "source", "item_id"]))
        for side in ("question", "passage"):
            self.items_of_texts.append(items)
            self.keys_of_texts.append(text_keys(side, good.column(side).to_pylist()))
        good = good.select(_KEPT).append_column("item", pa.array(items))
        for language in good.column("language").unique().to_pylist():
            own = good.filter(pc.equal(good.column("language"), language))
            if language not in self.writers:
                file = self.folder / "rows" / f"{language}.arrow"
                self.writers[language] = _table_writer(files, file, own.schema)
            self.writers[language].write_table(own)


@dataclass(frozen=True, slots=True)
class _LanguageRows:
    """The N rows of a language, sorted by source and item id."""

    sources: list[str]
    item_ids: list[str]
    questions: list[str]
    passages: list[str]
    answers: list[str | None]
    answer_starts: list[int]
    items: np.ndarray  # (N,) int64
    trained_on: np.ndarray  # (N,) bool, False for what is held out

    @staticmethod
    def read(folder: Path, language: str) -> _LanguageRows:
        """What is kept of a language: of several rows of an item the first, as in `preparation.make_shard`."""
        table, roles = _read_table(folder / "rows" / f"{language}.arrow"), _read_table(folder / "items.arrow")
        items = table.column("item").to_numpy()
        sources, item_ids, places = (table.column(name).to_pylist() for name in ("source", "item_id", "place"))
        kept = np.flatnonzero(~roles.column("left_out").to_numpy()[items]).tolist()
        kept.sort(key=lambda row: (sources[row], item_ids[row], place_order(places[row])))
        rows = [next(same) for _, same in itertools.groupby(kept, key=lambda row: items[row])]

        def chosen(name: str) -> list[Any]:
            values = table.column(name).to_pylist()
            return [values[row] for row in rows]

        own = items[np.array(rows, np.int64)]
        return _LanguageRows(
            sources=chosen("source"),
            item_ids=chosen("item_id"),
            questions=chosen("question"),
            passages=chosen("passage"),
            answers=chosen("answer"),
            answer_starts=chosen("answer_start"),
            items=own,
            trained_on=~roles.column("held_out").to_numpy()[own],
        )


def mine_language(mining: Mining, language: str, embed: Embedder) -> None:
    """Leaves the files of a language, and then says that it is finished.

    Raises:
        StorageError: they cannot be written.
        UserError: the vectors hold NaN.
    """
    started = time.perf_counter()
    rows = _LanguageRows.read(mining.partial, language)
    shared = _read_table(mining.partial / "shared.arrow")
    pool_rows, columns = pool_of(text_keys("passage", rows.passages), rows.trained_on)
    known = KnownAnswers(shared.column("item").to_numpy(), shared.column("text").to_numpy(), rows.items, columns)
    normal = functools.lru_cache(_CACHED_TEXTS)(lambda row: normalise_for_match(rows.passages[row]))

    def is_near(row: int, column: int) -> bool:
        return is_near_duplicate(normal(row), normal(int(pool_rows[column])), mining.near_duplicate_threshold)

    question_vectors, question_places = _embedded(embed.queries, rows.questions)
    passage_vectors, passage_places = _embedded(embed.passages, rows.passages)
    check_vectors(question_vectors, passage_vectors)
    queries, pool = question_vectors[question_places], passage_vectors[passage_places[pool_rows]]
    own_scores = exact_scores(queries, passage_vectors, np.arange(len(queries)), passage_places)
    found, scores = hard_negatives(queries, own_scores, pool, mining.settings, known.of, is_near)
    negatives = [[rows.passages[row] for row in pool_rows[line[line >= 0]]] for line in found]
    with _told(mining.out):
        for source, own in itertools.groupby(range(len(negatives)), key=rows.sources.__getitem__):
            _write_records(mining.file_of(source, language), _records(rows, negatives, language, own))
    summary = {
        "items": len(negatives),
        "items_held_out": int(np.count_nonzero(~rows.trained_on)),
        "items_with_fewer": int(np.count_nonzero((found < 0).any(axis=1))),
        "passages": len(pool),
        "negatives": int(np.count_nonzero(found >= 0)),
        "mean_gold_score": _mean(own_scores),
        "mean_negative_score": _mean(scores[found >= 0]),
        "seconds": time.perf_counter() - started,
    }
    Place.of(mining.summary_of(language)).write_text(json.dumps(summary))


def _embedded(embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the texts that differ, and of each text its place among them, so that equal texts tie."""
    pieces = pieces_of(texts, None)
    vectors = [np.asarray(embed(chunk), np.float32) for chunk in pieces.chunks() or [[]]]
    return np.concatenate(vectors), pieces.rows


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean(dtype=np.float64)) if len(scores) else None


def _records(
    rows: _LanguageRows, negatives: Sequence[Sequence[str]], language: str, own: Iterable[int]
) -> Iterator[dict[str, Any]]:
    for row in own:
        record: dict[str, Any] = {
            "id": rows.item_ids[row],
            "language": language,
            "question": rows.questions[row],
            "context": rows.passages[row],
            "negatives": negatives[row],
        }
        if rows.answers[row] is not None:
            record |= {"answer_text": rows.answers[row], "answer_start": rows.answer_starts[row]}
        yield record


def finish(mining: Mining) -> Mined:
    """Makes a folder complete in which every language is finished."""
    place = mining.out / MINED
    if not place.exists():
        languages = {x: json.loads(mining.summary_of(x).read_text(encoding="utf-8")) for x in mining.languages}
        summary = {"mined_with": mining.mined_with, "sources": mining.sources, "languages": languages}
        with _told(mining.out):
            shutil.copyfile(mining.partial / REJECTS, mining.out / REJECTS)
        Place.of(place).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")  # last
    shutil.rmtree(mining.partial, ignore_errors=True)
    return Mined(mining.out, json.loads(place.read_text(encoding="utf-8")))


def describe_mined(mined: Mined) -> str:
    """What was mined, a line for each language, and what to train on it with."""
    asked = mined.summary["mined_with"]["mine.negatives"]
    lines = [f"negatives {mined.folder}"]
    for language, found in mined.summary["languages"].items():
        scores = (found["mean_negative_score"], found["mean_gold_score"])
        negative, gold = ("none" if score is None else f"{score:.3f}" for score in scores)
        lines.append(
            f"  {language}: {found['negatives']} for {found['items']} questions among {found['passages']} passages, "
            f"{found['items_with_fewer']} with fewer than {asked}; mean score {negative}, of the right ones {gold}"
        )
    corpora = [{"format": one.format, "name": one.name, "path": one.path} for one in mined.corpora]
    return "\n".join([*lines, f"train on  corpora='{json.dumps(corpora, ensure_ascii=False)}' hard_negatives={asked}"])


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise StorageError(
            f"negatives cannot be written to {out} ({reason}); make room, or write another --out"
        ) from error


def _write_records(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """JSON Lines that are there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as lines:
            lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _table_writer(files: contextlib.ExitStack, file: Path, schema: pa.Schema) -> Any:
    return files.enter_context(pa.ipc.new_file(files.enter_context(pa.OSFile(str(file), "wb")), schema))


def _write_table(file: Path, **columns: np.ndarray) -> None:
    table = pa.table(columns)
    with contextlib.ExitStack() as files:
        _table_writer(files, file, table.schema).write_table(table)


def _read_table(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
