"""Retrieval sets to measure on: one module per file format, each giving a `Benchmark`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from hbt_ray.data.benchmarks import beir, hub_download, miracl, mldr, mlqa, mrtydi, parallel_pairs, squad, xm3600
from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

__all__ = ["BENCHMARKS", "ReadOptions", "benchmark_slug", "check_options", "load_benchmark"]


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a format, and which of the options have an effect on it."""

    read: Callable[[str, str, ReadOptions], Benchmark]
    splits: bool = False  # `split`
    paragraphs: bool = False  # `with_paragraph`


READERS = {
    "xquad-r": Reader(squad.read_benchmark, paragraphs=True),
    "squad": Reader(squad.read_benchmark, paragraphs=True),  # any other set in SQuAD's format
    "mlqa-r": Reader(mlqa.read_benchmark, splits=True, paragraphs=True),
    "miracl": Reader(miracl.read_benchmark, splits=True),
    "mrtydi": Reader(mrtydi.read_benchmark, splits=True),
    "beir": Reader(beir.read_benchmark, splits=True),
    "mldr": Reader(mldr.read_benchmark, splits=True),
    "xm3600": Reader(xm3600.read_benchmark),
    "pairs": Reader(parallel_pairs.read_benchmark),  # parallel questions and contexts in JSON Lines
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
        options: what to read of it. An option that its format does not know is passed over, for several benchmarks are
            read with the same ones; `check_options` tells where none knows it.

    Raises:
        CorpusError: there is no such benchmark, or its files are missing or cannot be read.
    """
    family, _, part = name.partition("/")
    if family not in BENCHMARKS:
        nearest = difflib.get_close_matches(family, BENCHMARKS, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(BENCHMARKS)}"
        raise CorpusError(f"there is no benchmark {name!r}; {hint}")
    if family == "embedded":
        if part or folder:
            asked = f"{name}={folder}" if folder else name
            raise CorpusError(f"the benchmark 'embedded' comes with the package, whole; write embedded, not {asked}")
        # Imported when asked for, so that measuring on other sets does not build the shipped corpus.
        from hbt_ray.data.corpora.embedded import dataset

        benchmark: Benchmark = dataset.benchmark()
        return benchmark
    if not folder and hub_download.can_be_fetched(name):
        folder = hub_download.fetch(name, options.split)
    if not folder:
        raise CorpusError(f"the benchmark {name!r} needs the folder that holds its files; write {name}=FOLDER")
    if part and family != "beir":
        options = replace(options, languages=frozenset({part}))
    return READERS[family].read(benchmark_slug(name), folder, options)


def check_options(names: Collection[str], options: ReadOptions) -> None:
    """Raises CorpusError when an option has no effect on any of the benchmarks that are read with it."""
    families = {name.partition("/")[0] for name in names}
    if not families or not families.issubset(BENCHMARKS):
        return  # load_benchmark tells which there is not
    readers = [READERS[family] for family in families.intersection(READERS)]
    named = ", ".join(map(repr, names))
    lacking = f"the benchmark {named} has no" if len(names) == 1 else f"the benchmarks {named} have no"
    if options.split is not None and not any(reader.splits for reader in readers):
        raise CorpusError(f"{lacking} splits; leave out --split")
    if options.with_paragraph and not any(reader.paragraphs for reader in readers):
        raise CorpusError(f"{lacking} paragraphs around passages; leave out --with-paragraph")


def benchmark_slug(name: str) -> str:
    """What a benchmark's metrics and its folder are called.

    >>> benchmark_slug("miracl/sw")
    'miracl-sw'
    """
    return name.replace("/", "-")
