"""BEIR's format (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbt_ray.data.benchmarks.base import BenchmarkReader, HubFiles, HubSource, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import (
    absolute,
    files_matching,
    read_beir_judgements,
    read_objects,
)
from hbt_ray.data.benchmarks.passage_files import PassageFile
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_of_name

DEFAULT_LANGUAGE = "en"  # of a set whose folders name none


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read one set, or a folder of sets in several languages, each in a folder named by its language.

    A set's language is the name of its folder or of one above it, up to `folder`: `nfcorpus/de`, `de/nfcorpus`. A
    single set without such a folder is English. In a folder of several languages, ids begin with the language.

    Only the queries that the split's judgements name are read; one that no split judges is a reject. A passage with
    the id and the text of a query is left out of the query's ranking: in ArguAna and Quora the queries are passages,
    and each would retrieve itself. BEIR's `ignore_identical_ids` compares ids only; other sets number queries and
    passages independently, so equal ids need not be equal texts.

    Raises:
        CorpusError: the folder has no set, several sets without a language or with the same one, or a set without the
            split.
    """
    builder = BenchmarkBuilder(name)
    judged_elsewhere: set[str] = set()  # ids of queries in other splits
    set_folders = _find_sets(folder)
    split, judgement_files = _find_judgements(set_folders, options.split)
    for language, set_folder in sorted(set_folders.items()):
        prefix = "" if set_folder == absolute(folder) else f"{language}:"
        query_texts: dict[str, str] = {}  # query id -> its text, normalized
        for file, _ in files_matching(set_folder, r"queries\.jsonl"):
            for entry in read_objects(file, builder, ("_id", "text")):
                query_id = prefix + entry.texts["_id"]
                if builder.add_query(query_id, language, entry.texts["text"], location=entry.location):
                    query_texts[query_id] = normalize_for_matching(entry.texts["text"])
        for file, _ in files_matching(set_folder, r"corpus\.jsonl"):
            corpus = PassageFile(file, language, "_id", id_prefix=prefix, query_texts=query_texts)
            builder.add_blocks(options.read_passages(corpus))
        for location, query_id, passage_id, grade in read_beir_judgements(judgement_files[language][split], builder):
            builder.add_judgement(prefix + query_id, prefix + passage_id, grade, language=language, location=location)
        for path in (path for other, path in judgement_files[language].items() if other != split):
            unused = BenchmarkBuilder(name)  # takes the faults of a split that is not read
            judged_elsewhere.update(prefix + judgement.query_id for judgement in read_beir_judgements(path, unused))
    return builder.build(judged_only=True, split=split, judged_elsewhere=judged_elsewhere)


def _find_sets(folder: str) -> dict[str, Path]:
    """Return language -> the folder of its set."""
    found = [path.parent for path, _ in files_matching(folder, r"corpus\.jsonl")]
    if not found:
        raise CorpusError(f"{folder!r} holds no corpus.jsonl; name the folder of a set in BEIR's format")
    root = absolute(folder)
    if root in found:
        return {_language_among([root.name]) or DEFAULT_LANGUAGE: root}
    sets: dict[str, Path] = {}
    for set_folder in found:
        relative = set_folder.relative_to(root)
        language = _language_among(relative.parts)
        if language is None:
            raise CorpusError(
                f"{folder!r} does not say the language of {str(relative)!r}; name the folder of one "
                "set, or put each set in a folder named by its language, such as de"
            )
        if language in sets:
            raise CorpusError(
                f"{folder!r} holds two sets in {language}, {str(sets[language].relative_to(root))!r} and "
                f"{str(relative)!r}; name the folder of one of them"
            )
        sets[language] = set_folder
    return sets


def _language_among(folder_names: Sequence[str]) -> str | None:
    """Return the last name that is a language code; `nq`, `gis` and `tex` are none."""
    return next(filter(None, map(language_of_name, reversed(folder_names))), None)


def _find_judgements(sets: dict[str, Path], split: str | None) -> tuple[str, dict[str, dict[str, Path]]]:
    """Return the split, by default the first of test and dev that all sets have, and each language's file by split."""
    files: dict[str, dict[str, Path]] = {language: {} for language in sets}
    for language, set_folder in sets.items():
        for path, match in files_matching(set_folder, r"([\w-]+)\.tsv"):
            if path.parent.name == "qrels":
                files[language][match[1]] = path
    common = (name for name in ("test", "dev") if all(name in by_split for by_split in files.values()))
    chosen = split or next(common, "test")
    for language, by_split in files.items():
        if chosen not in by_split:
            available = ", ".join(sorted(by_split)) or "none"
            raise CorpusError(f"{str(sets[language])!r} has no judgements qrels/{chosen}.tsv; there are {available}")
    return chosen, files


READER = BenchmarkReader(
    read_benchmark,
    has_splits=True,
    part_is_name=True,
    hub=HubSource(
        (
            HubFiles("BeIR/{part}", ("corpus.jsonl.gz", "queries.jsonl.gz")),
            HubFiles("BeIR/{part}-qrels", ("{split}.tsv",), "qrels"),
        ),
        split="test",
    ),
)
