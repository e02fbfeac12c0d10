"""Measure speed and memory against baselines; the same as `hbt bench`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
