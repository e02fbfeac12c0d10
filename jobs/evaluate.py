"""Evaluate a model on benchmarks; the same as `hbt evaluate`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
