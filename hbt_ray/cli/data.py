"""Commands that read corpora and show batches: inspect, prepare, plan."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbt_ray.cli.options import (
    check_corpora,
    config_option,
    echo_sentences,
    examples,
    out_folder,
    out_option,
    overrides_argument,
)
from hbt_ray.config import RunConfig, load_config, with_absolute_paths, with_settings
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.utils.atomic_write import atomic_write_text, make_output_folder, output_errors

if TYPE_CHECKING:
    from hbt_ray.data.manifest import StoreManifest
    from hbt_ray.data.token_store import TokenStore


@click.command(
    epilog=examples(
        "hbt inspect faq",
        "hbt inspect faq.csv language=en columns.question=Title --write faq.yaml",
        "hbt inspect sentence-transformers/natural-questions language=en",
    )
)
@click.argument("path")
@overrides_argument
@click.option("--write", "file", type=click.Path(dir_okay=False), help="Also write the output to this new file.")
@click.option("--items", type=click.IntRange(0), default=2, show_default=True, help="Number of items to show.")
def inspect(path: str, overrides: tuple[str, ...], file: str | None, items: int) -> None:
    """Find out what corpus PATH is, and print its configuration.

    PATH is a file, a folder or a data set of the hub, in CSV, TSV, JSON, Parquet, SQuAD, MS MARCO, bitext or TMX.
    Only the first rows are read. The output is a configuration; what was found is in its comments.
    """
    from hbt_ray.data.inspection import describe_sample, sample_corpus

    if file is not None and Path(file).exists():
        raise ConfigError(f"{file} exists; name a new file, or delete it")
    sample = sample_corpus(path, overrides)
    written = file or f"{Path(path).name.partition('.')[0] or 'corpus'}.yaml"
    again = ["hbt", "inspect", path, *overrides, "--write", written]
    next_command = shlex.join(again if file is None else ["hbt", "prepare", "--config", file])
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    text = describe_sample(sample, next_command=next_command, shown_items=items, width=width)
    if file is not None:
        with output_errors(Path(file)):
            atomic_write_text(Path(file), text + "\n")
    click.echo(text)


@click.command(epilog=examples("hbt prepare --config faq.yaml", "hbt prepare --config faq.yaml --verify"))
@config_option
@overrides_argument
@out_option("Folder of stores", "stores")
@click.option("--verify", is_flag=True, help="Make nothing; check the files of the store that there is.")
def prepare(config_file: str | None, overrides: tuple[str, ...], out: str | None, verify: bool) -> None:
    """Turn corpora into a token store. One that is damaged is made again."""
    config = load_config(config_file, overrides)
    check_corpora(config)
    config = with_absolute_paths(config)
    from hbt_ray import api
    from hbt_ray.data.manifest import read_manifest
    from hbt_ray.data.prepare import describe_store

    stores = out_folder(out, "stores").resolve()
    if verify:
        from hbt_ray.data.store_maker import verify_store

        store = verify_store(config.prepare_inputs, stores)
    else:
        store = api.prepare(config, stores)
    manifest = read_manifest(store)
    echo_sentences(describe_store(store, manifest))
    options = ["--config", config_file] if config_file else []
    click.echo(_next_step(config, manifest, ["hbt", "train", *options, *overrides]))


def _next_step(config: RunConfig, manifest: StoreManifest, train: Sequence[str]) -> str:
    """Return the command that trains on a store, or what its batches lack."""
    from hbt_ray.sampling.factory import training_sampler

    try:
        training_sampler(config, manifest)
    except ConfigError as error:
        return f"not yet  {error}"
    return f"next     {shlex.join(train)}"


@click.command(
    epilog=examples(
        "hbt plan --config smoke --steps 0:40",
        "hbt plan --config smoke alpha=1 --workers 2",
        "hbt plan --config faq.yaml --on 8xh100 --price 2.5",
    )
)
@config_option
@overrides_argument
@click.option("--workers", type=click.IntRange(1), help="Default: the configuration's.")
@click.option("--steps", help="FIRST:LAST, such as 0:100. Default: all.")
@click.option(
    "--store", help="A store, or a folder that has only its manifest.json. Default: prepared as for training."
)
@click.option("--on", metavar="NxGPU", help="Show what the training costs on GPUs such as 8xh100, or here.")
@click.option("--price", type=click.FloatRange(0), help="Of a GPU for an hour, with --on.")
@out_option("Folder for plan.parquet and plan.png", "NAME-plan")
def plan(
    config_file: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    steps: str | None,
    store: str | None,
    on: str | None,
    price: float | None,
    out: str | None,
) -> None:
    """Show the pairs of each worker by step, or what training costs.

    Without --store, a token store is made as for training, in stores/ next to the plan. With --on no plan is written,
    and with --on here a minute of training is measured.
    """
    if price is not None and on is None:
        raise UserError("--price is that of a GPU for an hour; write also --on, such as --on 8xh100")
    config = load_config(config_file, overrides)
    if store is None:
        check_corpora(config)
    if workers is not None:
        _check_division(config, workers)
    config = with_absolute_paths(config)
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.factory import training_sampler
    from hbt_ray.sampling.inspect import SamplerTrace, parse_steps, trace_tables, write_trace
    from hbt_ray.utils.terminal_table import print_tables

    first, last = parse_steps(steps, config.train.steps)
    folder = out_folder(out, f"{config.name}-plan").resolve()
    if store is None:
        from hbt_ray import api

        opened = TokenStore.open(api.prepare(config, folder.parent / "stores", verify=False))
    else:
        opened = TokenStore.open(Path(store).expanduser())
    if on is not None:
        _show_cost(config, opened, on, price)
        return
    sampler, ranks = training_sampler(config, opened.manifest), workers or config.train.max_workers
    batches = (config.train.chunk_pairs, config.train.gradient_accumulation)
    trace = SamplerTrace(sampler, opened, first, last, ranks, *batches)
    make_output_folder(folder)
    write_trace(trace, folder)
    print_tables(trace_tables(trace))
    click.echo(f"pairs    {folder / 'plan.parquet'}\nfigure   {folder / 'plan.png'}")


def _check_division(config: RunConfig, workers: int) -> None:
    """Check that a training could divide its batches among a number of workers.

    Raises:
        ConfigError: it could not, so that it would be refused.
    """
    configured = config.train.workers
    if isinstance(configured, int):
        with_settings(config, {"train.workers": workers})
    else:
        with_settings(config, {"train.workers": (min(configured[0], workers), max(configured[1], workers))})


def _show_cost(config: RunConfig, store: TokenStore, on: str, price: float | None) -> None:
    """Print what a training costs."""
    from hbt_ray.bench.run_cost import describe_cost, estimate_cost
    from hbt_ray.data.store_inputs import store_tokenizer
    from hbt_ray.training.initial_model import prepare_initial_model
    from hbt_ray.training.run_dir import run_dir_of

    with tempfile.TemporaryDirectory() as scratch:  # of an encoder with random weights
        tokenizer = store_tokenizer(store.folder, config.prepare_inputs)
        initial = prepare_initial_model(config, tokenizer, run_dir_of(config, scratch))
        for line in describe_cost(estimate_cost(config, store, initial, on, price)):
            echo_sentences(line)
