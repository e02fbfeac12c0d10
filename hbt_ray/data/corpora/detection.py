"""Find out what corpus a file, folder or data set is: the settings with which it can be read.

Nothing is read beyond names, headers and some first rows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from hbt_ray.config import Columns, CorpusConfig, load
from hbt_ray.data.corpora import json_records, list_shards, read_shard
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.bitext import is_one_language_a_column
from hbt_ray.data.corpora.column_names import USUAL_NAMES
from hbt_ray.data.corpora.delimited import header_names
from hbt_ray.data.corpora.file_discovery import language_folders
from hbt_ray.data.corpora.msmarco import looks_like_msmarco
from hbt_ray.data.text_files import READ_ERRORS, open_binary
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.display_text import name_some
from hbt_ray.utils.language_codes import language_of_name

# Format -> suffixes of its files; the first format with the most files is taken.
_SUFFIXES = {
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson"),
    "csv": (".csv", ".csv.gz"),
    "tsv": (".tsv", ".tsv.gz", ".tab"),
    "parquet": (".parquet",),
    "squad": (".json", ".json.gz"),
    "tmx": (".tmx", ".tmx.gz"),
}
_ROW_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
_SAMPLED_ROWS = 50
_MAX_COLUMNS = 20  # among which question and passage are looked for
_NAMED_FILES = 6


def detect_corpus(path: str, overrides: Sequence[str] = ()) -> CorpusConfig:
    """Return the settings of a corpus, with every column, language and source of ids that was found written out.

    Args:
        path: a file or folder, or the name of a data set on the hub.
        overrides: settings of the corpus as `key=value`, such as `language=en`. What they set is not looked for.

    Raises:
        CorpusError: the files have no known format, or a column or the language is missing.
        ConfigError: an override is wrong.
    """
    given = {override.partition("=")[0] for override in overrides}
    found = [] if "format" in given else [f"format={detect_format(path)}"]
    corpus = load(CorpusConfig, None, [f"path={path}", *found, *overrides])
    if corpus.columns == Columns():
        corpus = corpus.model_copy(update={"columns": _guess_columns(corpus)})
    return _explicit(corpus, list_sample_shards(corpus))


def list_sample_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List the shards of a corpus as `list_shards` does, of which it is quick to read only the first rows."""
    shards = list_shards(corpus)
    if corpus.format == "huggingface":
        from hbt_ray.data.corpora.huggingface import with_columns  # datasets takes seconds to import

        return [with_columns(shard) for shard in shards]
    return shards


def detect_format(path: str) -> str:
    """Return the format of a file, folder or data set, mostly by the names of its files. Raises CorpusError."""
    root = Path(path).expanduser()
    if not root.exists():
        if path.count("/") == 1 and not path.startswith((".", "~", "/")) and not root.parent.is_dir():
            return "huggingface"
        raise CorpusError(f"there is nothing at {path!r}; correct the path")
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return "huggingface"
    if root.is_dir() and looks_like_msmarco([file.name for file in root.rglob("*.tsv*")]):
        return "msmarco"
    names = [root.name] if root.is_file() else [file.name for file in sorted(root.iterdir()) if file.is_file()]
    if not names and root.is_dir():
        names = [file.name for folder in language_folders(root) for file in sorted(folder.iterdir()) if file.is_file()]
    names = [name for name in names if not name.startswith(".")]
    counts = {format: sum(name.endswith(suffixes) for name in names) for format, suffixes in _SUFFIXES.items()}
    counts["bitext"] = sum(_is_aligned(names))
    best = max(counts, key=lambda format: counts[format])
    if {"corpus.jsonl", "queries.jsonl"} <= {name.removesuffix(".gz") for name in names}:
        raise CorpusError(
            f"{str(root)!r} is a benchmark in the format of BEIR and no corpus; `hbt evaluate --benchmark "
            f"beir/{root.name}={root}` evaluates a model on it"
        )
    if best == "squad":
        return "squad" if "paragraphs" in _beginning(_first_file(root, best)) else "json"
    if counts[best] and best in ("csv", "tsv"):
        names_of_columns = header_names(_first_file(root, best), Columns())
        return "bitext" if is_one_language_a_column(names_of_columns) else best
    if counts[best]:
        return best
    raise _unknown_format(root, names)


def _beginning(file: Path) -> str:
    try:
        with open_binary(file) as opened:
            return opened.read(1 << 16).decode("utf-8", "ignore")
    except READ_ERRORS:
        return ""


def _is_aligned(names: Sequence[str]) -> Iterator[bool]:
    """Yield for each name whether it is that of a file of lines in one language: de.txt, or train.de by train.en."""
    bare = [name.removesuffix(".gz") for name in names]
    common = Counter(name.rpartition(".")[0] for name in bare if language_of_name(name.rpartition(".")[2]))
    for name in bare:
        stem, _, suffix = name.rpartition(".")
        is_language = language_of_name(stem if suffix == "txt" else suffix) is not None
        yield is_language and (suffix == "txt" or common[stem] > 1)


