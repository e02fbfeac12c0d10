"""What Ray Tune pickles of a search has no credentials."""

from __future__ import annotations

import pickle
from pathlib import Path

from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.config import replace_in
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
