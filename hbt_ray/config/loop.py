"""The settings that every training loop has: optimisation, checkpoints, workers."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hbt_ray.config.base import ConfigSection, Fraction

Precision = Literal["auto", "bf16", "fp32"]  # auto: bf16 where the processor computes in it
Count = Annotated[int, Field(ge=1)]
Workers = Count | tuple[Count, Count]


class EarlyStoppingConfig(ConfigSection):
    patience: int = Field(3, ge=1)  # validations without a lower loss before training ends
    min_change: float = Field(0.0, ge=0)


class LoopConfig(ConfigSection):
    section: ClassVar[str] = ""  # under which name it stands in a configuration

    steps: int = Field(600, ge=1)  # optimizer steps
    gradient_accumulation: int = Field(1, ge=1)  # batches per optimizer step, each with its own negatives
    learning_rate: float = Field(3e-5, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_share: Fraction = 0.1  # of the steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_gradient_norm: float = Field(1.0, gt=0)
    precision: Precision = "auto"
    non_finite_allowed: int = Field(0, ge=0)  # steps skipped for a gradient that is not finite; one more ends the run
    validation_every: int = Field(0, ge=0)  # steps; 0: never
    validation_batches: int = Field(8, ge=1)
    early_stopping: EarlyStoppingConfig | None = None
    evaluate_every: int = Field(0, ge=0)  # steps after which checkpoints are measured beside the training; 0: never
    checkpoint_every: int = Field(100, ge=1)  # steps
    checkpoint_minutes: float | None = Field(10.0, gt=0)  # and when the last one is this old; None: by steps alone
    checkpoints_kept: int = Field(2, ge=1)  # the newest, and the best one beside them
    best_by: Literal["validation_loss", "loss"] | None = "validation_loss"  # None: no best one is kept
    workers: Workers = 1  # a number, or [least, most] for a group that follows the cluster's size
    gpu: bool | None = None  # None: when the cluster has one for every worker
    threads_per_worker: int | None = Field(None, ge=1)  # None: the cluster's CPUs, shared; see resources
    max_failures: int = Field(3, ge=0)  # restarts from the newest checkpoint

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _stopping_can_be_judged(self) -> LoopConfig:
        if self.early_stopping and not self.validation_every:
            raise ValueError("early_stopping needs validation_every: write how many steps lie between validations")
        if self.early_stopping and self.best_by != "validation_loss":
            raise ValueError("early_stopping keeps the best weights: write best_by=validation_loss")
        return self

    def check_shares(self, batch: str, chunk: str) -> None:
        """Raises ValueError when the workers cannot share a batch in whole chunks; both are named by their setting."""
        whole, part, of = getattr(self, batch), getattr(self, chunk), batch.rpartition("_")[2]
        if not isinstance(self.workers, int):
            least, most = self.workers
            if least > most:
                raise ValueError(f"workers [{least}, {most}] must be [least, most]; write [{most}, {least}]")
            if most > -(-whole // part):
                raise ValueError(
                    f"{whole} {of} in chunks of {chunk} {part} are not enough for "
                    f"{most} workers; write {chunk}={max(whole // most, 1)} or fewer workers"
                )
            return
        if whole % self.workers:
            lower = whole // self.workers * self.workers
            nearest = [number for number in (lower, lower + self.workers) if number]
            raise ValueError(
                f"{batch} {whole} is not divisible by workers {self.workers}; write {' or '.join(map(str, nearest))}"
            )
        each = whole // self.workers
        if (each % part and each > part) or (self.workers > 1 and each < part):
            raise ValueError(
                f"a worker's {each} {of} are not whole chunks of {chunk} {part}; write {chunk}={math.gcd(each, part)}"
            )
