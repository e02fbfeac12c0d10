"""Paths of the repository that tests read."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "hbt_ray"
