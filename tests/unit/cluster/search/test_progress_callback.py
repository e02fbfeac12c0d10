"""What Ray Tune pickles of a search has no credentials."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.config import replace_in
from hbt_ray.search.algorithms import list_candidates
from tests.unit.search import searches


def test_no_setting_is_pickled():
    search = replace_in(searches.search_of(), "run.tracking.uri", "http://ada:canary@h")
    search = replace_in(search, "run.model.path", "/canary/model")
    callback = TuneProgressCallback(search, Path("out"), "http://ada:canary@h", "parent")
    state = pickle.dumps(callback)
    assert b"canary" not in state
    resumed = pickle.loads(state)
    assert resumed.uri == "http://ada:canary@h"  # of the process
    assert resumed.search.run.model.path == "/canary/model"


def test_resumed_search_writes_to_the_folder_of_this_call():
    search = searches.search_of()
    state = pickle.dumps(TuneProgressCallback(search, Path("/before"), "sqlite:////before.db", "parent"))
    TuneProgressCallback(search, Path("/moved"), "sqlite:////moved.db", "other")
    resumed = pickle.loads(state)
    assert (resumed.out, resumed.parent_run_id) == (Path("/moved"), "other")


def test_progress_counts_trials_and_names_the_best_and_the_time_left(monkeypatch):
    callback = TuneProgressCallback(searches.search_of(seeds=(0, 1)), Path("out"), "sqlite:////x.db", "parent")
    total = len(list_candidates(callback.search)) * 2
    assert callback._summary() == f"0 of {total} trials"
    callback._rows = {"a": ("alpha=0", "8/8", "finished"), "b": ("alpha=1", "4/8", "running")}
    callback._values = {"a": 0.5, "b": 0.625}
    monkeypatch.setattr(time, "monotonic", lambda: callback._began_s + 30)
    left = divmod(30 * (total - 1), 60)
    assert callback._summary() == (
        f"1 of {total} trials, best mono mAP so far 0.6250 (alpha=1), {left[0]}:{left[1]:02d} left"
    )
