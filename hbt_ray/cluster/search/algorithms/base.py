"""The interface between a search and Ray Tune."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from hbt_ray.config import RunConfig
from hbt_ray.search.candidates import Candidate, Mixture, with_mixtures
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.run_dir import RunDir

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

STEP, SCORE, METRICS = "step", "score", "metrics"  # keys of a trial's reports to Tune
SCORE_BY_STEP = {"time_attr": STEP, "metric": SCORE, "mode": "max"}  # of schedulers

Params = Mapping[str, Any]  # a trial's parameters in Tune


@dataclass(frozen=True, slots=True)
class TrialIdentity:
    """A trial outside of Tune. The name is that of its folder and of its MLflow run."""

    name: str
    candidate: Candidate
    seed: int
    mixtures: Sequence[Mixture] = ()  # of branch: those that lead to its weights
    first_step: int = 0  # of branch: the step of its parent
    until: int | None = None  # of branch: the step at which it ends

    def config(self, base: RunConfig) -> RunConfig:
        """Return the run of this trial. Raise ConfigError if a value is out of range."""
        config = self.candidate.config(base, self.seed)
        return with_mixtures(config, self.mixtures) if self.mixtures else config


class TuneAlgorithm(ABC):
    """An algorithm's parameter space, searcher and scheduler, and its part in a trial. Instances have no state."""

    @abstractmethod
    def param_space(self, search: SearchConfig, candidates: Sequence[Candidate]) -> dict[str, object]:
        """Return Tune's parameter space.

        Args:
            search: its settings.
            candidates: that are known beforehand.
        """

    @abstractmethod
    def identify(self, search: SearchConfig, params: Params, trial_id: str) -> TrialIdentity:
        """Return the trial of these parameters. It must be the same in every process, and distinct for each trial."""

    def tune_config(self, search: SearchConfig, max_concurrent: int) -> tune.TuneConfig:
        """Return the searcher, scheduler and limits."""
        return tune.TuneConfig(
            scheduler=self.scheduler(search),
            max_concurrent_trials=max_concurrent,
            reuse_actors=reuses_actors(search),
            trial_dirname_creator=trial_dirname,
        )

    def scheduler(self, search: SearchConfig) -> TrialScheduler | None:
        """Return the scheduler that stops trials early, as `stopping` says."""
        grace_steps = search.grace_steps or search.every
        if search.stopping == "asha":
            return ASHAScheduler(
                **SCORE_BY_STEP,
                max_t=search.run.train.steps,
                grace_period=grace_steps,
                reduction_factor=1 / search.keep_share,
            )
        return None

    # Inside a trial

    def start_trial(self, run_dir: RunDir, params: Params) -> None:  # noqa: B027, most need nothing
        """Prepare the folder of a trial; called whenever it starts or resumes."""


def reuses_actors(search: SearchConfig) -> bool:
    """Return True if a trial may start in the process of an ended one, which has its libraries imported.

    A trial that is stopped while its workers train does not end by itself, and Tune then fails the next one.
    """
    return search.stopping == "none" or search.run.train.max_workers == 1


def trial_dirname(trial: TuneTrial) -> str:
    """Name a trial's folder in Tune by its id, which `TuneAlgorithm.identify` gets."""
    return str(trial.trial_id)
