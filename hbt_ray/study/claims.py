"""The claims of a study about its methods: their tests, and the number of seeds that one needs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator
from scipy import stats

from hbt_ray.config import ConfigSection
from hbt_ray.evaluation.method_difference import MethodDifference, equivalence, non_inferiority
from hbt_ray.evaluation.significance import LEVEL

Kind = Literal["superior", "non-inferior", "equivalent"]
POWER = 0.8  # probability of showing a claim that is true, for which the number of seeds is computed
MOST_SEEDS = 1000  # that are considered


class Claim(ConfigSection):
    """A statement about two methods by one metric, made before the first training and tested over seeds."""

    method: str
    versus: str
    """The other method."""
    metric: str
    """Full name, as in `measures`."""
    kind: Kind = "superior"
    """Better; worse by less than the margin; or different by less than the margin."""
    margin: float | None = Field(None, gt=0)
    """In units of the metric. Of `superior`: the difference for which the number of seeds is computed."""
    pilot_sd: float | None = Field(None, gt=0)
    """Standard deviation over seeds of the difference, from an earlier study, for the number of seeds."""

    @model_validator(mode="after")
    def _check_claim(self) -> Claim:
        if self.kind != "superior" and self.margin is None:
            raise ValueError(f"the claim that {self.method} is {self.kind} to {self.versus} needs a margin")
        if self.method == self.versus:
            raise ValueError(f"a claim compares {self.method} with itself; name another method as versus")
        return self

    def p_value(self, difference: MethodDifference, *, higher_is_better: bool) -> float:
        """Return the p-value of the method minus `versus`: two-sided of `superior`, one-sided of the others."""
        if self.kind == "superior":
            return min(1.0, 2 * non_inferiority(difference, 0.0, higher_is_better=higher_is_better))
        assert self.margin is not None
        if self.kind == "equivalent":
            return equivalence(difference, self.margin)
        return non_inferiority(difference, self.margin, higher_is_better=higher_is_better)

    @property
    def confidence(self) -> float:
        """The confidence of the two-sided interval by which the claim is decided."""
        return 1 - LEVEL if self.kind == "superior" else 1 - 2 * LEVEL

    def power(self, deviation: float, seeds: int) -> float | None:
        """Return the probability that the claim is shown if it is true; None where `superior` has no margin.

        By the noncentral t distribution of the paired test over seeds, with questions as they are: a test over
        questions, too, needs more. True means: a difference of the margin for `superior`, of 0 for the others. That of
        `equivalent`, two one-sided tests, is a lower bound.

        Args:
            deviation: standard deviation over seeds of the difference, above 0.
            seeds: 2 or more.
        """
        if self.margin is None:
            return None
        critical = stats.t.isf((1 - self.confidence) / 2, seeds - 1)
        power = float(stats.nct.sf(critical, seeds - 1, self.margin * seeds**0.5 / deviation))
        return max(0.0, 2 * power - 1) if self.kind == "equivalent" else power

    def seeds_needed(self, deviation: float) -> int | None:
        """Return the least number of seeds with a power of 80%; None where there is none up to 1,000, or no margin."""
        seeds = 2 + bisect_left(
            range(2, MOST_SEEDS + 1), POWER, key=lambda number: self.power(deviation, number) or 0.0
        )
        return seeds if seeds <= MOST_SEEDS else None


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A claim and what the study's runs say of it."""

    claim: Claim
    difference: MethodDifference | None  # None: not known
    p_value: float | None  # corrected by Holm over the claims of the study

    @property
    def is_shown(self) -> bool | None:
        """Whether it is shown; None: not known."""
        return None if self.p_value is None else self.p_value < LEVEL
