"""MLQA (Lewis et al. 2020, arXiv 1910.07475) as LAReQA's MLQA-R, in 7 languages.

Below the folder lie `<split>-context-<language>-question-<language>.json[.gz]`, in SQuAD's format. A language's
questions are those of every file that asks in it, its candidates the sentences of every paragraph in it.
"""

from __future__ import annotations

from collections import Counter

from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import files_matching
from hbt_ray.data.benchmarks.squad import SentenceSet, paragraphs_of
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

# By split, as MLQA's own page gives them; LAReQA's of MLQA-R (Roy et al. 2020, arXiv 2004.05484) are those of dev. Its
# numbers of candidates are not compared: they depend on where sentences end, which it does not publish.
PUBLISHED_QUESTIONS = {
    "dev": {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504},
    "test": {"ar": 5335, "de": 4517, "en": 11590, "es": 5254, "hi": 4918, "vi": 5495, "zh": 5137},
}


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """The questions and sentences of a split, of which dev is usually reported.

    Where all languages are there, one with other than its published number of questions is noted.

    Raises:
        CorpusError: the folder holds no such file of the split or of a language asked for, or one of them is not in
            this format.
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
    sentences = SentenceSet(name, options)
    asked: set[tuple[str, str]] = set()
    for path, match in found:
        _, answered_in, asked_in = match.groups()
        if match[1] != split or (options.languages and not {answered_in, asked_in} <= options.languages):
            continue
        for paragraph in paragraphs_of(path):
            sentences.add_paragraph(paragraph, answered_in, path.name, again=True)
            for question in paragraph.qas:
                if (asked_in, question.id) not in asked:
                    asked.add((asked_in, question.id))
                    sentences.add_question(question, asked_in, path.name)
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
