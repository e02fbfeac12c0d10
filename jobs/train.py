"""Prepare, train, evaluate and track one run on the cluster; the same as `hbt train`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
