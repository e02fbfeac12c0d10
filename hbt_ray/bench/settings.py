"""What a run of the benchmark was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """The same for every part; a part that has no use for a field passes it over."""

    out: Path  # the folder of bench.json; scratch files lie under it while a part runs
    model: str | None = None  # folder or hub name of the encoder to measure with; None: a random one of MiniLM's size
    xquad: str | None = None  # folder of XQuAD-R; None: random vectors in the same number
    rounds: int = 5  # of each side, in turns
    quick: bool = False  # sizes at which every part ends in seconds: that it runs, not how fast
    assume: Mapping[str, float] = field(default_factory=dict)  # in place of the defaults of `scale.Assumptions`
