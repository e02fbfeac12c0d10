"""Parallel question-passage pairs as a benchmark: `<language>.jsonl[.gz]` with `id`, `question` and `context`.

Pairs with the same id are translations. A question's context is relevant in every language. Equal contexts of a
language are one passage.
"""

from __future__ import annotations

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import read_objects
from hbt_ray.data.corpora.file_discovery import language_files
from hbt_ray.data.text_files import UNANSWERABLE, is_unanswerable
from hbt_ray.data.types import Benchmark
from hbt_ray.utils.language_codes import same_language


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read every language. Query ids are `<language>:<id>`; a passage has the id of its first question.

    Raises:
        CorpusError: the folder has no such file, or lacks a chosen language.
    """
    builder = BenchmarkBuilder(name)
    answers: dict[str, list[tuple[str, str]]] = {}  # id -> (passage id, language) in all languages
    queries: list[tuple[str, str]] = []  # (query id, id)
    for language, path in language_files(name, folder, (".jsonl", ".jsonl.gz"), options.languages).items():
        passage_of: dict[str, str] = {}  # context -> passage id
        for location, pair, fields in read_objects(path, builder, ("id", "question", "context")):
            if is_unanswerable(fields):
                builder.reject(location, UNANSWERABLE, pair["question"])
                continue
            named = fields.get("language")
            if isinstance(named, str) and named and not same_language(language, named):
                builder.reject(location, "language differs from the file's", f"{named}, not {language}")
                continue
            query_id = f"{language}:{pair['id']}"
            if not builder.add_query(query_id, language, pair["question"], location=location, group=pair["id"]):
                continue
            queries.append((query_id, pair["id"]))
            context = pair["context"]
            if context not in passage_of and not builder.add_passage(query_id, language, context, location=location):
                continue
            passage_of.setdefault(context, query_id)
            answers.setdefault(pair["id"], []).append((passage_of[context], language))
    for query_id, pair_id in queries:
        for passage_id, language in answers.get(pair_id, []):
            builder.add_judgement(query_id, passage_id, 1, language=language, location=query_id)
    return builder.build(judged_only=False)


READER = BenchmarkReader(read_benchmark)
