"""Mine hard negatives on the cluster; the same as `hbt mine`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["mine", *sys.argv[1:]])
