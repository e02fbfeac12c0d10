"""Run a study on the cluster: methods of training, compared; the same as `hbt study`, for `ray job submit`."""

import sys

from hbt_ray.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
