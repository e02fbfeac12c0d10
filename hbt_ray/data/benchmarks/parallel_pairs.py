"""Parallel pairs as a retrieval set: `<language>.jsonl[.gz]` with `id`, `question` and `context`, aligned by id.

A question's context in every language is relevant to it. Equal contexts of a language are one passage.
"""

from __future__ import annotations

from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import read_objects
from hbt_ray.data.corpora.file_discovery import list_language_parts
from hbt_ray.data.types import Benchmark


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Query ids are `<language>:<id>`, and so are passage ids, by the first id that has the context.

    Raises:
        CorpusError: the folder holds no such file, or lacks a language asked for.
    """
    builder = BenchmarkBuilder(name)
    languages = None if options.languages is None else tuple(sorted(options.languages))
    corpus = CorpusConfig(format="jsonl", name=name, path=folder, languages=languages)
    answers: dict[str, list[tuple[str, str]]] = {}
    asked: list[tuple[str, str]] = []
    for part in list_language_parts(corpus, (".jsonl", ".jsonl.gz"), {}):
        language = str(part.language)
        passage_of: dict[str, str] = {}
        for location, pair in read_objects(Path(part.location), builder, ("id", "question", "context")):
            query_id = f"{language}:{pair['id']}"
            if not builder.add_query(query_id, language, pair["question"], location=location, group=pair["id"]):
                continue
            asked.append((query_id, pair["id"]))
            context = pair["context"]
            if context not in passage_of and not builder.add_passage(query_id, language, context, location=location):
                continue
            passage_of.setdefault(context, query_id)
            answers.setdefault(pair["id"], []).append((passage_of[context], language))
    for query_id, item in asked:
        for passage_id, language in answers.get(item, []):
            builder.add_judgement(query_id, passage_id, 1, language=language, location=query_id)
    return builder.build(judged_only=False)
