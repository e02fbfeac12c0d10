"""Commands that show what a model was trained on, and compute a step of a run again: verify, replay."""

from __future__ import annotations

from pathlib import Path

import click

from hbt_ray.cli.options import echo_sentences, examples, trust_option
from hbt_ray.errors import ConfigError, CorpusError


@click.command(
    epilog=examples(
        "hbt verify ~/hbt_runs/faq/model --text questions.txt",
        "hbt verify MODEL --text questions.txt --store ~/hbt_runs/stores",
    )
)
@click.argument("model")
@click.option("--text", "file", required=True, type=click.Path(), help="A text in each line.")
@click.option("--store", help="The store, or a folder of stores. Default: stores next to the model's run.")
@trust_option
def verify(model: str, file: str, store: str | None, trust_remote_code: bool) -> None:
    """Show whether texts were trained on.

    MODEL is a folder that hbt train, search or study has written. The store that it was trained on must be at hand. A
    text of 8 tokens or more is also found as a part of a longer one.
    """
    from hbt_ray.training.training_record import find_store, read_training_record

    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read ({error}); write a file of UTF-8 text") from None
    texts = [line for line in map(str.strip, text.splitlines()) if line]
    if not texts:
        raise CorpusError(f"{file} has no text; write a text in each line")
    record = read_training_record(model)
    if record is None:
        raise ConfigError(f"{model!r} has no record of its training; name the model folder of a run of this version")
    run = Path(model).expanduser().resolve().parent
    folder = find_store(run, record.store, store)

    from rich.table import Table

    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.training.verify import verify_texts
    from hbt_ray.utils.terminal_table import print_tables

    opened = TokenStore.open(folder)
    tokenizer = record.tokenizer(model, folder, trust_remote_code=trust_remote_code)
    found = verify_texts(record, opened, tokenizer, texts)
    table = Table("text", "verdict", "item", "in", "times", "first step", title=f"{len(found)} texts", highlight=False)
    for one in found:
        first = one.uses[0] if one.uses else None
        shown = one.text if len(one.text) <= 40 else f"{one.text[:39]}…"
        place = "" if first is None else f"{first.place.source} {first.place.language} {first.place.side}"
        step = "" if first is None or first.first_step is None else f"{first.first_step:,}"
        table.add_row(shown, one.verdict, first.item if first else "", place, f"{first.times:,}" if first else "", step)
    print_tables([table])
    trained_on = sum(one.verdict.startswith("trained on") for one in found)
    echo_sentences(
        f"trained on  {trained_on} of {len(found)} texts, in {record.steps:,} steps on the store {record.store}"
    )


@click.command(
    epilog=examples("hbt replay ~/hbt_runs/smoke --step 39", "hbt replay RUN --step 39 --store ~/hbt_runs/stores")
)
@click.argument("run")
@click.option("--step", required=True, type=click.IntRange(0), help="Counted from 0.")
@click.option("--store", help="The store, or a folder of stores. Default: stores next to the run.")
def replay(run: str, step: int, store: str | None) -> None:
    """Compute a step of a run again, and print digests of it.

    RUN is the folder of hbt train. Nothing is written. The digest of the batches is the same on every machine; those of
    weights and gradient are on machines with the same version of torch and the same kind of processor.
    """
    from hbt_ray.config import RunConfig, load
    from hbt_ray.training.run_dir import run_dir_of

    folder = Path(run).expanduser()
    if not (folder / "run.yaml").is_file():
        raise ConfigError(f"{run!r} holds no run.yaml; name the folder of a run of hbt train without `storage`")
    config = load(RunConfig, folder / "run.yaml")
    paths = run_dir_of(config, folder)
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.training.initial_model import find_initial_model
    from hbt_ray.training.replay import replay_step
    from hbt_ray.training.training_record import find_store
    from hbt_ray.utils.digests import done_with

    initial = find_initial_model(config, paths)
    inputs = done_with(paths.inputs)
    if inputs is None:
        raise ConfigError(f"{run!r} has no record of its store; name a run of this version")
    opened = TokenStore.open(find_store(paths.path, inputs["corpora"], store))
    found = replay_step(config, paths, initial, opened, step)
    click.echo(f"step      {found.step}, from the checkpoint of step {found.checkpoint}; loss {found.loss:.6f}")
    click.echo(f"batches   {found.batches}\nweights   {found.weights}\ngradient  {found.gradient}")
