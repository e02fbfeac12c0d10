"""MIRACL (Zhang et al. 2023, TACL 11): questions and Wikipedia passages in 18 languages.

Below the folder, at whatever depth and gzipped or not, as published:

- topics `topics.miracl-v1.0-sw-dev.tsv`: query id, tab, text;
- judgements `qrels.miracl-v1.0-sw-dev.tsv`, in TREC's format. One whose name has two languages,
  `qrels.miracl-v1.0-sw-en-dev.tsv`, judges passages of the second for questions of the first;
- passages `docs-0.jsonl` or `corpus.jsonl` with `docid`, `title` and `text`, in a folder whose name ends in
  the language, `miracl-corpus-v1.0-sw`.
"""

from __future__ import annotations

from pathlib import Path

from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import (
    files_matching,
    read_objects,
    read_topics,
    read_trec_judgements,
    with_title,
)
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

SPLIT = "dev"  # usually reported
_FILE = r"\.miracl-v[\d.]+-([a-z]{2,3})(?:-([a-z]{2,3}))?[-.](dev|test(?:-[ab])?|train)\.(?:tsv|txt)"


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Every language whose topics lie below the folder. Ids begin with the language: `sw:6`, `sw:32589#0`.

    A topic that no judgement names stays, for the file is that of one split: it finds nothing, and that is noted.

    Raises:
        CorpusError: there are no topics, judgements or passages, or not of a language asked for.
    """
    builder = BenchmarkBuilder(name)
    split = options.split or SPLIT
    topics = _of_split(folder, "topics", split, options)
    judgements = _of_split(folder, "qrels", split, options)
    for language, _, path in topics:
        for location, query_id, text in read_topics(path, builder):
            builder.add_query(f"{language}:{query_id}", language, text, location=location)
    wanted = {language for language, _, _ in topics}
    for asked, answered, path in judgements:
        wanted |= {answered}
        for location, query_id, passage_id, grade in read_trec_judgements(path, builder):
            query, passage = f"{asked}:{query_id}", f"{answered}:{passage_id}"
            builder.add_judgement(query, passage, grade, language=answered, location=location)
    corpora = [(language, path) for language, path in _corpora(folder) if language in wanted]
    if not corpora:
        raise CorpusError(
            f"{folder!r} holds no passages for {', '.join(sorted(wanted))}; put their docs-*.jsonl.gz below a folder "
            "whose name ends in the language, such as miracl-corpus-v1.0-sw"
        )
    for language, path in corpora:
        for location, described in read_objects(path, builder, ("docid", "text")):
            builder.add_passage(f"{language}:{described['docid']}", language, with_title(described), location=location)
    return builder.build(judged_only=False, split=split)


def _of_split(folder: str, kind: str, split: str, options: ReadOptions) -> list[tuple[str, str, Path]]:
    """(language asked in, language of the passages, file) of a kind of file."""
    found = files_matching(folder, kind + _FILE)
    splits = {match[3] for _, match in found}
    if found:
        options.check_languages(folder, {match[1] for _, match in found})
    files = [
        (match[1], match[2] or match[1], path)
        for path, match in found
        if match[3] == split and (options.languages is None or match[1] in options.languages)
    ]
    if not files:
        there = ", ".join(sorted(splits)) or "none"
        raise CorpusError(f"{folder!r} holds no {kind} of the split {split!r}; splits there: {there}")
    return files


def _corpora(folder: str) -> list[tuple[str, Path]]:
    """(language, file) of each file of passages, by the end of its folder's name."""
    files = files_matching(folder, r"(?:docs-\d+|corpus)\.jsonl")
    return [(path.parent.name.rpartition("-")[2], path) for path, _ in files]
