"""A study that has ended: the same command prints its results again, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbt_ray.study.config import StudyConfig
from hbt_ray.study.plan import PLAN
from hbt_ray.training.completed_run import completed_work, mark_work

# The files of the report, and those of each experiment that it is made of.
_RESULTS = ("report.html", "report.md", "summary.json", "table.csv", PLAN, "figures/*", "benchmarks/**/*")
_OF_EXPERIMENTS = ("cells/*/*/evaluation/**/*", "cells/*/*/model/**/*", "cells/*/*/debiased/**/*")


def mark_study(config: StudyConfig, folder: Path, lines: Sequence[str]) -> None:
    """Record that a study has ended; called last.

    Args:
        config: as the command read it.
        folder: of the study.
        lines: of its results, which the command prints again.
    """
    mark_work(folder, config, _result_files(folder), shown="\n".join(lines))


def finished_study(config: StudyConfig, folder: Path) -> list[str] | None:
    """Return the lines of a study that has ended; None if it has not, or a setting, input or result has changed."""
    folder = folder.expanduser().resolve()
    shown = completed_work(folder, config, _result_files(folder))
    return None if shown is None else shown.split("\n")


def _result_files(folder: Path) -> list[Path]:
    return [file for pattern in (*_RESULTS, *_OF_EXPERIMENTS) for file in folder.glob(pattern)]
