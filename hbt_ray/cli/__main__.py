"""Runs the command line as `python -m hbt_ray.cli`."""

from hbt_ray.cli import main

main()
