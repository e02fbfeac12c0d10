"""Speed and memory, each against a peer in turns in one run; the parts that need no Ray."""

from hbt_ray.bench.figure import Figure, describe_figure, write_figures
from hbt_ray.bench.turns import Side, in_turns

__all__ = ["Figure", "Side", "describe_figure", "in_turns", "write_figures"]