def _unknown_format(root: Path, names: Sequence[str]) -> CorpusError:
    listed = name_some(names, _NAMED_FILES) or "no file"
    folders = [entry.name for entry in sorted(root.iterdir()) if entry.is_dir()] if root.is_dir() else []
    inner = f" and the folders {name_some(folders, _NAMED_FILES)}, each of which may be a corpus" if folders else ""
    return CorpusError(
        f"no corpus is recognized in {str(root)!r}, which has {listed}{inner}; rows are read from .csv, .tsv, .jsonl, "
        f".json and .parquet, sentences from .tmx, <language>.txt and aligned files such as train.de, train.en"
    )


def _guess_columns(corpus: CorpusConfig) -> Columns:
    """Return the columns of the first file, where no name of a column is usual.

    1. A file without a header, whose first record has a text with a space: its columns by number.
    2. Otherwise the two columns with the longest texts: the shorter one is the question, unless they are of one length.
    """
    if corpus.format not in _ROW_FORMATS:
        return corpus.columns
    try:
        list_shards(corpus)
        return corpus.columns
    except CorpusError as error:
        if "has no column" not in str(error):
            raise
    file = _first_file(Path(str(corpus.path)).expanduser(), "squad" if corpus.format == "json" else corpus.format)
    if corpus.format in ("csv", "tsv"):
        names = header_names(file, corpus.columns)
        usual = {name for names_of in USUAL_NAMES.values() for name in names_of}
        if len(names) > 1 and any(" " in name for name in names) and not usual & {name.lower() for name in names}:
            return _numbered(names)
    lengths = _text_lengths(corpus, file)
    longest = sorted(lengths, key=lambda name: -lengths[name])[:2]
    if len(longest) < 2:
        return corpus.columns
    passage, question = longest
    if lengths[passage] < 1.5 * lengths[question]:  # about equally long: in the order of the file
        question, passage = sorted(longest, key=list(lengths).index)
    return Columns(question=question, passage=passage)


def _numbered(first_record: Sequence[str]) -> Columns:
    """Return the columns of a file without a header: [id,] question, passage[, negative]."""
    first = 2 if len(first_record) > 2 and " " not in first_record[0] else 1
    columns = {"question": str(first), "passage": str(first + 1)}
    if first == 2:
        columns["id"] = "1"
    if len(first_record) > first + 1:
        columns["negatives"] = str(first + 2)
    return Columns.model_validate(columns)


def _first_file(root: Path, format: str) -> Path:
    """Return the first file of a format, in a folder or in its folders of languages."""
    folders = [root, *language_folders(root)]
    files = [root] if root.is_file() else [file for folder in folders for file in sorted(folder.iterdir())]
    return next(file for file in files if file.is_file() and file.name.endswith(_SUFFIXES[format]))


def _text_lengths(corpus: CorpusConfig, file: Path) -> dict[str, float]:
    """Return the mean length of the texts of each column in the first rows, in the order of the file."""
    names = _column_names(corpus, file)
    lengths = {}
    for name in names[:_MAX_COLUMNS]:
        shard = CorpusShard(
            corpus.format,
            corpus.name,
            str(file),
            "und",
            columns=Columns(question=name, passage=name, language="\0", id="\0"),
            row_ids="",
            options={"row_groups": None, "first_row": 0} if corpus.format == "parquet" else {},
        )
        rows = [row for row in itertools.islice(read_shard(shard), _SAMPLED_ROWS) if isinstance(row, CorpusRow)]
        texts = [row.passage for row in rows if not row.passage.strip().replace(".", "", 1).lstrip("-").isdecimal()]
        if texts and len(set(texts)) > len(texts) // 4:  # not a label, of which many rows have the same
            lengths[name] = sum(map(len, texts)) / len(texts)
    return lengths


def _column_names(corpus: CorpusConfig, file: Path) -> Sequence[str]:
    if corpus.format in ("csv", "tsv"):
        return header_names(file, corpus.columns)
    if corpus.format == "parquet":  # takes a second to import
        from hbt_ray.data.corpora.parquet import column_names

        return column_names(file, corpus.columns)
    return json_records.column_names(file, corpus.columns)


def _explicit(corpus: CorpusConfig, shards: Sequence[CorpusShard]) -> CorpusConfig:
    """Return the settings with what was found in the files: columns, if all files have the same, language and ids."""
    columns = {shard.columns for shard in shards}
    update: dict[str, object] = {}
    if len(columns) == 1:
        update["columns"] = columns.pop()
    if corpus.ids is None and corpus.format == "huggingface" and any(shard.row_ids is not None for shard in shards):
        update["ids"] = "unique"
    if corpus.ids is None and corpus.format in _ROW_FORMATS:
        prefixes = {shard.row_ids for shard in shards}
        if prefixes != {None} and None not in prefixes:
            is_unique = [Path(shard.location).as_posix().endswith(str(shard.row_ids).rstrip(":")) for shard in shards]
            names_file = [bool(shard.row_ids) and unique for shard, unique in zip(shards, is_unique, strict=True)]
            update["ids"] = "unique" if all(names_file) else None if any(names_file) else "rows"
    return corpus.model_copy(update=update)
