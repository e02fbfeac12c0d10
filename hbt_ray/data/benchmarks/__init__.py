"""Readers of retrieval benchmarks: a module for each format, which declares a `BenchmarkReader`."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import replace
from importlib import import_module

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.benchmarks.file_parsing import absolute
from hbt_ray.data.benchmarks.hub_download import download_benchmark
from hbt_ray.data.corpora.file_discovery import name_unread_files
from hbt_ray.data.text_files import recorded_files
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.file_names import benchmark_slug
from hbt_ray.utils.language_codes import spell_code

__all__ = [
    "READERS",
    "BenchmarkReader",
    "ReadOptions",
    "benchmark_slug",
    "can_be_downloaded",
    "check_name",
    "check_options",
    "load_benchmark",
    "reader_of",
]

# Name of a benchmark, or of a format of benchmarks -> the module with its `READER`, imported on first use.
READERS = {
    "embedded": "hbt_ray.data.benchmarks.embedded",
    "xquad-r": "hbt_ray.data.benchmarks.squad",
    "squad": "hbt_ray.data.benchmarks.squad",  # any other benchmark in the format of XQuAD-R
    "mlqa-r": "hbt_ray.data.benchmarks.mlqa",
    "miracl": "hbt_ray.data.benchmarks.miracl",
    "mrtydi": "hbt_ray.data.benchmarks.mrtydi",
    "beir": "hbt_ray.data.benchmarks.beir",
    "mldr": "hbt_ray.data.benchmarks.mldr",
    "xm3600": "hbt_ray.data.benchmarks.xm3600",
    "pairs": "hbt_ray.data.benchmarks.parallel_pairs",
}
DEFAULT_OPTIONS = ReadOptions()


def reader_of(family: str) -> BenchmarkReader:
    """Import the reader of a key of READERS."""
    reader: BenchmarkReader = import_module(READERS[family]).READER
    return reader


def load_benchmark(name: str, folder: str | None, options: ReadOptions = DEFAULT_OPTIONS) -> Benchmark:
    """Read a benchmark by its name.

    Args:
        name: a key of READERS, such as `xquad-r`. Text after a slash selects a part: `miracl/sw` is the Swahili part.
            For `beir` it only distinguishes benchmarks: `beir/scifact`. The benchmark's `name` then has a hyphen:
            `miracl-sw`.
        folder: of the files. `embedded` needs none. If a benchmark that is on the hub has none, it is downloaded.
        options: choices of reading. Several benchmarks are read with the same ones, so a format ignores those that it
            does not have; `check_options` finds options that none has.

    Raises:
        CorpusError: there is no such benchmark, or its files are missing or cannot be read.
    """
    family, _, part = name.partition("/")
    check_name(name)
    reader = reader_of(family)
    if not reader.needs_folder:
        if part or folder:
            written = f"{name}={folder}" if folder else name
            raise CorpusError(f"the benchmark {family!r} comes with the package, whole; write {family}, not {written}")
        return reader.read(family, "", options)
    if not folder and part and reader.hub is not None:
        folder = download_benchmark(name, reader.hub, options.split)
    if not folder:
        raise CorpusError(f"the benchmark {name!r} needs the folder that holds its files; write {name}=FOLDER")
    if part and not reader.part_is_name:
        options = replace(options, languages=frozenset({spell_code(part)}))
    with recorded_files() as read:
        benchmark = reader.read(benchmark_slug(name), folder, options)
    name_unread_files(name, absolute(folder), read, options.languages, below=True)
    return benchmark


def check_name(name: str) -> None:
    """Raise CorpusError if there is no benchmark of a name."""
    family = name.partition("/")[0]
    if family not in READERS:
        nearest = difflib.get_close_matches(family, READERS, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? There are" if nearest else "there are"
        raise CorpusError(f"there is no benchmark {name!r}; {hint} {', '.join(READERS)}, as in xquad-r=FOLDER")


def can_be_downloaded(name: str) -> bool:
    """Return True if a benchmark needs no folder because its name says what to download: `miracl/sw`, not `miracl`."""
    family, _, part = name.partition("/")
    return bool(part) and family in READERS and reader_of(family).hub is not None


def check_options(names: Collection[str], options: ReadOptions) -> None:
    """Raise CorpusError if an option has no effect on any of the benchmarks that are read with it."""
    families = {name.partition("/")[0] for name in names}
    if not families or not families.issubset(READERS):
        return  # `load_benchmark` raises an error for an unknown one
    readers = [reader_of(family) for family in families]
    quoted = ", ".join(map(repr, names))
    subject = f"the benchmark {quoted} has no" if len(names) == 1 else f"the benchmarks {quoted} have no"
    if options.split is not None and not any(reader.has_splits for reader in readers):
        raise CorpusError(f"{subject} splits; leave out --split")
    if options.with_paragraph and not any(reader.has_paragraphs for reader in readers):
        raise CorpusError(f"{subject} paragraphs around passages; leave out --with-paragraph")
