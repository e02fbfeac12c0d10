"""Which column of a file is what: the configured one, or one of the usual names; otherwise the error lists them all."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from hbt_ray.config import Columns
from hbt_ray.errors import CorpusError
from hbt_ray.utils.display_text import name_some
from hbt_ray.utils.language_codes import language_code
from hbt_ray.utils.logging import warn_once

_logger = logging.getLogger(__name__)

# Field of `Columns` -> usual names, the likeliest first; those of sentence-transformers' data sets are among them.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "_id", "item_id", "pair_id", "uid", "uuid", "guid", "key", "idx", "index"),
    "question": (
        *("question", "query", "anchor", "sentence1", "sentence_1", "sentence_a", "question_text", "query_text"),
        *("english", "source", "src", "title", "prompt", "instruction", "input", "premise"),
    ),
    "passage": (
        *("context", "passage", "positive", "pos", "document", "doc", "answer", "sentence2", "sentence_2"),
        *("sentence_b", "passage_text", "non_english", "target", "tgt", "text", "content", "body", "response"),
        *("completion", "output", "hypothesis"),
    ),
    "language": ("language", "lang", "locale", "language_code", "lang_code"),
    "negatives": ("negatives", "negative", "hard_negatives", "hard_negative", "neg"),
}
GRADES = ("label", "score", "labels", "similarity", "similarity_score")  # of pairs that may be no positive pairs
_NUMBERED = re.compile(r"[_-]?[0-9]+")
_SEPARATORS = re.compile(r"[ _.(\[-]+")
_DEFAULTS = Columns()


def resolve_columns(columns: Columns, names: Sequence[str], corpus: str, location: str) -> Columns:
    """Return the names of a file's columns.

    A column that is not configured has its default name or, if there is no such column, the first usual one. Columns
    other than those of question and passage may be missing. What is found by a usual name is logged once.

    Args:
        columns: the configured names.
        names: of the columns that the file has.
        corpus: name of the corpus, for messages.
        location: the file or data set, for messages.

    Raises:
        CorpusError: a configured column, or one of question or passage, is missing; the message lists those there are.
    """
    found: dict[str, str] = {}
    for meaning, default in _DEFAULTS.model_dump().items():
        configured = getattr(columns, meaning)
        if configured in names or (meaning == "negatives" and numbered_columns(configured, names)):
            continue
        if configured != default:
            raise missing_column(corpus, location, meaning, configured, names)
        taken = {*found.values(), *(getattr(columns, other) for other in USUAL_NAMES if other != meaning)}
        usual = _usual_name(meaning, [name for name in names if name not in taken])
        if usual is not None:
            found[meaning] = usual
        elif meaning in ("question", "passage"):
            raise missing_column(corpus, location, meaning, configured, names)
    if found:
        listed = ", ".join(f"{name!r} as {meaning}" for meaning, name in found.items())
        warn_once(_logger, f"corpus {corpus!r}: {location} is read with the column {listed}")
    resolved = columns.model_copy(update=found)
    grades = [name for name in names if name.lower() in GRADES and name not in resolved.model_dump().values()]
    if grades:
        warn_once(
            _logger,
            f"corpus {corpus!r}: every row of {location} is read as a positive pair, whatever its {grades[0]!r}; "
            f"remove the rows that are none",
        )
    return resolved


def columns_by_language(
    columns: Columns, names: Sequence[str], languages: Collection[str] | None = None
) -> dict[str, Columns]:
    """Return the columns of each language where a row has its texts in several: question_en, context_en, question_de.

    Names end in a code, after `_`, `-`, `.` or a blank, or in brackets. Without it they are the configured or usual
    ones. A language has columns of question and passage; other columns of a language may be missing. If there are other
    languages, question_id and context_id are ids, not Indonesian, unless `id` is among the languages of the corpus.

    Returns:
        Language -> its columns, in the order of the file; empty if there are columns of question and passage
        without a language, or no language has both.
    """
    if has_column(columns, "question", names) and has_column(columns, "passage", names):
        return {}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        base, language = _split_language(name)
        if language is None:
            continue
        for meaning in _DEFAULTS.model_dump():
            if meaning not in ("id", "language") and has_column(columns, meaning, [base]):
                found.setdefault(language, {}).setdefault(meaning, name)
    complete = {
        language: columns.model_copy(update=of_language)
        for language, of_language in found.items()
        if {"question", "passage"} <= of_language.keys()
    }
    is_bare = all(name.lower().endswith("id") for name in found.get("id", {}).values())  # not "Question (id)"
    if is_bare and len(complete) > 1 and "id" not in (languages or ()):
        complete.pop("id", None)
    return complete


def _split_language(name: str) -> tuple[str, str | None]:
    """Return what comes before the code of a language at the end of a column's name, and the language if there is one.

    >>> _split_language("context_pt_BR"), _split_language("Answer (sw)"), _split_language("context")
    (('context', 'pt-BR'), ('Answer', 'sw'), ('context', None))
    """
    for separator in _SEPARATORS.finditer(name):
        language = language_code(name[separator.end() :].rstrip(")]"))
        if language and separator.start():
            return name[: separator.start()], language
    return name, None


def has_column(columns: Columns, meaning: str, names: Sequence[str]) -> bool:
    """Return True if a column of this meaning is there, by its configured or a usual name."""
    configured = getattr(columns, meaning)
    return configured in names or (
        configured == getattr(_DEFAULTS, meaning) and _usual_name(meaning, names) is not None
    )


def missing_column(corpus: str, location: str, meaning: str, column: str, names: Sequence[str]) -> CorpusError:
    """Return the error of a column that is missing: the message lists the columns there are, and the nearest name."""
    close = difflib.get_close_matches(column.lower(), {name.lower(): name for name in names}, n=1, cutoff=0.6)
    nearest = next((name for name in names if close and name.lower() == close[0]), None)
    hint = f"did you mean columns: {{{meaning}: {nearest}}}?" if nearest else f"write columns: {{{meaning}: NAME}}"
    return CorpusError(f"corpus {corpus!r}: {location} has no column {column!r}, but has {list_names(names)}; {hint}")


def list_names(names: Iterable[str], most: int = 20) -> str:
    """Return the names, quoted; of more than `most`, the first ones and how many there are."""
    return name_some([repr(name) for name in names], most) or "no columns"


def numbered_columns(column: str, names: Iterable[str]) -> list[str]:
    """Return the columns NAME_1, NAME_2 ... of a column NAME, in the order of the file.

    >>> numbered_columns("negative", ["anchor", "negative_1", "negative_2", "negative_note"])
    ['negative_1', 'negative_2']
    """
    return [name for name in names if name.startswith(column) and _NUMBERED.fullmatch(name.removeprefix(column))]


def _usual_name(meaning: str, names: Iterable[str]) -> str | None:
    """Return the column whose name is the likeliest for a meaning, whatever its case; None if there is none."""
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower().strip().replace("-", "_").replace(" ", "_"), name)
        if meaning == "negatives":
            by_lower.setdefault(_NUMBERED.sub("", name.lower()), _NUMBERED.sub("", name))
    return next((by_lower[usual] for usual in USUAL_NAMES.get(meaning, ()) if usual in by_lower), None)
