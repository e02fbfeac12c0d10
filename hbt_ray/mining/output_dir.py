"""The folder of mined negatives: complete, or in the making.

Its files are `<source>/<language>.jsonl`, the rows that training would see, each with the passages that
`hard_negatives` chose; and `mined.json`, which is written last, so that it stands for a complete folder. What is still
in the making stands in a folder beside them, so that a call goes on where another was stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.config import CorpusConfig, MineConfig, RunConfig, absolute_path, flatten, with_absolute_paths
from hbt_ray.data.corpora import CorpusShard, list_shards
from hbt_ray.data.corpora.file_discovery import LANGUAGE
from hbt_ray.data.prepare import REJECTS, file_states, load_evaluation_sets
from hbt_ray.data.token_store import folder_name
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.evaluation.run_evaluation import description
from hbt_ray.mining.corpus_rows import read_corpora
from hbt_ray.models.text_embedder import TextEmbedder
from hbt_ray.retrieval.embedding_cache import vectors_fingerprint
from hbt_ray.utils.storage import StoragePath

MINED = "mined.json"
_BEGUN = "begun.json"
_PARTIAL = "mining.partial"  # no source's folder is called so: theirs have no dot
_MINED_WITH = ("corpora.", "languages", "mine.", "prepare.near_duplicate_threshold", "prepare.validation_share")


@dataclass(frozen=True, slots=True)
class MinedCorpora:
    """A complete folder."""

    folder: Path
    summary: dict[str, Any]  # what `mined.json` holds

    @property
    def corpora(self) -> tuple[CorpusConfig, ...]:
        """What to train on. The sources keep their names, and so the same items are held out."""
        return tuple(
            CorpusConfig(format="jsonl", name=source, path=str(self.folder / folder_name(source)))
            for source in self.summary["sources"]
        )


@dataclass(frozen=True, slots=True)
class MiningRun:
    """A folder in the making: the corpora are read, and some languages may be finished."""

    out: Path
    settings: MineConfig
    near_duplicate_threshold: float
    mined_with: dict[str, Any]  # all that the negatives follow from
    sources: dict[str, Any]  # what was read and left out of each
    languages: tuple[str, ...]

    @property
    def partial(self) -> Path:
        return self.out / _PARTIAL

    def unfinished(self) -> list[str]:
        """Languages that are still to be mined."""
        if (self.out / MINED).exists():
            return []
        return [language for language in self.languages if not self.summary_of(language).exists()]

    def summary_of(self, language: str) -> Path:
        """The file that says that a language is finished, and how it went."""
        return self.partial / f"{language}.json"

    def file_of(self, source: str, language: str) -> Path:
        """A file named by its language; by something else where a language cannot name one, for then rows do."""
        names_files = all(LANGUAGE.fullmatch(one) for one in self.languages)
        return self.out / folder_name(source) / f"{language}{'' if names_files else '.rows'}.jsonl"


def begin(config: RunConfig, model: str, embedder: TextEmbedder, out: str | Path) -> MiningRun:
    """Reads the corpora, where an earlier call has not done so. Raises what `mine` raises."""
    config, out = with_absolute_paths(config), Path(out).expanduser().resolve()
    parts = [part for corpus in config.corpora for part in list_shards(corpus)]
    evaluation_sets = load_evaluation_sets(config)
    mined_with = _mined_with(config, model, embedder, parts, evaluation_sets)
    begun = out / MINED if (out / MINED).exists() else out / _PARTIAL / _BEGUN
    if begun.exists():
        _check_same(out, json.loads(begun.read_text(encoding="utf-8"))["mined_with"], mined_with)
    else:
        with told(out):
            _check_empty(out)
            shutil.rmtree(begun.parent, ignore_errors=True)
            (begun.parent / "rows").mkdir(parents=True)
            sources, languages = read_corpora(config, parts, evaluation_sets, begun.parent)
        read = {"mined_with": mined_with, "sources": sources, "languages": languages}
        StoragePath.of(begun).write_text(json.dumps(read))  # last, so that its existence means that all is read
    read = json.loads(begun.read_text(encoding="utf-8"))
    threshold = config.prepare.near_duplicate_threshold
    return MiningRun(out, config.mine, threshold, mined_with, read["sources"], tuple(read["languages"]))


def _mined_with(
    config: RunConfig,
    model: str,
    embedder: TextEmbedder,
    parts: Sequence[CorpusShard],
    evaluation_sets: Sequence[Benchmark],
) -> dict[str, Any]:
    """All that the negatives follow from, by name, as JSON has it."""
    described = description(absolute_path(model) or model, embedder)
    found = {
        "model": described.pop("path"),
        **{f"model.{key}": value for key, value in described.items()},
        "model.files": vectors_fingerprint(model, ""),
        **{key: value for key, value in flatten(config).items() if key.startswith(_MINED_WITH)},
        **{f"evaluation_sets.{one.name}": one.fingerprint() for one in evaluation_sets},
        **{
            f"file {place}": _state(place)
            for place in dict.fromkeys(Path(part.place) for part in parts)
            if place.exists()
        },
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def _state(place: Path) -> str:
    """Other hex digits when a file, or one in a folder, was changed."""
    return hashlib.sha256(repr(file_states(place)).encode()).hexdigest()[:16]


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in (*now, *before):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{out} holds negatives mined with {key}={before.get(key)}, and this call has {now.get(key)}; "
                "write another --out"
            )


def _check_empty(out: Path) -> None:
    """A folder of somebody's own corpora may have the very names that are written."""
    if out.exists() and any(path.name != _PARTIAL for path in out.iterdir()):
        raise ConfigError(f"{out} holds something other than mined negatives; write another --out")


def finish(mining: MiningRun) -> MinedCorpora:
    """Makes a folder complete in which every language is finished."""
    place = mining.out / MINED
    if not place.exists():
        languages = {x: json.loads(mining.summary_of(x).read_text(encoding="utf-8")) for x in mining.languages}
        summary = {"mined_with": mining.mined_with, "sources": mining.sources, "languages": languages}
        with told(mining.out):
            shutil.copyfile(mining.partial / REJECTS, mining.out / REJECTS)
        StoragePath.of(place).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")  # last
    shutil.rmtree(mining.partial, ignore_errors=True)
    return MinedCorpora(mining.out, json.loads(place.read_text(encoding="utf-8")))


def describe_mined(mined: MinedCorpora) -> str:
    """What was mined, a line for each language, and what to train on it with."""
    asked = mined.summary["mined_with"]["mine.negatives"]
    lines = [f"negatives {mined.folder}"]
    for language, found in mined.summary["languages"].items():
        scores = (found["mean_negative_score"], found["mean_gold_score"])
        negative, gold = ("none" if score is None else f"{score:.3f}" for score in scores)
        lines.append(
            f"  {language}: {found['negatives']} for {found['items']} questions among {found['passages']} passages, "
            f"{found['items_with_fewer']} with fewer than {asked}; mean score {negative}, of the right ones {gold}"
        )
    corpora = [{"format": one.format, "name": one.name, "path": one.path} for one in mined.corpora]
    return "\n".join([*lines, f"train on  corpora='{json.dumps(corpora, ensure_ascii=False)}' hard_negatives={asked}"])


@contextlib.contextmanager
def told(out: Path) -> Iterator[None]:
    """Raises StorageError where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise StorageError(
            f"negatives cannot be written to {out} ({reason}); make room, or write another --out"
        ) from error
