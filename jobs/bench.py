"""Training under Ray against the bare loop, in turns: `python jobs/bench.py [--steps N] [--out DIR]`."""

from pathlib import Path

import click

from hbt_ray.config import RunConfig
from hbt_ray.quickstart import quickstart_config


@click.command()
@click.option("--steps", default=120, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", default="~/hbt_runs/bench", show_default=True)
def main(steps: int, rounds: int, out: str) -> None:
    from hbt_ray.cluster.bench import bench_train_under_ray

    config: RunConfig = quickstart_config("hybrid", steps=steps)
    result = bench_train_under_ray(config, Path(out).expanduser().resolve(), rounds=rounds)
    click.echo(
        f"under Ray {result['value']:.2f} {result['unit']}, bare {result['peer']:.2f}: "
        f"ratio {result['ratio']:.3f}, from {result['spread'][0]:.3f} to {result['spread'][1]:.3f} over the rounds"
    )


if __name__ == "__main__":
    main()
