"""Commands that read corpora and show batches: prepare, plan."""

from __future__ import annotations

from pathlib import Path

import click

from hbt_ray.cli.options import config_option, out_folder, out_option, overrides_argument
from hbt_ray.config import load_config, with_absolute_paths


@click.command()
@config_option
@overrides_argument
@out_option("Folder of stores", "stores")
@click.option("--verify", is_flag=True, help="Make nothing; check the files of the store that there is.")
def prepare(config_file: str | None, overrides: tuple[str, ...], out: str | None, verify: bool) -> None:
    """Turn corpora into a token store. One that is damaged is made again."""
    config = with_absolute_paths(load_config(config_file, overrides))
    from hbt_ray import api
    from hbt_ray.data.manifest import read_manifest
    from hbt_ray.data.prepare import describe_store

    stores = out_folder(out, "stores").resolve()
    if verify:
        from hbt_ray.cluster.prepare import verify_store

        store = verify_store(config.prepare_inputs, stores)
    else:
        store = api.prepare(config, stores)
    click.echo(describe_store(store, read_manifest(store)))


@click.command()
@config_option
@overrides_argument
@click.option("--workers", type=click.IntRange(1), help="Default: the configuration's.")
@click.option("--steps", help="FIRST:LAST, such as 0:100. Default: all.")
@click.option(
    "--store", help="A store, or a folder that has only its manifest.json. Default: prepared as for training."
)
@out_option("Folder for plan.parquet and plan.png", "NAME-plan")
def plan(
    config_file: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    steps: str | None,
    store: str | None,
    out: str | None,
) -> None:
    """Show which worker gets which pair at which step, without training."""
    config = with_absolute_paths(load_config(config_file, overrides))
    from rich.console import Console

    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.factory import training_sampler
    from hbt_ray.sampling.inspect import SamplerTrace, parse_steps, trace_tables, write_trace

    first, last = parse_steps(steps, config.train.steps)
    folder = out_folder(out, f"{config.name}-plan").resolve()
    if store is None:
        from hbt_ray import api

        opened = TokenStore.open(api.prepare(config, folder.parent / "stores", verify=False))
    else:
        opened = TokenStore.open(Path(store).expanduser())
    sampler, ranks = training_sampler(config, opened.manifest), workers or config.train.max_workers
    batches = (config.train.chunk_pairs, config.train.gradient_accumulation)
    trace = SamplerTrace(sampler, opened, first, last, ranks, *batches)
    write_trace(trace, folder)
    for table in trace_tables(trace):
        Console().print(table)
    click.echo(f"pairs    {folder / 'plan.parquet'}\nfigure   {folder / 'plan.png'}")
