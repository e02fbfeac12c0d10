"""Branches of one training: the searcher that suggests them, and how a branch takes over a checkpoint.

A trial is a branch: one segment of the training with one mixture. Its parameters hold everything that it depends on.

1. The searcher suggests the branches of a segment. When all have ended, it continues with the best one.
2. A trial copies the last checkpoint of its parent, the branch that it continues (`start_trial`). Without one it trains
   from the first step, to the same weights: the order of the batches is a function of the mixtures.
3. The trials of the next segment delete the checkpoints of earlier ones that no branch will continue from.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray import tune
from ray.tune.search import Searcher, SearchGenerator

from hbt_ray.cluster.search.algorithms.base import SCORE, STEP, Params, TrialIdentity, TuneAlgorithm, trial_dirname
from hbt_ray.config import RunConfig, replace_in
from hbt_ray.config.base import Settings
from hbt_ray.search.algorithms import ALGORITHMS
from hbt_ray.search.branching import Segment, branch_quantiles, segments, values_at
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.checkpoint import COMPLETE, CheckpointManager, step_name
from hbt_ray.training.run_dir import RunDir
from hbt_ray.utils.limits import load_json

KEY = "branch"  # of the parameters


class BranchSearcher(Searcher):
    """Suggest the branches of one segment after another. Its state is kept with Tune's."""

    _max_concurrent = sys.maxsize  # of a search that an earlier version began, in Tune's ConcurrencyLimiter

    def __init__(self, search: SearchConfig, max_concurrent: int) -> None:
        super().__init__(metric=SCORE, mode="max")
        # Not by Tune's ConcurrencyLimiter: it keeps the ends of trials that had failed and run again to itself.
        self._max_concurrent = max_concurrent
        # Tune pickles the searcher to a file: no other settings, which may have secrets.
        self._search = replace_in(search, "run", RunConfig(train=search.run.train))
        self._number = -1  # of the segment
        self._queue: list[Settings] = []  # branches to suggest
        self._running: dict[str, Settings] = {}  # by trial
        self._failed: dict[str, Settings] = {}  # of the segment, by trial
        self._ended: list[tuple[float, Settings]] = []  # scores and branches
        self._begin_segment(None)

    def suggest(self, trial_id: str) -> Settings | str | None:
        """Return the parameters of the next branch; None while others run."""
        if not self._queue and not self._running:
            return self.FINISHED
        if not self._queue or len(self._running) >= self._max_concurrent:
            return None
        self._running[trial_id] = self._queue.pop(0)
        return {KEY: self._running[trial_id]}

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """Record a branch's score. After the last one of the segment, begin the next segment with the best."""
        branch = self._running.pop(trial_id, None)
        if branch is None:  # a trial that failed and was started again has ended before
            return
        if error:
            self._failed[trial_id] = branch
        elif result and result.get(STEP) == branch["until"]:
            self._ended.append((float(result[SCORE]), branch))
        if not self._queue and not self._running and self._ended:
            _, best = max(self._ended, key=lambda ended: (ended[0], -ended[1]["branch"]))
            self._begin_segment(best)

    def _begin_segment(self, parent: Settings | None) -> None:
        self._number, self._failed, self._ended = self._number + 1, {}, []
        later = segments(self._search)[self._number :]
        for branch in range(later[0].branches if later else 0):
            self._queue.append(_parameters(self._search, self._number, later[0], branch, parent))

    def save(self, checkpoint_path: str) -> None:
        """Write the state."""
        state = {key: value for key, value in vars(self).items() if key in _STATE}
        Path(checkpoint_path).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read the state. Tune runs the failed trials again: wait for them if the segment cannot go on without."""
        state = load_json(Path(checkpoint_path).read_text(encoding="utf-8"))
        self.__dict__.update({"_failed": {}, **state})  # which earlier versions did not keep
        if not self._ended:
            self._running, self._failed = self._running | self._failed, {}


_STATE = ("_number", "_queue", "_running", "_failed", "_ended")


class BranchGenerator(SearchGenerator):
    """Tune's side of `BranchSearcher`. A search that ended with failures is resumed, and then suggests trials again."""

    def set_state(self, state: dict[str, object]) -> None:
        super().set_state({**state, "finished": False})


def _parameters(search: SearchConfig, number: int, segment: Segment, branch: int, parent: Settings | None) -> Settings:
    """Return the parameters of a branch: plain values, as Tune stores them."""
    quantiles = branch_quantiles(search, number, branch, None if parent is None else parent["quantiles"])
    values = values_at(search, quantiles)
    mixtures = [] if parent is None else list(parent["mixtures"])
    if not mixtures or mixtures[-1][1] != values:
        mixtures.append([segment.first * search.run.train.gradient_accumulation, values])
    return {
        "name": f"steps={segment.first}-{segment.until},branch={branch}",
        "first": segment.first,
        "until": segment.until,
        "branch": branch,
        "parent": None if parent is None else parent["name"],
        "quantiles": quantiles,
        "mixtures": mixtures,
    }


class TuneBranch(TuneAlgorithm):
    """Runs the branches that `BranchSearcher` suggests."""

    def param_space(self, search: SearchConfig, candidates: Sequence[Candidate]) -> dict[str, object]:
        return {}

    def identify(self, search: SearchConfig, params: Params, trial_id: str) -> TrialIdentity:
        branch = params[KEY]
        mixtures = [(batch, values) for batch, values in branch["mixtures"]]
        candidate = Candidate(mixtures[-1][1])
        return TrialIdentity(
            branch["name"], candidate, search.seeds[0], mixtures, first_step=branch["first"], until=branch["until"]
        )

    def tune_config(self, search: SearchConfig, max_concurrent: int) -> tune.TuneConfig:
        return tune.TuneConfig(
            search_alg=BranchGenerator(BranchSearcher(search, max_concurrent)),
            num_samples=ALGORITHMS["branch"].num_trials(search),
            reuse_actors=True,
            trial_dirname_creator=trial_dirname,
        )

    def start_trial(self, run_dir: RunDir, params: Params) -> None:
        first, name = params[KEY]["first"], params[KEY]["parent"]
        if name is None:
            return
        parent = run_dir.sibling(name).checkpoints / step_name(first)
        if not CheckpointManager(run_dir.checkpoints).steps() and (parent / COMPLETE).exists():
            with tempfile.TemporaryDirectory() as folder:
                parent.download(Path(folder))
                (run_dir.checkpoints / step_name(first)).upload(Path(folder), last=COMPLETE)
        if params[KEY]["branch"] == 0:
            for trial in run_dir.path.parent.glob("steps=*"):
                # Later ones are there when this branch had failed, and is run again.
                if trial.name != name and int(trial.name.removeprefix("steps=").partition("-")[0]) < first:
                    run_dir.sibling(trial.name).checkpoints.delete()
