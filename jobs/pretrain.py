"""Pretrain an encoder on text on the cluster; the same as `hbt pretrain`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
