"""Search settings of a run on the cluster; the same as `hbt search`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["search", *sys.argv[1:]])
