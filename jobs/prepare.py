"""Prepare a token store from corpora on the cluster; the same as `hbt prepare`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
