"""Parallel question-passage pairs as a benchmark: `<language>.jsonl[.gz]` with `id`, `question` and `context`.

Pairs with the same id are translations. A question's context is relevant in every language. Equal contexts of a
language are one passage. A corpus of any other format is a benchmark, too, and so are the corpora of a YAML file of
settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hbt_ray.config import CorpusConfig, load_config
from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import read_objects
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.corpora.detection import detect_corpus, detect_format
from hbt_ray.data.corpora.file_discovery import files_by_language, files_in, language_files
from hbt_ray.data.text_files import UNANSWERABLE, is_unanswerable
from hbt_ray.data.types import Benchmark, CorpusRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import same_language

_SUFFIXES = (".jsonl", ".jsonl.gz")


class _Pair(NamedTuple):
    location: str
    language: str
    pair_id: str
    question: str
    context: str


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read every language. Query ids are `<language>:<id>`; a passage has the id of its first question.

    Raises:
        CorpusError: there is no such file or corpus, or it has no question in a chosen language.
        ConfigError: a YAML file is not one of settings.
    """
    builder = BenchmarkBuilder(name)
    corpora = _corpora_in(folder)
    pairs = _read_files(name, folder, options, builder) if corpora is None else _read(corpora, options, builder)
    answers: dict[str, list[tuple[str, str]]] = {}  # id -> (passage id, language) in all languages
    queries: list[tuple[str, str]] = []  # (query id, id)
    passage_of: dict[tuple[str, str], str] = {}  # (language, context) -> passage id
    for location, language, pair_id, question, context in pairs:
        query_id = f"{language}:{pair_id}"
        if not builder.add_query(query_id, language, question, location=location, group=pair_id):
            continue
        queries.append((query_id, pair_id))
        builder.link_question(pair_id, language, context)
        key = (language, context)
        if key not in passage_of and not builder.add_passage(query_id, language, context, location=location):
            continue
        passage_of.setdefault(key, query_id)
        answers.setdefault(pair_id, []).append((passage_of[key], language))
    missing = (options.languages or frozenset()) - {query_id.partition(":")[0] for query_id, _ in queries}
    if missing:
        raise CorpusError(f"{folder!r} has no question in {', '.join(sorted(missing))}; choose another language")
    for query_id, pair_id in queries:
        for passage_id, language in answers.get(pair_id, []):
            builder.add_judgement(query_id, passage_id, 1, language=language, location=query_id)
    return builder.build(judged_only=False)


def _read_files(name: str, folder: str, options: ReadOptions, builder: BenchmarkBuilder) -> Iterator[_Pair]:
    """Yield the pairs of `<language>.jsonl`."""
    for language, path in language_files(name, folder, _SUFFIXES, options.languages).items():
        for location, pair, fields in read_objects(path, builder, ("id", "question", "context")):
            named = fields.get("language")
            if is_unanswerable(fields):
                builder.reject(location, UNANSWERABLE, pair["question"])
            elif isinstance(named, str) and named and not same_language(language, named):
                builder.reject(location, "language differs from the file's", f"{named}, not {language}")
            else:
                yield _Pair(location, language, pair["id"], pair["question"], pair["context"])


def _corpora_in(folder: str) -> Sequence[CorpusConfig] | None:
    """Return the corpora of a YAML file of settings, or the one that a path holds; None for `<language>.jsonl`."""
    path = Path(folder).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return load_config(path).corpora
    is_native = (
        path.is_dir() and detect_format(folder) == "jsonl" and files_by_language(files_in(path, _SUFFIXES), _SUFFIXES)
    )
    return None if not path.exists() or is_native else [detect_corpus(folder)]


def _read(corpora: Sequence[CorpusConfig], options: ReadOptions, builder: BenchmarkBuilder) -> Iterator[_Pair]:
    """Yield the pairs of corpora; ids of several corpora begin with the corpus' name."""
    for corpus in corpora:
        prefix = f"{corpus.name}:" if len(corpora) > 1 else ""
        for shard in list_shards(corpus, options.languages):
            for row in read_shard(shard):
                if not isinstance(row, CorpusRow):
                    builder.reject(row.location, row.reason, row.detail)
                elif row.question is not None:
                    yield _Pair(row.location, row.language, f"{prefix}{row.item_id}", row.question, row.passage)


READER = BenchmarkReader(read_benchmark)
