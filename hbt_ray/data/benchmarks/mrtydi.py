"""Mr. TyDi (Zhang et al. 2021, arXiv 2108.08787): questions and Wikipedia passages in 11 languages.

Two layouts, gzipped or not, in a folder whose name ends in the language, `mrtydi-v1.1-swahili` or `sw`:

- as released: `topic.test.tsv`, `qrels.test.txt` and `collection/docs.jsonl` with `id` and `contents`;
- as on the hub: `test.jsonl` with `query_id`, `query` and `positive_passages`, and `corpus.jsonl` with `docid`,
  `title` and `text`; `ir-format-data/topics.test.txt` and `ir-format-data/qrels.test.txt` repeat `test.jsonl`.

Topics and judgements may have the language in their names instead: `topics.mrtydi-v1.1-sw.test.txt`. If a language has
files of both layouts, only one is read: the first file by path, and topics with judgements rather than `test.jsonl`.
"""

from __future__ import annotations

from pathlib import Path

from hbt_ray.data.benchmarks.base import BenchmarkReader, HubFiles, HubSource, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import (
    absolute,
    files_matching,
    read_topics,
    read_trec_judgements,
)
from hbt_ray.data.benchmarks.mldr import read_questions
from hbt_ray.data.benchmarks.passage_files import PassageFile
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

SPLIT = "test"  # for which results are usually published
NAMES = {  # language code -> name in folders
    **{"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ja": "japanese"},
    **{"ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu", "th": "thai"},
}
_CODES = {name: code for code, name in NAMES.items()}
_TREC_FILE = r"\.(?:mrtydi-v[\d.]+-(?P<language>[a-z]+)[.-])?(?P<split>dev|test|train)\.(?:tsv|txt)"


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read every language with questions below the folder. Ids begin with the language: `sw:2601`, `sw:15607#5`.

    A question without a judgement is kept, because the file has the questions of one split only. It is a reject, and
    its query retrieves nothing relevant.

    Raises:
        CorpusError: there are no questions of the split or of a chosen language, no judgements of a language, or no
            passages at all.
    """
    builder = BenchmarkBuilder(name)
    split = options.split or SPLIT
    topics = _files_by_language(folder, "topics?" + _TREC_FILE, split)
    judgements = _files_by_language(folder, "qrels" + _TREC_FILE, split)
    questions = _files_by_language(folder, r"(?P<split>dev|test|train)\.jsonl", split)
    passages = _files_by_language(folder, r"(?:docs|corpus)\.jsonl")
    found = sorted(topics.keys() | questions.keys())
    if not found:
        raise CorpusError(
            f"{folder!r} holds no questions of the split {split!r}; put topic.{split}.tsv and qrels.{split}.txt, or "
            f"{split}.jsonl.gz, in a folder whose name ends in the language, such as mrtydi-v1.1-swahili"
        )
    options.check_languages(folder, found)
    languages = sorted(options.languages or found)
    if not passages.keys() & set(languages):
        raise CorpusError(
            f"{folder!r} holds no passages for {', '.join(languages)}; put docs.jsonl.gz or corpus.jsonl.gz in a "
            "folder whose name ends in the language, such as mrtydi-v1.1-swahili"
        )
    for language in languages:
        if language in topics and language in judgements:
            _read_topics(topics[language], judgements[language], language, builder)
        elif language in questions:
            read_questions(questions[language], language, builder)
        else:
            raise CorpusError(f"{folder!r} holds no judgements for {str(topics[language])!r}; put its qrels beside it")
        if language in passages:
            is_release = passages[language].name.startswith("docs")
            keys = ("id", "contents") if is_release else ("docid", "text")
            corpus = PassageFile(passages[language], language, *keys, not is_release, f"{language}:")
            builder.add_blocks(options.read_passages(corpus))
    return builder.build(judged_only=False, split=split)


def _read_topics(topics: Path, judgements: Path, language: str, builder: BenchmarkBuilder) -> None:
    for location, query_id, text in read_topics(topics, builder):
        builder.add_query(f"{language}:{query_id}", language, text, location=location)
    for location, query_id, passage_id, grade in read_trec_judgements(judgements, builder):
        builder.add_judgement(
            f"{language}:{query_id}", f"{language}:{passage_id}", grade, language=language, location=location
        )


def _files_by_language(folder: str, pattern: str, split: str | None = None) -> dict[str, Path]:
    """Return language -> the first file that matches, of the split if the pattern has one."""
    files: dict[str, Path] = {}
    for path, match in files_matching(folder, pattern):
        groups = match.groupdict()
        language = _language_code(groups.get("language") or "") or _language_of_folders(path, absolute(folder))
        if language is not None and groups.get("split") == split:
            files.setdefault(language, path)
    return files


def _language_of_folders(path: Path, root: Path) -> str | None:
    """Return the language in the name of the nearest folder above the file, up to and including the root."""
    folders = [folder for folder in path.parents if folder.is_relative_to(root)]
    return next(filter(None, (_language_code(folder.name.rpartition("-")[2]) for folder in folders)), None)


def _language_code(name: str) -> str | None:
    return _CODES.get(name, name if name in NAMES else None)


READER = BenchmarkReader(
    read_benchmark,
    has_splits=True,
    hub=HubSource(
        (
            HubFiles("castorini/mr-tydi", ("mrtydi-v1.1-{language}/{split}.jsonl.gz",)),
            HubFiles("castorini/mr-tydi-corpus", ("mrtydi-v1.1-{language}/corpus.jsonl.gz",)),
        ),
        split=SPLIT,
        languages=NAMES,
    ),
)
