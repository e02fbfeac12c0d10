"""Look at a corpus before it is prepared: what it is taken for, a sample of its rows, and the settings to use.

The text of an inspection is a YAML file of settings: everything but the settings is a comment.
"""

from __future__ import annotations

import itertools
import logging
import shlex
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.cells import cell_len, set_cell_size

from hbt_ray.config import Columns, CorpusConfig, absolute_path
from hbt_ray.data.corpora import CorpusShard, read_shard
from hbt_ray.data.corpora.detection import detect_corpus, list_sample_shards
from hbt_ray.data.text_normalization import clean_row, normalize_for_storage
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.display_text import name_some
from hbt_ray.utils.progress import track

ROWS_PER_FILE = 1000
MAX_ROWS = 20_000  # of all files
MAX_FILES = 64  # of which rows are read
_MAX_BATCH_PAIRS = 64
_LISTED = 8  # of files and of languages
_BITEXT = ("bitext", "tmx")
_MODEL_HINT = """\
# Without a model, a small encoder is trained from random weights.
# model: {path: intfloat/multilingual-e5-small}"""
# What an error of a reader says to write -> how it is written for an inspection.
_MISSING = {
    "write language: en": "language=en",
    "write columns: {question": "question=NAME passage=NAME",
    "write columns: {passage": "passage=NAME",
}
_FORMAT_NAMES = {
    "csv": "comma-separated values (CSV)",
    "tsv": "tab-separated values (TSV)",
    "jsonl": "JSON Lines",
    "json": "JSON",
    "parquet": "Parquet",
    "huggingface": "a Hugging Face data set",
    "squad": "SQuAD",
    "msmarco": "MS MARCO",
    "bitext": "bitext, sentences that are translations line by line",
    "tmx": "a translation memory (TMX)",
    "text": "plain text",
    "embedded": "the corpus of the package",
}


@dataclass(frozen=True, slots=True)
class CorpusSample:
    """The first rows of each file of a corpus."""

    corpus: CorpusConfig
    shards: Sequence[CorpusShard]
    items: Mapping[str, Mapping[str, CorpusRow]]  # item id -> language -> row
    rows: Mapping[str, int]  # language -> accepted rows
    rejects: Sequence[RejectedRow]
    is_whole: bool  # every row was read
    notes: Sequence[str] = field(default=())  # warnings of the readers

    @property
    def parallel_items(self) -> int:
        """The number of items in two or more languages."""
        return sum(len(languages) > 1 for languages in self.items.values())


def sample_corpus(path: str, overrides: Sequence[str] = ()) -> CorpusSample:
    """Find out what a path holds, and read the first rows of each file.

    Args:
        path: a file or folder, or the name of a data set on the hub.
        overrides: settings of the corpus as `key=value`.

    Raises:
        CorpusError: the path holds no known format, or a column or the language is missing.
        ConfigError: an override is wrong.
    """
    with _collected_warnings() as notes:
        try:
            corpus = detect_corpus(path, overrides)
        except CorpusError as error:
            missing = next((words for hint, words in _MISSING.items() if hint in str(error)), None)
            if missing is None:
                raise
            raise CorpusError(
                f"{error}, here by `{shlex.join(['hbt', 'inspect', path, *overrides])} {missing}`"
            ) from None
        shards = list_sample_shards(corpus)
        items: dict[str, dict[str, CorpusRow]] = defaultdict(dict)
        rows = Counter[str]()
        rejects: list[RejectedRow] = []
        is_whole = len(shards) <= MAX_FILES
        most = _rows_per_file(len(shards))
        for shard in track(shards[:MAX_FILES], "looking at files", "files"):
            read = read_shard(shard)
            for row in itertools.islice(read, most):
                checked = clean_row(row) if isinstance(row, CorpusRow) else row
                if isinstance(checked, RejectedRow):
                    rejects.append(checked)
                elif checked.language in items[checked.item_id]:
                    rejects.append(
                        RejectedRow(row.source, row.location, "id repeated in its language", checked.item_id)
                    )
                else:
                    items[checked.item_id][checked.language] = checked
                    rows[checked.language] += 1
            is_whole = is_whole and next(read, None) is None
    items = {item_id: languages for item_id, languages in items.items() if languages}
    if not items:
        first = f"; the first is {rejects[0].location}: {rejects[0].reason} ({rejects[0].detail})" if rejects else ""
        first += "; save the file as UTF-8" if "codec can't decode" in first else ""
        raise CorpusError(f"{path!r} has no row that can be used, as {_FORMAT_NAMES[corpus.format]}{first}")
    return CorpusSample(corpus, shards, items, dict(sorted(rows.items())), rejects, is_whole, tuple(notes))


