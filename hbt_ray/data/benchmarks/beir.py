"""BEIR's format (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babel import Locale

from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import (
    absolute,
    files_matching,
    read_beir_judgements,
    read_objects,
    with_title,
)
from hbt_ray.data.corpora.file_discovery import LANGUAGE
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

DEFAULT_LANGUAGE = "en"  # of a set whose folder names none


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """One set, or a folder of sets in several languages, each in a folder named by its language.

    A set's language is what its folder or one above it is called, up to the one that was named: `nfcorpus/de`,
    `de/nfcorpus`. One set alone whose folder is called otherwise is English.

    Queries are those that the split's judgements name. In a folder of several languages ids begin with the language.
    A passage with the query's own id is never in its list, as BEIR leaves it out (`ignore_identical_ids`): where
    passages ask, as in ArguAna and Quora, nothing is as near to a query as itself.

    Raises:
        CorpusError: the folder holds no such set, several without a language or of the same one, or a set without
            such a split.
    """
    builder = BenchmarkBuilder(name)
    sets = _sets(folder)
    split, judgements = _judgements(sets, options.split)
    for language, location in sorted(sets.items()):
        start = "" if location == absolute(folder) else f"{language}:"
        for file, _ in files_matching(location, r"corpus\.jsonl"):
            for line, passage in read_objects(file, builder, ("_id", "text")):
                builder.add_passage(start + passage["_id"], language, with_title(passage), location=line)
        for file, _ in files_matching(location, r"queries\.jsonl"):
            for line, query in read_objects(file, builder, ("_id", "text")):
                builder.add_query(start + query["_id"], language, query["text"], location=line)
                builder.exclude_passage(start + query["_id"], start + query["_id"])
        for line, query_id, passage_id, grade in read_beir_judgements(judgements[language], builder):
            builder.add_judgement(start + query_id, start + passage_id, grade, language=language, location=line)
    return builder.build(judged_only=True, split=split)


def _sets(folder: str) -> dict[str, Path]:
    """Language -> the folder of its set."""
    found = [path.parent for path, _ in files_matching(folder, r"corpus\.jsonl")]
    if not found:
        raise CorpusError(f"{folder!r} holds no corpus.jsonl; name the folder of a set in BEIR's format")
    root = absolute(folder)
    if root in found:
        return {_language_among([root.name]) or DEFAULT_LANGUAGE: root}
    sets: dict[str, Path] = {}
    for location in found:
        language = _language_among(location.relative_to(root).parts)
        if language is None:
            raise CorpusError(
                f"{folder!r} does not say the language of {str(location.relative_to(root))!r}; name the folder of one "
                "set, or put each set in a folder named by its language, such as de"
            )
        if language in sets:
            raise CorpusError(
                f"{folder!r} holds two sets in {language}, {str(sets[language].relative_to(root))!r} and "
                f"{str(location.relative_to(root))!r}; name the folder of one of them"
            )
        sets[language] = location
    return sets


def _language_among(folders: Sequence[str]) -> str | None:
    """The last of the folders' names that is a language's code: CLDR knows none of `nq`, `gis` and `tex`."""
    codes = [name for name in folders if LANGUAGE.fullmatch(name)]
    return next((name for name in reversed(codes) if name.partition("-")[0] in Locale("en").languages), None)


def _judgements(sets: dict[str, Path], split: str | None) -> tuple[str, dict[str, Path]]:
    """The split, by default the first of test and dev that all sets have, and each language's file of it."""
    files: dict[str, dict[str, Path]] = {language: {} for language in sets}
    for language, location in sets.items():
        for path, match in files_matching(location, r"([\w-]+)\.tsv"):
            if path.parent.name == "qrels":
                files[language][match[1]] = path
    usual = (usual for usual in ("test", "dev") if all(usual in own for own in files.values()))
    wanted = split or next(usual, "test")
    for language, own in files.items():
        if wanted not in own:
            there = ", ".join(sorted(own)) or "none"
            raise CorpusError(f"{str(sets[language])!r} has no judgements qrels/{wanted}.tsv; there are {there}")
    return wanted, {language: own[wanted] for language, own in files.items()}
