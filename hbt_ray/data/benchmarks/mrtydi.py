"""Mr. TyDi (Zhang et al. 2021, arXiv 2108.08787): questions and Wikipedia passages in 11 languages.

Below the folder, gzipped or not, in a folder whose name ends in the language, `mrtydi-v1.1-swahili` or `sw`:

- as released: `topic.test.tsv`, `qrels.test.txt` and `collection/docs.jsonl` with `id` and `contents`;
- as on the hub: `test.jsonl` with `query_id`, `query` and `positive_passages`, and `corpus.jsonl` with `docid`, `title`
  and `text`; `ir-format-data/topics.test.txt` and `ir-format-data/qrels.test.txt` say the same as `test.jsonl`.

Topics and judgements may have the language in their own names instead: `topics.mrtydi-v1.1-sw.test.txt`. What a
language has twice is read once: the first file by path, and topics with judgements before `test.jsonl`.
"""

from __future__ import annotations

from pathlib import Path

from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import (
    absolute,
    files_matching,
    read_objects,
    read_topics,
    read_trec_judgements,
    with_title,
)
from hbt_ray.data.benchmarks.mldr import read_questions
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

SPLIT = "test"  # usually reported
# Languages as folders name them.
NAMES = {
    **{"arabic": "ar", "bengali": "bn", "english": "en", "finnish": "fi", "indonesian": "id", "japanese": "ja"},
    **{"korean": "ko", "russian": "ru", "swahili": "sw", "telugu": "te", "thai": "th"},
}
_TREC_FILE = r"\.(?:mrtydi-v[\d.]+-(?P<language>[a-z]+)[.-])?(?P<split>dev|test|train)\.(?:tsv|txt)"


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Every language whose questions lie below the folder. Ids begin with the language: `sw:2601`, `sw:15607#5`.

    A question without a judgement stays, for the file is that of one split: it finds nothing, and that is noted.

    Raises:
        CorpusError: there are no questions of the split or of a language asked for, or a language's judgements or all
            passages are missing.
    """
    builder = BenchmarkBuilder(name)
    split = options.split or SPLIT
    topics = _by_language(folder, "topics?" + _TREC_FILE, split)
    judgements = _by_language(folder, "qrels" + _TREC_FILE, split)
    questions = _by_language(folder, r"(?P<split>dev|test|train)\.jsonl", split)
    passages = _by_language(folder, r"(?:docs|corpus)\.jsonl")
    asked = sorted(topics.keys() | questions.keys())
    if not asked:
        raise CorpusError(
            f"{folder!r} holds no questions of the split {split!r}; put topic.{split}.tsv and qrels.{split}.txt, or "
            f"{split}.jsonl.gz, in a folder whose name ends in the language, such as mrtydi-v1.1-swahili"
        )
    options.check_languages(folder, asked)
    asked = sorted(options.languages or asked)
    if not passages.keys() & set(asked):
        raise CorpusError(
            f"{folder!r} holds no passages for {', '.join(asked)}; put docs.jsonl.gz or corpus.jsonl.gz in a folder "
            "whose name ends in the language, such as mrtydi-v1.1-swahili"
        )
    for language in asked:
        if language in topics and language in judgements:
            _read_topics(topics[language], judgements[language], language, builder)
        elif language in questions:
            read_questions(questions[language], language, builder)
        else:
            raise CorpusError(f"{folder!r} holds no judgements for {str(topics[language])!r}; put its qrels beside it")
        if language in passages:
            _read_passages(passages[language], language, builder)
    return builder.build(judged_only=False, split=split)


def _read_topics(topics: Path, judgements: Path, language: str, builder: BenchmarkBuilder) -> None:
    for location, query_id, text in read_topics(topics, builder):
        builder.add_query(f"{language}:{query_id}", language, text, location=location)
    for location, query_id, passage_id, grade in read_trec_judgements(judgements, builder):
        builder.add_judgement(
            f"{language}:{query_id}", f"{language}:{passage_id}", grade, language=language, location=location
        )


def _read_passages(path: Path, language: str, builder: BenchmarkBuilder) -> None:
    released = path.name.startswith("docs")
    passage_id, text = ("id", "contents") if released else ("docid", "text")
    for location, passage in read_objects(path, builder, (passage_id, text)):
        whole = passage[text] if released else with_title(passage)
        builder.add_passage(f"{language}:{passage[passage_id]}", language, whole, location=location)


def _by_language(folder: str, pattern: str, split: str | None = None) -> dict[str, Path]:
    """Language -> the first file that matches, of a split where its name says one."""
    files: dict[str, Path] = {}
    for path, match in files_matching(folder, pattern):
        named = match.groupdict()
        language = _language(named.get("language") or "") or _language_above(path, absolute(folder))
        if language is not None and named.get("split") == split:
            files.setdefault(language, path)
    return files


def _language_above(path: Path, root: Path) -> str | None:
    """The language that the nearest folder above the file names, the root included."""
    above = [folder for folder in path.parents if folder.is_relative_to(root)]
    return next(filter(None, (_language(folder.name.rpartition("-")[2]) for folder in above)), None)


def _language(name: str) -> str | None:
    return NAMES.get(name, name if name in NAMES.values() else None)
