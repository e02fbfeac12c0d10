"""A run that has ended with all its results: the same command has nothing to do, and says so."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from hbt_ray.config import LoopConfig, RunConfig, flatten, with_absolute_paths
from hbt_ray.errors import ConfigError
from hbt_ray.training.extension import extension_fault
from hbt_ray.training.run_dir import AnyRun, RunDir, run_dir_of
from hbt_ray.utils.digests import JsonObject, done_with, first_difference, mark_done
from hbt_ray.utils.storage import StoragePath

_PATH_KEY = re.compile(r"\.path$|\.teacher$|^evaluate\.benchmarks\.|^prepare\.evaluation_sets\.")


def mark_completed(folder: RunDir, config: AnyRun, step: int) -> None:
    """Record that the model and all results of a run are written. Called last.

    Args:
        folder: of the run.
        config: with absolute paths.
        step: whose weights the model has.
    """
    mark_done(_marker(folder), {**_depends_on(config), "step": step, "results": _results(folder)})


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
    if first_difference(before, {**_depends_on(config), "results": _results(folder)}) is None:
        loop = config.train if isinstance(config, RunConfig) else config.pretrain
        raise ConfigError(
            f"this run is finished: {folder.model} has the weights of step {step}. {_way_on(loop, folder)}; write "
            "another --out for a second run, or --fresh to start over"
        )


def _way_on(loop: LoopConfig, folder: RunDir) -> str:
    longer = loop.model_copy(update={"steps": 2 * loop.steps})
    if extension_fault(loop, longer) is None:
        return f"To train longer, raise {loop.section}.steps above {loop.steps}"
    return f"To train longer, write model.path={folder.model} and another --out"


def _marker(folder: RunDir) -> StoragePath:
    return StoragePath.of(folder.path) / "completed.json"


def _depends_on(config: AnyRun) -> JsonObject:
    """Return what the results depend on, as far as it is known without reading files."""
    paths = {value for key, value in flatten(config).items() if isinstance(value, str) and _PATH_KEY.search(key)}
    files = sorted(file for path in paths for file in _files_at(Path(path)))
    described = "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    return {"settings": config.fingerprint(), "files": hashlib.sha256(described.encode()).hexdigest()[:16]}


def _files_at(path: Path) -> list[Path]:
    if not path.is_absolute():  # every path that exists is
        return []
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _results(folder: RunDir) -> list[str]:
    """Return which results are there: the model and the reports."""
    files = [folder.model, *folder.evaluations.glob("*/report.json"), folder.path / "perplexity.json"]
    return sorted(str(file.relative_to(folder.path)) for file in files if file.exists())
