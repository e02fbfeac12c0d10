"""What Ray Tune pickles of a search has no credentials."""

from __future__ import annotations

import pickle
from pathlib import Path

from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.config import replace_in
from tests.unit.search import searches


def test_the_tracking_store_is_not_pickled():
    search = replace_in(searches.search_of(), "run.tracking.uri", "http://ada:canary@h")
    callback = TuneProgressCallback(search, Path("out"), "http://ada:canary@h", "parent")
    state = pickle.dumps(callback)
    assert b"canary" not in state
    assert pickle.loads(state).uri == "http://ada:canary@h"  # of the process
