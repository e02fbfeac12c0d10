"""Answers a question about ways to train on the cluster; the same as `hbt study`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
