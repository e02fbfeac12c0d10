"""Retrieval sets to measure on: one module per file format, each giving a `Benchmark`."""

from __future__ import annotations

import difflib

from hbt_ray.benchmarks import squad_sentences
from hbt_ray.errors import CorpusError
from hbt_ray.records import Benchmark

__all__ = ["BENCHMARKS", "load_benchmark"]

BENCHMARKS = ("embedded", "squad", "xquad-r")


def load_benchmark(name: str, folder: str | None, with_paragraph: bool = False) -> Benchmark:
    """Reads a benchmark by its name.

    Args:
        name: `xquad-r`; `squad` for any other set in SQuAD's format with `sentence_breaks`; or `embedded`, the
            small set that comes with the package.
        folder: where the files lie; `embedded` needs none.
        with_paragraph: a passage is a sentence followed by its paragraph, not the sentence alone. Judgements and
            the number of passages stay the same. `embedded` has no paragraphs and is not changed by it.

    Raises:
        CorpusError: there is no such benchmark, or its files are missing or cannot be read.
    """
    if name not in BENCHMARKS:
        nearest = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(BENCHMARKS)}"
        raise CorpusError(f"there is no benchmark {name!r}; {hint}")
    if name == "embedded":
        # Imported when asked for, so that measuring on other sets does not build the shipped corpus.
        from hbt_ray.corpora import embedded

        benchmark: Benchmark = embedded.benchmark()
        return benchmark
    if not folder:
        raise CorpusError(f"the benchmark {name!r} needs a folder that holds its <language>.json files")
    return squad_sentences.read_benchmark(name, folder, with_paragraph)
