"""The interface of a benchmark format: the options of reading, and what a format's module declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hbt_ray.data.benchmarks.passage_files import ReadPassages, read_blocks
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Choices of reading a benchmark. A format ignores those that its `BenchmarkReader` does not declare."""

    with_paragraph: bool = False  # a passage is a sentence followed by its paragraph
    split: str | None = None  # such as "dev" or "test"; None: the one for which results are usually published
    languages: frozenset[str] | None = None  # None: all that are found
    read_passages: ReadPassages = read_blocks  # in this process or in others

    def check_languages(self, folder: str, found: Iterable[str]) -> None:
        """Raise CorpusError if a chosen language is not among those found in the folder."""
        available = sorted(set(found))
        missing = sorted((self.languages or frozenset()).difference(available))
        if missing:
            raise CorpusError(
                f"{folder!r} holds no {', '.join(missing)}; languages there: {', '.join(available) or 'none'}"
            )

    def includes(self, language: str) -> bool:
        """Return True if a language is to be read."""
        return not self.languages or language in self.languages


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of one data set on the Hugging Face hub, and where they are stored below the benchmark's folder.

    In `repository` and `files`, `{part}` is the text after the slash of the benchmark's name, such as a language;
    `{language}` is that language's name in file names, and `{split}` the split.
    """

    repository: str
    files: tuple[str, ...]  # patterns
    folder: str = ""


@dataclass(frozen=True, slots=True)
class HubSource:
    """The files to download for a benchmark such as `miracl/sw`."""

    files: tuple[HubFiles, ...]
    split: str  # for which results are usually published
    languages: Mapping[str, str] | None = None  # code -> name in file names; None: the part is no language


ReadFn = Callable[[str, str, ReadOptions], Benchmark]  # (slug of the name, folder, options)


@dataclass(frozen=True, slots=True)
class BenchmarkReader:
    """A format of benchmarks. The module of the format has one, called `READER`."""

    read: ReadFn
    has_splits: bool = False  # `ReadOptions.split` has an effect
    has_paragraphs: bool = False  # `ReadOptions.with_paragraph` has an effect
    part_is_name: bool = False  # in `<name>/<part>`, the part only distinguishes benchmarks; otherwise it is a language
    needs_folder: bool = True
    hub: HubSource | None = None  # for download if no folder is given
