"""Speed, as ratios taken in one run: `python jobs/bench.py train`, `... evaluate xquad-r=FOLDER`, `... search`."""

from pathlib import Path

import click

from hbt_ray.cli import OUT_DEFAULT, Commands
from hbt_ray.quickstart import quickstart_config


@click.group(cls=Commands)
def main() -> None:
    """Measure how fast this is, each figure against a peer in the same run."""


@main.command()
@click.option("--steps", default=300, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of the worker. Default: all that the cluster has.")
@click.option("--out", default=f"{OUT_DEFAULT}/bench", show_default=True)
def train(steps: int, rounds: int, threads: int | None, out: str) -> None:
    """Training under Ray against the same loop without it."""
    from hbt_ray.cluster.bench import bench_train_under_ray

    config = quickstart_config("hybrid", steps=steps)
    config = config.model_copy(update={"train": config.train.model_copy(update={"threads_per_worker": threads})})
    result = bench_train_under_ray(config, Path(out).expanduser().resolve(), rounds=rounds)
    click.echo(
        f"under Ray {result['value']:.2f} {result['unit']}, bare {result['peer']:.2f}: "
        f"ratio {result['ratio']:.3f}, from {result['spread'][0]:.3f} to {result['spread'][1]:.3f} over the rounds"
    )


@main.command()
@click.argument("benchmark", metavar="NAME=FOLDER")
@click.option(
    "--model", help="Embed with this model. Default: random vectors, which take longest: most passages lie close."
)
@click.option("--width", default=384, show_default=True, help="Of random vectors.")
def evaluate(benchmark: str, model: str | None, width: int) -> None:
    """One pass over a benchmark against sentence-transformers' evaluator, pool by pool."""
    import numpy as np

    from hbt_ray.bench_evaluate import bench_evaluate
    from hbt_ray.benchmarks import load_benchmark
    from hbt_ray.model import TextEmbedder, open_encoder

    name, _, place = benchmark.partition("=")
    loaded = load_benchmark(name, place)
    if model:
        embedder = TextEmbedder(open_encoder(model))
        queries = embedder.queries([query.text for query in loaded.queries])
        passages = embedder.passages([passage.text for passage in loaded.passages])
    else:
        random = np.random.default_rng(0)
        queries, passages = (
            random.standard_normal((len(of), width), dtype=np.float32) for of in (loaded.queries, loaded.passages)
        )
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    result = bench_evaluate(loaded, queries, passages)
    click.echo(
        f"{result['evaluations']} evaluations: {result['ours_s']:.1f} s here, {result['theirs_s']:.1f} s there: "
        f"ratio {result['ratio']:.1f}; mAP {result['apart']:.1e} apart"
    )


@main.command()
@click.option("--passages", default=1_000_000, show_default=True)
@click.option("--out", default=f"{OUT_DEFAULT}/bench", show_default=True)
def search(passages: int, out: str) -> None:
    """Search in 1, 2 and 4 shards against one flat index, where the nearest neighbours are known."""
    from hbt_ray.cluster.bench import bench_sharded_search

    for result in bench_sharded_search(Path(out).expanduser().resolve(), passages=passages):
        click.echo(
            f"{result['shards']} shards: {result['found']:.1%} found first, the first 100 "
            f"{'equal' if result['equal'] else 'differ from'} those of one index, "
            f"{result['queries_per_s']:,.0f} queries/s, {result['peak_bytes'] / 2**20:,.0f} MiB each at most"
        )


if __name__ == "__main__":
    main()