def _rows_per_file(files: int) -> int:
    """Return the number of rows to read of each file."""
    return min(ROWS_PER_FILE, max(MAX_ROWS // max(files, 1), 1))


class _MessageList(logging.Handler):
    """Keeps the messages that are logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the readers instead of logging them."""
    logger = logging.getLogger("hbt_ray.data.corpora")
    handler = _MessageList(logging.WARNING)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def describe_sample(sample: CorpusSample, *, next_command: str, shown_items: int = 2, width: int = 80) -> str:
    """Return what a corpus is taken for, its first items, the settings to use and the next command, as YAML.

    Args:
        sample: of the corpus.
        next_command: that the text ends with.
        shown_items: number of items.
        width: of a line, in the cells of a terminal: a Chinese character takes two.
    """
    facts = [f"{sample.corpus.path}: {_FORMAT_NAMES[sample.corpus.format]}"]
    facts += [f"  {name:<10} {text}" for name, text in _facts(sample)]
    facts += [f"  {'note':<10} {note}" for note in (*sample.notes, *_too_few_note(sample))]
    comments = [line for fact in facts for line in _wrapped(fact, width - 2)]
    comments += ["", *_parallel_note(sample, width - 2), ""]
    for item_id in _first_items(sample, shown_items):
        comments += [*_item_lines(item_id, sample.items[item_id], width - 2), ""]
    settings = yaml.safe_dump(run_settings(sample), sort_keys=False, allow_unicode=True, default_flow_style=None)
    lines = [f"# {line}".rstrip() for line in comments]
    return "\n".join([*lines, settings.rstrip(), _MODEL_HINT, "", f"# next: {next_command}"])


def run_settings(sample: CorpusSample) -> dict[str, object]:
    """Return the settings of a run on the corpus. Those that are not the corpus' fit a corpus with few items."""
    corpus = sample.corpus
    entry: dict[str, object] = {"format": corpus.format, "name": corpus.name, "path": absolute_path(corpus.path)}
    for name in ("language", "languages", "ids", "licence", "subset"):
        value = getattr(corpus, name)
        if value is not None:
            entry[name] = list(value) if isinstance(value, tuple) else value
    default = Columns().model_dump()
    columns = {name: column for name, column in corpus.columns.model_dump().items() if column != default[name]}
    if columns:
        entry["columns"] = columns
    for name in ("max_negatives", "split"):
        if getattr(corpus, name) != CorpusConfig.model_fields[name].default:
            entry[name] = getattr(corpus, name)
    settings: dict[str, object] = {"name": corpus.name.partition(".")[0], "corpora": [entry]}
    mix: dict[str, object] = {}
    if not sample.parallel_items:
        mix["strategy"] = "x-x-mono"
    elif corpus.format in _BITEXT:
        mix["strategy"] = "x-y"
    if _min_negatives(sample):
        mix["hard_negatives"] = 1
    if mix:
        settings["mix"] = mix
    if sample.is_whole and (pairs := _batch_pairs(sample)) < _MAX_BATCH_PAIRS:
        settings["train"] = {"global_batch_pairs": pairs, "chunk_pairs": min(pairs, 16)}
    return settings


def _min_negatives(sample: CorpusSample) -> int:
    """Return the number of hard negatives that every row has."""
    rows = (row for languages in sample.items.values() for row in languages.values())
    return min((len(row.negatives) for row in rows), default=0)


def _batch_pairs(sample: CorpusSample) -> int:
    """Return a power of two, so that a batch has distinct items of each language: some are held out or repeated."""
    items = min(sample.rows.values(), default=0)
    if sample.parallel_items:
        items = min(items, sample.parallel_items)
    pairs = _MAX_BATCH_PAIRS
    while pairs > 2 and pairs > items * 0.7:
        pairs //= 2
    return pairs


def _facts(sample: CorpusSample) -> Iterator[tuple[str, str]]:
    corpus = sample.corpus
    paths = dict.fromkeys(Path(path) for shard in sample.shards for path in shard.paths)
    root = Path(str(corpus.path)).expanduser()
    files = [
        path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else path.name for path in paths
    ]
    yield "files", f"{len(files)}: {name_some(files, _LISTED)}" if len(files) > 1 else files[0]
    languages = sorted({*sample.rows, *(shard.language for shard in sample.shards if shard.language is not None)})
    yield "languages", f"{name_some(languages, _LISTED) or 'none'} ({_language_source(sample)})"
    if corpus.format in ("csv", "tsv", "jsonl", "json", "parquet", "huggingface"):
        columns = sample.shards[0].columns if sample.shards else corpus.columns
        yield "columns", f"question: {columns.question!r}, passage: {columns.passage!r}"
        yield "ids", _id_source(sample)
    elif corpus.format in ("bitext", "tmx"):
        yield "columns", "a sentence is both question and passage"
        yield "ids", "the number of the line or record" if corpus.format == "bitext" else "the number of the unit"
    each = "each file" if len(sample.shards) <= MAX_FILES else f"each of {MAX_FILES} files"
    number = f"{_rows_per_file(len(sample.shards)):,}"
    of = "" if sample.is_whole else f" among the first {number} of {each}; the others are not read here"
    by_language = ", ".join(f"{language} {rows:,}" for language, rows in itertools.islice(sample.rows.items(), 12))
    more = " ..." if len(sample.rows) > 12 else ""
    yield "rows", f"{sum(sample.rows.values()):,}{of} ({by_language}{more})"
    if negatives := _min_negatives(sample):
        yield "negatives", f"{negatives} or more of each row; a batch uses mix.hard_negatives of them"
    if sample.rejects:
        reasons = Counter(reject.reason for reject in sample.rejects).most_common(3)
        first = sample.rejects[0]
        counts = ", ".join(f"{number} {reason}" for reason, number in reasons)
        yield "rejected", f"{len(sample.rejects)}: {counts}; the first is {first.location} ({first.detail[:60]})"


def _language_source(sample: CorpusSample) -> str:
    corpus = sample.corpus
    if corpus.language is not None:
        return "by the setting language"
    if all(shard.language is not None for shard in sample.shards):
        return "by the names of the files" if corpus.format != "embedded" else "of the package"
    if corpus.format in _BITEXT:
        return "by xml:lang of each text" if corpus.format == "tmx" else "by the names of the columns"
    return f"by the column {sample.shards[0].columns.language!r}"


def _id_source(sample: CorpusSample) -> str:
    if all(shard.row_ids is None for shard in sample.shards):
        return f"column {sample.shards[0].columns.id!r}"
    if sample.corpus.ids == "unique":
        return "no column: each row is an item of one language"
    return "no column: the row number, so rows with equal numbers are translations"


def _too_few_note(sample: CorpusSample) -> list[str]:
    """Return what a corpus of too few items for a batch needs."""
    items = sample.parallel_items or max(sample.rows.values(), default=0)
    which = "in two or more languages" if sample.parallel_items else "of a language"
    if not sample.is_whole or items > 1:
        return []
    return [f"training takes two or more items {which}; add items, as there is {items}"]


def _parallel_note(sample: CorpusSample, width: int) -> list[str]:
    """Return how many items have translations; a question and what to do if none has."""
    of = "" if sample.is_whole else " of the sample"
    text = f"items in two or more languages: {sample.parallel_items:,} of {len(sample.items):,}{of}"
    if sample.parallel_items:
        return _wrapped(text, width)
    if len(sample.rows) > 1:
        text += " - do ids agree between files?"
    advice = (
        "Batches can only be monolingual (mix.strategy: x-x-mono)."
        if len(sample.rows) < 2
        else "Translations need one id. Until then, batches can only be monolingual (mix.strategy: x-x-mono)."
    )
    return [*_wrapped(text, width), *_wrapped(advice, width)]


def _first_items(sample: CorpusSample, number: int) -> list[str]:
    """Return the first items, those in several languages first."""
    return sorted(sample.items, key=lambda item_id: len(sample.items[item_id]) < 2)[:number]


def _item_lines(item_id: str, languages: Mapping[str, CorpusRow], width: int) -> Iterator[str]:
    yield _cut(f"item {normalize_for_storage(item_id)}", width)
    for language, row in itertools.islice(sorted(languages.items()), 4):
        texts = [
            ("question", row.question),
            ("passage", row.passage),
            *(("negative", text) for text in row.negatives[:1]),
        ]
        if row.question == row.passage:
            texts = [("sentence", row.passage)]
        for number, (name, text) in enumerate(texts):
            yield _cut(f"  {'' if number else language:<8} {name:<9} {text or ''}", width)
    if len(languages) > 4:
        yield f"  and {len(languages) - 4} more languages"


def _cut(text: str, width: int) -> str:
    """Cut a text to a number of cells. A right-to-left text is at the end of its line, so that nothing moves."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def _wrapped(text: str, width: int) -> list[str]:
    indent = " " * 13 if text.startswith("  ") else ""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
