"""A study as a table of cells, a method with a seed each, and where what comes of them lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.config import CorpusConfig, PretrainRunConfig, RunConfig, build, set_key, with_absolute_paths
from hbt_ray.data.benchmarks.writers import write_benchmark
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.types import CorpusRow
from hbt_ray.search.candidates import Candidate
from hbt_ray.study.config import MadeBenchmark, Method, StudyConfig
from hbt_ray.training.run_dir import RunDir, run_dir_of

FINISHED = "finished.json"  # in a cell's folder, written last


@dataclass(frozen=True, slots=True)
class Experiment:
    """One method with one seed."""

    name: str  # of the method
    seed: int
    method: Method
    config: RunConfig  # what it is trained and measured with, before what it starts from is known

    @property
    def label(self) -> str:
        return f"{self.name}, seed {self.seed}"

    def folder(self, study: Path) -> RunDir:
        return run_dir_of(self.config, study / "cells" / folder_name(self.name) / f"seed-{self.seed}")

    def is_finished(self, study: Path) -> bool:
        """Whether it was measured on all that it is to be measured on."""
        file = self.folder(study).path / FINISHED
        return file.exists() and json.loads(file.read_text(encoding="utf-8")) == self._measured

    def finish(self, study: Path) -> None:
        (self.folder(study).path / FINISHED).write_text(json.dumps(self._measured), encoding="utf-8")

    @property
    def _measured(self) -> dict[str, str]:
        return {"evaluate": self.config.evaluate.fingerprint()}


def folder_name(name: str) -> str:
    """
    >>> folder_name("En-En + mined")
    'en-en-mined'
    """
    kept = "".join(c if c.isalnum() else " " for c in name.casefold())
    return "-".join(kept.split())


def pretraining_config(config: StudyConfig, name: str, seed: int) -> PretrainRunConfig:
    """One of a study's pretrainings with a seed, before what it goes on from is known.

    Raises:
        ConfigError: its settings cannot be.
    """
    own, run = config.pretraining[name], config.run
    data: dict[str, Any] = {
        "name": name,
        "corpora": [corpus.model_dump(mode="json") for corpus in run.corpora],
        **{part: getattr(run, part).model_dump(mode="json") for part in ("prepare", "text", "model", "tracking")},
    }
    for key, value in own.settings.items():
        set_key(data, key.split("."), value)
    return with_absolute_paths(build(PretrainRunConfig, data | {"seed": seed}))


def pretraining_folder(study: Path, config: PretrainRunConfig) -> RunDir:
    return run_dir_of(config, study / "pretraining" / folder_name(config.name) / f"seed-{config.seed}")


def cells_of(config: StudyConfig, benchmarks: Mapping[str, str | None]) -> list[Experiment]:
    """All cells, each method's seeds one after the other; those that need others come last.

    Args:
        benchmarks: what every cell is measured on: name -> folder.

    Raises:
        ConfigError: a method's settings cannot be.
    """
    evaluate = config.run.evaluate.model_copy(update={"benchmarks": dict(benchmarks), "figures": False})
    base = config.run.model_copy(update={"evaluate": evaluate})
    cells = [
        Experiment(name, seed, method, Candidate(method.settings).config(base, seed))
        for name, method in config.methods.items()
        for seed in config.seeds
    ]
    return sorted(cells, key=lambda cell: bool(cell.method.needs))


def dependency_levels(cells: Sequence[Experiment]) -> list[list[Experiment]]:
    """Cells that can be worked on at the same time: first those that need no other."""
    first = [cell for cell in cells if not cell.method.needs]
    return [wave for wave in (first, [cell for cell in cells if cell.method.needs]) if wave]


def read_items(corpus: CorpusConfig) -> dict[str, dict[str, tuple[str, str]]]:
    """Every item of a parallel corpus: id -> language -> (question, passage). Raises CorpusError as reading does."""
    items: dict[str, dict[str, tuple[str, str]]] = {}
    for shard in list_shards(corpus):
        for row in read_shard(shard):
            if isinstance(row, CorpusRow) and row.question is not None:
                items.setdefault(row.item_id, {}).setdefault(row.language, (row.question, row.passage))
    return items


def evenly_spaced(values: Sequence[str], count: int) -> list[str]:
    """So many of some values, or all where there are fewer.

    >>> evenly_spaced(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    step = max(len(values) / count, 1.0)
    return [values[int(place * step)] for place in range(min(count, len(values)))]


def make_benchmark(name: str, made: MadeBenchmark, folder: Path) -> None:
    """Writes a benchmark's files, if they are not there. Asked are evenly spaced items of those in most languages."""
    whole = folder / FINISHED
    if whole.exists():
        return
    items = read_items(made.corpus)
    kept = {item: items[item] for item in evenly_spaced(sorted(items), made.items or len(items))}
    most = max(map(len, kept.values()), default=0)
    widest = sorted(item for item, texts in kept.items() if len(texts) == most)
    asked = evenly_spaced(widest, made.questions)
    write_benchmark(name.partition("/")[0], kept, asked, folder)
    whole.write_text(json.dumps({"items": len(kept), "asked": len(asked)}), encoding="utf-8")
