"""The settings of one corpus: its format, files, languages, columns and ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hbt_ray.config.base import ConfigSection
from hbt_ray.utils.language_codes import language_code, spell_code


def distinct_languages(languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return language codes in their usual spelling. Raise ValueError if one is there twice, or none."""
    spelled = None if languages is None else tuple(map(spell_code, languages))
    if spelled is not None and len(set(spelled)) < max(len(spelled), 1):
        raise ValueError("name at least one language, and each once")
    return spelled


def _known_language(code: str | None) -> str | None:
    language = None if code is None else language_code(code)
    if code is not None and language is None:
        raise ValueError(f"{code!r} is no language code; write one such as en, de or zh-CN")
    return language


def _is_none(value: object) -> bool:
    return value is None


Languages = Annotated[tuple[str, ...] | None, AfterValidator(distinct_languages)]


class Columns(ConfigSection):
    """Column names of a corpus whose rows have columns. Other usual names are found without it."""

    id: str = "id"
    question: str = "question"
    passage: str = "context"
    language: str = "language"
    """Needed only where one file or data set holds several languages."""
    negatives: str = "negatives"
    """Optional list of strings, or one string; NAME_1, NAME_2 ... are read as well."""
    answer_text: str = "answer_text"
    """Optional; with `answer_start` >= 0 the passage must contain it at that offset."""
    answer_start: str = "answer_start"


# Format of a corpus -> module of its `CorpusReader` (hbt_ray/data/corpora/base.py), imported on first use.
CORPUS_READERS = {
    "embedded": "hbt_ray.data.corpora.embedded.dataset",
    "squad": "hbt_ray.data.corpora.squad",
    "jsonl": "hbt_ray.data.corpora.jsonl",
    "json": "hbt_ray.data.corpora.json_records",
    "csv": "hbt_ray.data.corpora.delimited",
    "tsv": "hbt_ray.data.corpora.delimited",
    "parquet": "hbt_ray.data.corpora.parquet",
    "huggingface": "hbt_ray.data.corpora.huggingface",
    "msmarco": "hbt_ray.data.corpora.msmarco",
    "bitext": "hbt_ray.data.corpora.bitext",
    "tmx": "hbt_ray.data.corpora.tmx",
    "text": "hbt_ray.data.corpora.plain_text",
}
if TYPE_CHECKING:
    CorpusFormat = str
else:
    CorpusFormat = Literal[tuple(CORPUS_READERS)]

MAX_NEGATIVES = 8


class CorpusConfig(ConfigSection):
    """One source of parallel question-passage pairs, or of plain text."""

    format: CorpusFormat
    """`hbt inspect PATH` finds it. `text`: plain lines, for pretraining only."""
    name: str = ""
    """The source's name in the store. Default: the folder's or file's name, or the format."""
    path: str | None = None
    """A folder or file; for `huggingface` a data set's name or a folder saved to disk."""
    languages: Languages = None
    """None: all that are found."""
    # Later settings are not written where they have their default, so that stores keep their names.
    language: Annotated[str | None, AfterValidator(_known_language)] = Field(None, exclude_if=_is_none)
    """Of all rows. None: rows or file names have it."""
    ids: Literal["column", "rows", "unique"] | None = Field(None, exclude_if=_is_none)
    """`column`: of the column `columns.id`. `rows`: the row number, rows with equal numbers are translations. `unique`:
    the row number and the file, no rows are translations. None: the column if there is one, `rows` if files of several
    languages have equally many rows, else `unique`."""
    licence: str | None = Field(None, exclude_if=_is_none)
    """For the model's card, such as `cc-by-sa-4.0`."""
    columns: Columns = Columns()
    max_negatives: int = Field(MAX_NEGATIVES, ge=0, exclude_if=lambda value: value == MAX_NEGATIVES)
    """`msmarco`: hard negatives of a pair; of more, the first ones are read."""
    subset: str | None = None
    """`huggingface`: the name of the data set's configuration."""
    split: str = "train"
    """`huggingface`, `embedded` and `msmarco`: which split."""

    @model_validator(mode="before")
    @classmethod
    def _set_default_name(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("name"):
            path_name = Path(str(data.get("path") or "")).name  # "" for "." and "/"
            data = {**data, "name": path_name or str(data.get("format", ""))}
        return data

    @model_validator(mode="after")
    def _check_path(self) -> CorpusConfig:
        if self.format != "embedded" and not self.path:
            raise ValueError(f"a corpus of format {self.format!r} needs a path: a folder or file to read")
        return self
