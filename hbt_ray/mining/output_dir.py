"""The folder of mined negatives, complete or unfinished.

Its files are `<source>/<language>.jsonl`, the rows of the corpora with the negatives of each; and `mined.json`, which
is written last, so its existence means that the folder is complete. Until then, `mining.partial` in the folder has the
rows read and the summaries of finished languages, from which a later call resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from hbt_ray.config import CorpusConfig, MineConfig, RunConfig, absolute_path, flatten, stored_text, with_absolute_paths
from hbt_ray.data.corpora import CorpusShard, list_shards
from hbt_ray.data.corpora.embedded.facts import content_fingerprint
from hbt_ray.data.engine import Engine, ThisProcess
from hbt_ray.data.mined_files import MINED
from hbt_ray.data.row_tables import REJECTS
from hbt_ray.data.store_inputs import RULES, changed_limits, load_evaluation_sets, path_checksums
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError, StorageError, StoreError
from hbt_ray.evaluation.run_evaluation import description
from hbt_ray.mining.corpus_rows import read_corpora
from hbt_ray.retrieval.embedding_cache import vectors_fingerprint
from hbt_ray.utils.digests import (
    JsonObject,
    damaged_file,
    file_checksums,
    with_checksum,
    without_checksum,
)
from hbt_ray.utils.file_names import file_name
from hbt_ray.utils.language_codes import language_of_name
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from hbt_ray.models.text_embedder import TextEmbedder

_STARTED = "_begun.json"  # cannot be a language's summary
_PARTIAL = "mining.partial"  # cannot be a source's folder: their names have no dot
_MINED_WITH = ("corpora.", "languages", "mine.", "prepare.near_duplicate_threshold", "prepare.validation_share")


@dataclass(frozen=True, slots=True)
class MinedCorpora:
    """A complete folder of mined negatives."""

    folder: Path
    summary: JsonObject  # the content of `mined.json`

    @property
    def corpora(self) -> tuple[CorpusConfig, ...]:
        """The corpora to train on: sources with negatives.

        They keep their names, so the same items are held out, unless texts that are not in the folder link them.
        """
        return tuple(
            CorpusConfig(format="jsonl", name=source, path=str(self.folder / file_name(source)))
            for source in self.summary["sources"]
            if (self.folder / file_name(source)).exists()
        )


@dataclass(frozen=True, slots=True)
class MiningRun:
    """An unfinished folder: the corpora are read, and some languages may be finished."""

    out: Path
    settings: MineConfig
    near_duplicate_threshold: float
    mined_with: JsonObject  # all settings and inputs that determine the negatives
    sources: JsonObject  # numbers of rows read and items left out of each
    languages: tuple[str, ...]

    @property
    def partial(self) -> Path:
        """The folder of intermediate files."""
        return self.out / _PARTIAL

    def work_of(self, language: str) -> Path:
        """Return the folder of what is made of a language until it is finished."""
        return self.partial / "work" / language

    def unfinished(self) -> list[str]:
        """Return the languages that are still to be mined."""
        if (self.out / MINED).exists():
            return []
        return [language for language in self.languages if not self._is_finished(language)]

    def _is_finished(self, language: str) -> bool:
        try:
            summary = without_checksum(self.summary_of(language).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return "files" in summary and damaged_file(self.out, summary["files"]) is None

    def summary_of(self, language: str) -> Path:
        """Return the summary file of a language; its existence means that the language is finished."""
        return self.partial / f"{language}.json"

    def file_of(self, source: str, language: str) -> Path:
        """Return the file of a source and language.

        It is named by its language; where a language's name is not valid for a file, the rows name their language.
        """
        names_files = all(language_of_name(one) == one for one in self.languages)
        return self.out / file_name(source) / f"{language}{'' if names_files else '.rows'}.jsonl"


def start_mining(
    config: RunConfig,
    model: str,
    embedder: TextEmbedder,
    out: str | Path,
    open_engine: Callable[[], Engine] = ThisProcess,
) -> MiningRun:
    """Read the corpora on an engine, unless an earlier call has. Raise what `mine` raises."""
    config, out = with_absolute_paths(config), Path(out).expanduser().resolve()
    shards = [shard for corpus in config.corpora for shard in list_shards(corpus)]
    evaluation_sets = load_evaluation_sets(config.prepare_inputs)
    mined_with = _mined_with(config, model, embedder, shards, evaluation_sets)
    started = out / MINED if (out / MINED).exists() else out / _PARTIAL / _STARTED
    read = _read_start(started)
    if read is not None:
        _check_same(out, read["mined_with"], mined_with)
    else:
        with storage_errors(out):
            _check_empty(out, config.corpora)
            shutil.rmtree(started.parent, ignore_errors=True)
            started.parent.mkdir(parents=True)
            sources, languages = read_corpora(config, shards, evaluation_sets, started.parent, open_engine())
        names = (str(path.relative_to(started.parent)) for path in started.parent.rglob("*") if path.is_file())
        read = {
            "mined_with": mined_with,
            "sources": sources,
            "languages": languages,
            "files": file_checksums(started.parent, names),
        }
        StoragePath.of(started).write_text(with_checksum(read))  # written last: its existence means that all is read
    threshold = config.prepare.near_duplicate_threshold
    return MiningRun(out, config.mine, threshold, mined_with, read["sources"], tuple(read["languages"]))


def _read_start(file: Path) -> JsonObject | None:
    """Read `mined.json`, or what an unfinished call has read; None if that is missing or damaged.

    Raises:
        StoreError: `mined.json` is damaged.
    """
    if not file.exists():
        return None
    try:
        read = without_checksum(file.read_text(encoding="utf-8"))
    except ValueError as error:
        if file.name == MINED:
            raise _damaged(file, file.parent) from error
        return None
    if file.name == _STARTED and damaged_file(file.parent, read.get("files", {})) is not None:
        return None
    return read


def _damaged(file: Path, out: Path) -> StoreError:
    return StoreError(f"{file} is not as it was written; delete {out} to mine again")


def _mined_with(
    config: RunConfig,
    model: str,
    embedder: TextEmbedder,
    shards: Sequence[CorpusShard],
    evaluation_sets: Sequence[Benchmark],
) -> JsonObject:
    """Return all settings and inputs that determine the negatives, by name, as read back from JSON."""
    described = description(absolute_path(model) or model, embedder)
    inputs = {
        "model": described.pop("path"),
        **{f"model.{key}": value for key, value in described.items()},
        "model.files": vectors_fingerprint(model, ""),
        "rules": RULES,
        **changed_limits(),
        **{key: _stored(value) for key, value in flatten(config).items() if key.startswith(_MINED_WITH)},
        **{f"evaluation_sets.{one.name}": one.fingerprint() for one in evaluation_sets},
        **{
            f"file {stored_text(str(path))}": hashlib.sha256(repr(path_checksums(path)).encode()).hexdigest()[:16]
            for path in dict.fromkeys(Path(path) for shard in shards for path in shard.paths)
            if path.exists()
        },
        **({"embedded": content_fingerprint()} if any(shard.format == "embedded" for shard in shards) else {}),
    }
    as_json: JsonObject = json.loads(json.dumps(inputs))
    return as_json


def _stored(value: object) -> object:
    return stored_text(value) if isinstance(value, str) else value


def _check_same(out: Path, before: JsonObject, now: JsonObject) -> None:
    same_model = before.get("model.files") == now.get("model.files")  # where its folder is does not matter
    for key in (*now, *before):
        if before.get(key) != now.get(key) and not (key == "model" and same_model):
            raise ConfigError(
                f"{out} holds negatives mined with {key}={before.get(key)}, and this call has {now.get(key)}; "
                "write another --out"
            )


def _check_empty(out: Path, corpora: Sequence[CorpusConfig]) -> None:
    """Raise ConfigError if the folder has other files: a folder of corpora may have the names that are written."""
    written = {file_name(corpus.name) for corpus in corpora} if (out / _PARTIAL).exists() else set()
    if out.exists() and any(path.name not in {_PARTIAL, *written} for path in out.iterdir()):
        raise ConfigError(f"{out} holds something other than mined negatives; write another --out")


def finish_mining(mining: MiningRun) -> MinedCorpora:
    """Complete a folder in which every language is finished, and delete its intermediate files.

    Raises:
        StoreError: a file of the folder is not as it was written.
    """
    file = mining.out / MINED
    if not file.exists():
        languages = {x: without_checksum(mining.summary_of(x).read_text(encoding="utf-8")) for x in mining.languages}
        with storage_errors(mining.out):
            shutil.copyfile(mining.partial / REJECTS, mining.out / REJECTS)
        files = file_checksums(mining.out, [REJECTS])
        for found in languages.values():
            files |= found.pop("files")
        summary = {"mined_with": mining.mined_with, "sources": mining.sources, "languages": languages, "files": files}
        StoragePath.of(file).write_text(with_checksum(summary))  # written last
    shutil.rmtree(mining.partial, ignore_errors=True)
    summary = without_checksum(file.read_text(encoding="utf-8"))
    damaged = damaged_file(mining.out, summary.get("files", {}))
    if damaged is not None:
        raise _damaged(mining.out / damaged, mining.out)
    return MinedCorpora(mining.out, summary)


def mined_table(mined: MinedCorpora) -> Table:
    """Return a table for a terminal of what was mined, a row for each language."""
    requested = mined.summary["mined_with"]["mine.negatives"]
    caption = f"fewer: questions with fewer than {requested} negatives; score: mean of the negatives, and of answers"
    table = Table("language", title="hard negatives", caption=caption)
    for heading in ("questions", "passages", "negatives", "fewer", "score", "answers"):
        table.add_column(heading, justify="right")
    for language, found in mined.summary["languages"].items():
        counts = (found[key] for key in ("items", "passages", "negatives", "items_with_fewer"))
        scores = (found[key] for key in ("mean_negative_score", "mean_gold_score"))
        shown = ("none" if score is None else f"{score:.3f}" for score in scores)
        table.add_row(language, *(f"{count:,}" for count in counts), *shown)
    return table


def describe_mined(mined: MinedCorpora) -> str:
    """Return the warnings of languages, the folder, and the options to train on what was mined."""
    languages = mined.summary["languages"].items()
    warnings = [f"{language}: warning: {text}" for language, found in languages for text in found.get("warnings", ())]
    corpora = [{"format": one.format, "name": one.name, "path": one.path} for one in mined.corpora]
    options = f"corpora='{json.dumps(corpora, ensure_ascii=False)}'"
    requested = mined.summary["mined_with"]["mine.negatives"]
    return "\n".join([*warnings, f"negatives {mined.folder}", f"train on  {options} hard_negatives={requested}"])


@contextlib.contextmanager
def storage_errors(out: Path) -> Iterator[None]:
    """Raise StorageError for an OSError of the block: the folder cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise StorageError(
            f"negatives cannot be written to {out} ({reason}); free disk space, or write another --out"
        ) from error
