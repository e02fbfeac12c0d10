"""Retrieval sets to measure on: one module per file format, each giving a `Benchmark`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from hbt_ray.benchmarks import beir, hub, miracl, mldr, mlqa, mrtydi, pairs, squad, xm3600
from hbt_ray.benchmarks.options import ReadOptions
from hbt_ray.errors import CorpusError
from hbt_ray.records import Benchmark

__all__ = ["BENCHMARKS", "ReadOptions", "load_benchmark", "own_name"]

READERS: dict[str, Callable[[str, str, ReadOptions], Benchmark]] = {
    "xquad-r": squad.read_benchmark,
    "squad": squad.read_benchmark,  # any other set in SQuAD's format
    "mlqa-r": mlqa.read_benchmark,
    "miracl": miracl.read_benchmark,
    "mrtydi": mrtydi.read_benchmark,
    "beir": beir.read_benchmark,
    "mldr": mldr.read_benchmark,
    "xm3600": xm3600.read_benchmark,
    "pairs": pairs.read_benchmark,  # parallel questions and contexts in JSON Lines
}
BENCHMARKS = ("embedded", *READERS)
DEFAULT = ReadOptions()


def load_benchmark(name: str, folder: str | None, options: ReadOptions = DEFAULT) -> Benchmark:
    """Reads a benchmark by its name.

    Args:
        name: one of `BENCHMARKS`, such as `xquad-r`; `embedded` is the small set that comes with the package. What
            stands behind a slash narrows it: `miracl/sw` is its Swahili, `beir/scifact` tells one set from another.
            Such a benchmark's own name, with which its metrics begin, has a hyphen there: `miracl-sw`.
        folder: where the files lie; `embedded` needs none, and what `hub` knows is fetched.
        options: what to read of it.

    Raises:
        CorpusError: there is no such benchmark, or its files are missing or cannot be read.
    """
    family, _, part = name.partition("/")
    if family not in BENCHMARKS:
        nearest = difflib.get_close_matches(family, BENCHMARKS, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(BENCHMARKS)}"
        raise CorpusError(f"there is no benchmark {name!r}; {hint}")
    if family == "embedded":
        # Imported when asked for, so that measuring on other sets does not build the shipped corpus.
        from hbt_ray.corpora import embedded

        benchmark: Benchmark = embedded.benchmark()
        return benchmark
    if not folder and hub.can_be_fetched(name):
        folder = hub.fetch(name, options.split)
    if not folder:
        raise CorpusError(f"the benchmark {name!r} needs the folder that holds its files; write {name}=FOLDER")
    if part and family != "beir":
        options = replace(options, languages=frozenset({part}))
    return READERS[family](own_name(name), folder, options)


def own_name(name: str) -> str:
    """What a benchmark's metrics and its folder are called.

    >>> own_name("miracl/sw")
    'miracl-sw'
    """
    return name.replace("/", "-")
