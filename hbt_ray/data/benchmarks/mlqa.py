"""MLQA (Lewis et al. 2020, arXiv 1910.07475) in 7 languages, as the retrieval benchmark MLQA-R of LAReQA.

Below the folder are `<split>-context-<language>-question-<language>.json[.gz]` in SQuAD's format. A language's queries
are the questions of all files in that question language; its passages are the sentences of all paragraphs in that
context language.
"""

from __future__ import annotations

from collections import Counter

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import files_matching
from hbt_ray.data.benchmarks.squad import SentenceBenchmark, paragraphs_of
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

# By split, from MLQA's own page; LAReQA's numbers for MLQA-R (Roy et al. 2020, arXiv 2004.05484) equal those of dev.
# Its numbers of candidates are not compared: they depend on sentence boundaries, which it does not publish.
PUBLISHED_QUESTIONS = {
    "dev": {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504},
    "test": {"ar": 5335, "de": 4517, "en": 11590, "es": 5254, "hi": 4918, "vi": 5495, "zh": 5137},
}


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read the questions and sentences of a split, by default dev, for which results are usually published.

    If all languages are present, one with another number of questions than published is a reject.

    Raises:
        CorpusError: the folder has no file of the split or of a chosen language, or one that is not in this format.
    """
    found = files_matching(folder, r"(dev|test)-context-([a-z]{2,3})-question-([a-z]{2,3})\.json")
    splits = sorted({match[1] for _, match in found})
    split = options.split or ("dev" if "dev" in splits else "test")
    if split not in splits:
        raise CorpusError(
            f"{folder!r} holds no {split}-context-<language>-question-<language>.json; "
            f"splits there: {', '.join(splits) or 'none'}"
        )
    options.check_languages(folder, {language for _, match in found for language in match.groups()[1:]})
    sentences = SentenceBenchmark(name, options)
    added: set[tuple[str, str]] = set()  # (question language, question id)
    for path, match in found:
        file_split, context_language, question_language = match.groups()
        if file_split != split or not (options.includes(context_language) and options.includes(question_language)):
            continue
        for paragraph in paragraphs_of(path):
            sentences.add_paragraph(paragraph, context_language, path.name, may_repeat=True)
            for question in paragraph.answerable():
                if (question_language, question.id) not in added:
                    added.add((question_language, question.id))
                    sentences.add_question(question, question_language, path.name)
    _compare_counts(sentences.builder, PUBLISHED_QUESTIONS[split])
    return sentences.build(split)


def _compare_counts(builder: BenchmarkBuilder, published: dict[str, int]) -> None:
    found = Counter(query.language for query in builder.queries)
    if found.keys() != published.keys():
        return
    for language, number in published.items():
        if found[language] != number:
            more = "more" if found[language] > number else "fewer"
            builder.reject(language, f"{more} questions than published", f"{found[language]}, published {number}")


READER = BenchmarkReader(read_benchmark, has_splits=True, has_paragraphs=True)
