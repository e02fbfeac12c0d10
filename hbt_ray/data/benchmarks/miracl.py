"""MIRACL (Zhang et al. 2023, TACL 11): questions and Wikipedia passages in 18 languages.

Files, at any depth below the folder, gzipped or not, with their published names:

- topics `topics.miracl-v1.0-sw-dev.tsv`: query id, tab, text;
- judgements `qrels.miracl-v1.0-sw-dev.tsv`, in TREC's format. A name with two languages,
  `qrels.miracl-v1.0-sw-en-dev.tsv`, means passages of the second for questions of the first;
- passages `docs-0.jsonl` or `corpus.jsonl` with `docid`, `title` and `text`, in a folder whose name ends in the
  language, `miracl-corpus-v1.0-sw`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hbt_ray.data.benchmarks.base import BenchmarkReader, HubFiles, HubSource, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import (
    files_matching,
    read_topics,
    read_trec_judgements,
)
from hbt_ray.data.benchmarks.passage_files import PassageFile
from hbt_ray.data.language_resources import MIRACL_PASSAGES
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_at_end

SPLIT = "dev"  # for which results are usually published
_CODE = r"[a-z]{2,3}(?:[-_](?:[A-Z][A-Za-z]{1,3}|[0-9]\w{2,3}|valencia|tarask))*"  # sw-en are two
_FILE = rf"\.miracl-v[\d.]+-({_CODE})(?:-({_CODE}))?[-.](dev|test(?:-[ab])?|train)\.(?:tsv|txt)"


class _TrecFile(NamedTuple):
    query_language: str
    passage_language: str
    path: Path


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read every language with topics below the folder. Ids begin with the language: `sw:6`, `sw:32589#0`.

    A topic without a judgement is kept, because the file has the topics of one split only. It is a reject, and its
    query retrieves nothing relevant.

    Raises:
        CorpusError: there are no topics, judgements or passages, or none in a chosen language.
    """
    builder = BenchmarkBuilder(name)
    split = options.split or SPLIT
    topics = _files_of_split(folder, "topics", split, options)
    judgements = _files_of_split(folder, "qrels", split, options)
    for language, _, path in topics:
        for location, query_id, text in read_topics(path, builder):
            builder.add_query(f"{language}:{query_id}", language, text, location=location)
    for query_language, passage_language, path in judgements:
        for location, query_id, passage_id, grade in read_trec_judgements(path, builder):
            builder.add_judgement(
                f"{query_language}:{query_id}",
                f"{passage_language}:{passage_id}",
                grade,
                language=passage_language,
                location=location,
            )
    languages = {file.query_language for file in topics} | {file.passage_language for file in judgements}
    corpora = [(language, path) for language, path in _passage_files(folder) if language in languages]
    if not corpora:
        raise CorpusError(
            f"{folder!r} holds no passages for {', '.join(sorted(languages))}; put their docs-*.jsonl.gz below a "
            "folder whose name ends in the language, such as miracl-corpus-v1.0-sw"
        )
    for language, path in corpora:
        builder.add_blocks(options.read_passages(PassageFile(path, language, id_prefix=f"{language}:")))
    return builder.build(judged_only=False, split=split)


def _files_of_split(folder: str, prefix: str, split: str, options: ReadOptions) -> list[_TrecFile]:
    """List the files of a split whose names begin with "topics" or "qrels"."""
    found = files_matching(folder, prefix + _FILE)
    if found:
        options.check_languages(folder, {match[1] for _, match in found})
    files = [
        _TrecFile(match[1], match[2] or match[1], path)
        for path, match in found
        if match[3] == split and options.includes(match[1])
    ]
    if not files:
        available = ", ".join(sorted({match[3] for _, match in found})) or "none"
        raise CorpusError(f"{folder!r} holds no {prefix} of the split {split!r}; splits there: {available}")
    return files


def _passage_files(folder: str) -> list[tuple[str, Path]]:
    """List (language, file) of the files of passages. The language is the end of the folder's name."""
    files = files_matching(folder, r"(?:docs-\d+|corpus)\.jsonl")
    named = [(language_at_end(path.parent.name), path) for path, _ in files]
    return [(language, path) for language, path in named if language is not None]


READER = BenchmarkReader(
    read_benchmark,
    has_splits=True,
    hub=HubSource(
        (
            HubFiles(
                "miracl/miracl",
                (
                    "miracl-v1.0-{part}/topics/topics.miracl-v1.0-{part}-{split}.tsv",
                    "miracl-v1.0-{part}/qrels/qrels.miracl-v1.0-{part}-{split}.tsv",
                ),
            ),
            HubFiles("miracl/miracl-corpus", ("miracl-corpus-v1.0-{part}/docs-*.jsonl.gz",)),
        ),
        split=SPLIT,
        languages={language: language for language in MIRACL_PASSAGES},
    ),
)
