"""MLDR (Chen et al. 2024, arXiv 2402.03216): questions about long documents in 13 languages.

Below the folder, for each language: `mldr-v1.0-<language>/corpus.jsonl[.gz]` with `docid` and `text`, and
`mldr-v1.0-<language>/<split>.jsonl[.gz]` with `query_id`, `query` and `positive_passages`.
"""

from __future__ import annotations

from pathlib import Path

from hbt_ray.data.benchmarks.base import BenchmarkReader, HubFiles, HubSource, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import files_matching, is_text, read_objects
from hbt_ray.data.benchmarks.passage_files import PassageFile
from hbt_ray.data.text_files import id_text
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_at_end

SPLIT = "test"  # for which results are usually published
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "th", "zh")  # all that are published


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read every language below the folder. Ids begin with the language.

    Raises:
        CorpusError: there are no documents or no questions of the split, or none in a chosen language.
    """
    builder = BenchmarkBuilder(name)
    split = options.split or SPLIT
    found = files_matching(folder, r"(?:corpus|dev|test|train)\.jsonl")
    named = [(language_at_end(path.parent.name), path) for path, _ in found]
    files = [(language, path) for language, path in named if language is not None]
    if files:
        options.check_languages(folder, {language for language, _ in files})
    files = [(language, path) for language, path in files if options.includes(language)]
    corpora = [(language, path) for language, path in files if path.name.startswith("corpus.")]
    questions = [(language, path) for language, path in files if path.name.startswith(f"{split}.")]
    if not corpora or not questions:
        missing = f"{split}.jsonl.gz" if corpora else "corpus.jsonl.gz"
        raise CorpusError(f"{folder!r} holds no mldr-v1.0-<language>/{missing}; fetch it there")
    for language, path in corpora:
        corpus = PassageFile(path, language, has_title=False, id_prefix=f"{language}:")
        builder.add_blocks(options.read_passages(corpus))
    for language, path in questions:
        read_questions(path, language, builder)
    return builder.build(judged_only=False, split=split)


def read_questions(path: Path, language: str, builder: BenchmarkBuilder) -> None:
    """Add the queries and judgements of objects with `query_id`, `query` and `positive_passages`."""
    for location, texts, fields in read_objects(path, builder, ("query_id", "query")):
        query_id = f"{language}:{texts['query_id']}"
        if not builder.add_query(query_id, language, texts["query"], location=location):
            continue
        positives = fields.get("positive_passages")
        for positive in positives if isinstance(positives, list) else []:
            docid = id_text(positive.get("docid")) if isinstance(positive, dict) else None
            if is_text(docid):
                builder.add_judgement(query_id, f"{language}:{docid.strip()}", 1, language=language, location=location)
            else:
                builder.reject(location, "not a judgement", positive)


READER = BenchmarkReader(
    read_benchmark,
    has_splits=True,
    hub=HubSource(
        (HubFiles("Shitao/MLDR", ("mldr-v1.0-{part}/corpus.jsonl.gz", "mldr-v1.0-{part}/{split}.jsonl.gz")),),
        split=SPLIT,
        languages={language: language for language in LANGUAGES},
    ),
)
