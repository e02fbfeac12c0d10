"""How batches are composed: strategy, alpha, weights of languages and sources, and their changes during training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hbt_ray.config.base import ConfigSection, Fraction, Settings
from hbt_ray.config.corpora import distinct_languages

Strategy = Literal["x-x-mono", "x-y", "x-x", "hybrid", "one-to-k"]


def _named_exponent(value: object) -> object:
    return {"size": 1.0, "uniform": 0.0}.get(value, value) if isinstance(value, str) else value


def _by_language_code(weights: dict[str, float]) -> dict[str, float]:
    codes = distinct_languages(tuple(weights) or None) or ()
    return dict(zip(codes, weights.values(), strict=True))


# A weight of count ** exponent. "size" is exponent 1, "uniform" is 0, a temperature T is exponent 1 / T.
Sampling = Annotated[float, BeforeValidator(_named_exponent), Field(ge=0, le=1)]
Weights = dict[str, Annotated[float, Field(gt=0)]]
LanguageWeights = Annotated[Weights, AfterValidator(_by_language_code)]


class AlphaSchedule(ConfigSection):
    """Alpha as a function of the batch number; constant before the first point and after the last."""

    points: tuple[tuple[Annotated[int, Field(ge=0)], Fraction], ...] = Field(min_length=1)
    """(batch, alpha), ascending."""
    between: Literal["hold", "linear", "cosine"] = "linear"
    """Interpolation. `hold`: the value of the previous point."""

    @model_validator(mode="after")
    def _check_ascending(self) -> AlphaSchedule:
        batches = [batch for batch, _ in self.points]
        if batches != sorted(set(batches)):
            raise ValueError(f"the points' batches {batches} must ascend, such as [[0, 0.9], [600, 0.1]]")
        return self


class MixPhase(ConfigSection):
    """Settings of the mix from a batch on, until the next phase; one that is left out is that of `mix`."""

    first_batch: int = Field(ge=1)
    """Number of a batch, counted from 0."""
    alpha: Fraction | None = None
    language_weights: LanguageWeights | None = None
    source_weights: Weights | None = None


class MixConfig(ConfigSection):
    """How a batch is composed."""

    strategy: Strategy = "hybrid"
    alpha: Fraction = 0.5
    """`hybrid`: probability that a batch is monolingual; otherwise it is cross-lingual."""
    alpha_schedule: AlphaSchedule | None = None
    """`hybrid`: alpha that changes during training, such as {points: [[0, 0.9], [600, 0.1]], between: linear}."""
    cross_pairs: Literal["one", "mixed"] = "mixed"
    """`mixed`: each row of a cross-lingual batch has two languages of its own. `one`: all rows have the same two."""
    positive_languages: int = Field(2, ge=2)
    """`one-to-k`: passages per question, each in another language."""
    language_sampling: Sampling = 0.0
    """Exponent: languages are drawn in proportion to items ** exponent. `uniform` is 0, `size` is 1."""
    source_sampling: Sampling = 1.0
    """The same exponent for sources."""
    language_weights: LanguageWeights = Field(default_factory=dict)
    """Such as {de: 0.3, en: 0.7}, instead of `language_sampling`: above 0, for every language."""
    source_weights: Weights = Field(default_factory=dict)
    """The same for the names of the corpora, instead of `source_sampling`."""
    phases: tuple[MixPhase, ...] = ()
    """Such as [{first_batch: 600, alpha: 0.2}]: alpha and weights that change during training."""
    hard_negatives: int = Field(0, ge=0)
    """Per pair. Items with fewer are not drawn."""

    @model_validator(mode="after")
    def _check_schedule(self) -> MixConfig:
        alpha_changes = self.alpha_schedule or any(phase.alpha is not None for phase in self.phases)
        if alpha_changes and self.strategy != "hybrid":
            raise ValueError(f"the strategy {self.strategy} has no alpha to schedule; write strategy=hybrid")
        if self.alpha_schedule and any(phase.alpha is not None for phase in self.phases):
            raise ValueError("alpha_schedule and the phases both set alpha; leave it out of one of them")
        batches = [phase.first_batch for phase in self.phases]
        if batches != sorted(set(batches)):
            raise ValueError(f"the first batches {batches} of the phases must ascend, such as 100, 600")
        return self

    @property
    def constant_mixes(self) -> list[tuple[int, MixConfig]]:
        """The first batch of each phase, and the mix from there on; the first is that from batch 0."""
        base = self.model_copy(update={"phases": ()})
        mixes = [(0, base)]
        for phase in self.phases:
            changes: Settings = {key: value for key in PHASED if (value := getattr(phase, key)) is not None}
            mixes.append((phase.first_batch, base.model_copy(update=changes)))
        return mixes


PHASED = tuple(name for name in MixPhase.model_fields if name != "first_batch")  # the settings that may change
