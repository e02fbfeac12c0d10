"""A search that has ended: its results are read from its files, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import SUMMARY, CandidateResult, SearchResults
from hbt_ray.training.completed_run import completed_work, mark_work
from hbt_ray.utils.html_page import PAGE
from hbt_ray.utils.limits import load_json


def mark_search(config: SearchConfig, folder: Path) -> None:
    """Record that a search has ended, with no trial failed; called last."""
    mark_work(folder, config, _result_files(folder))


def finished_search(config: SearchConfig, folder: Path) -> SearchResults | None:
    """Return the results of a search that has ended; None if it has not, or a setting, input or result has changed."""
    if completed_work(folder, config, _result_files(folder)) is None:
        return None
    return read_results(load_json((folder / SUMMARY).read_text(encoding="utf-8")))


def read_results(summary: Mapping[str, object]) -> SearchResults:
    """Return the results that `results.write_results` has put in `summary.json`."""
    ranked = tuple(CandidateResult(**{**one, "seeds": tuple(one["seeds"])}) for one in summary["configurations"])  # type: ignore[attr-defined]
    by_name = {result.name: result for result in ranked}
    best, knee = (by_name[str(summary[role])] for role in ("best", "knee"))
    test, untrained, incomplete = summary["test"], summary["untrained"], tuple(summary.get("incomplete", ()))  # type: ignore[arg-type,var-annotated]
    return SearchResults(ranked, best, knee, summary["steps"], test, untrained, incomplete)  # type: ignore[arg-type]


def _result_files(folder: Path) -> list[Path]:
    written = ("best.yaml", "trials.parquet", SUMMARY, PAGE)
    return [*(folder / name for name in written), *folder.glob("*.png"), *(folder / "chosen").rglob("*")]
