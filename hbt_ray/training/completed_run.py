"""Work that has ended with all its results: a run, a search or a study. The same command has nothing to do.

What the work read counts as changed if the time or size of a file has, which is known in milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from hbt_ray.config import ConfigSection, LoopConfig, RunConfig, flatten, with_absolute_paths
from hbt_ray.errors import ConfigError
from hbt_ray.training.extension import extension_fault
from hbt_ray.training.run_dir import LOSSES_OF_PRETRAINING, AnyRun, RunDir, run_dir_of
from hbt_ray.utils.digests import JsonObject, done_with, first_difference, mark_done
from hbt_ray.utils.storage import StoragePath

COMPLETED = "completed.json"  # in the folder of the work
# Of a run; below `run`, `dev`, `space`, `methods` or `pretraining` of a search or study.
_PATH_KEY = re.compile(
    r"\.(path|teacher)(\.values)?$|(^|\.)(evaluate|dev)\.benchmarks\.|(^|\.)prepare\.evaluation_sets\."
)


def mark_completed(folder: RunDir, config: AnyRun, step: int) -> None:
    """Record that the model and all results of a run are written. Called last.

    Args:
        folder: of the run.
        config: with absolute paths.
        step: whose weights the model has.
    """
    mark_done(_marker(folder), {**_reads(config), "step": step, "results": _results(folder)})


def check_not_completed(config: AnyRun, out: str | Path) -> None:
    """Check that a run has something left to do. Files that it read count as changed if their time or size has.

    Raises:
        ConfigError: it is completed, by the same settings and files.
    """
    folder, config = run_dir_of(config, out), with_absolute_paths(config)
    before = done_with(_marker(folder))
    if before is None or not folder.config.exists():
        return
    step = before.pop("step", None)
    if first_difference(before, {**_reads(config), "results": _results(folder)}) is None:
        loop = config.train if isinstance(config, RunConfig) else config.pretrain
        raise ConfigError(
            f"this run is finished: {folder.model} has the weights of step {step}. {_way_on(loop, folder)}; write "
            "another --out for a second run, or --fresh to start over"
        )


def mark_work(folder: Path, config: ConfigSection, results: Iterable[Path], *, shown: str = "") -> None:
    """Record that all results of a search or study are written. Called last.

    Args:
        folder: of the work.
        config: as the command read it.
        results: the files that the work wrote.
        shown: what `completed_work` returns.
    """
    mark_done(StoragePath.of(folder) / COMPLETED, {**_work_depends_on(config, results), "shown": shown})


def completed_work(folder: Path, config: ConfigSection, results: Iterable[Path]) -> str | None:
    """Return the `shown` of a search or study that has ended; None if it has not.

    It has not if a setting, an input or a result has changed since.
    """
    before = done_with(StoragePath.of(folder) / COMPLETED)
    if before is None:
        return None
    shown = before.pop("shown", "")
    return str(shown) if first_difference(before, _work_depends_on(config, results)) is None else None


def _work_depends_on(config: ConfigSection, results: Iterable[Path]) -> JsonObject:
    return {**_reads(config), "results": _described(results)}


def _way_on(loop: LoopConfig, folder: RunDir) -> str:
    longer = loop.model_copy(update={"steps": 2 * loop.steps})
    if extension_fault(loop, longer) is None:
        return f"To train longer, raise {loop.section}.steps above {loop.steps}"
    return f"To train longer, write model.path={folder.model} and another --out"


def _marker(folder: RunDir) -> StoragePath:
    return StoragePath.of(folder.path) / COMPLETED


def _reads(config: ConfigSection) -> JsonObject:
    """Return what the results depend on, as far as it is known without reading files."""
    settings = ((key, value) for key, value in flatten(config).items() if _PATH_KEY.search(key))
    values = {one for _, value in settings for one in (value if isinstance(value, list) else [value])}
    files = (file for value in values if isinstance(value, str) for file in _files_at(Path(value).expanduser()))
    return {"settings": config.fingerprint(), "files": _described(files)}


def _described(files: Iterable[Path]) -> str:
    """Return 16 hex digits that change with the name, size or time of a file."""
    found = sorted((os.path.abspath(file), file.stat()) for file in set(files) if file.is_file())
    described = "\n".join(f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in found)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _files_at(path: Path) -> list[Path]:
    """Return the files of a path; none of a name on the hub."""
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _results(folder: RunDir) -> list[str]:
    """Return which results are there: the model and the reports."""
    of_pretraining = (folder.path / name for name in LOSSES_OF_PRETRAINING)
    files = [folder.model, *folder.evaluations.glob("*/report.json"), *of_pretraining]
    return sorted(str(file.relative_to(folder.path)) for file in files if file.exists())
