"""The command bench."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hbt_ray.cli.options import examples, out_folder, out_option
from hbt_ray.errors import ConfigError, UserError


@click.command(epilog=examples("hbt bench --quick", "hbt bench --part train_step --part feed --rounds 9"))
@click.option("--part", "parts", multiple=True, metavar="NAME", help="Repeatable. Default: all.")
@click.option("--list", "lists", is_flag=True, help="Name all parts, and measure nothing.")
@out_option("Folder for bench.json", "bench")
@click.option("--model", help="Folder or hub name of the encoder. Default: a random one of MiniLM's size.")
@click.option(
    "--multilingual",
    help="The same for encoders of many languages. Default: a random one of multilingual-e5-small's size.",
)
@click.option(
    "--xquad", type=click.Path(), help="Folder of XQuAD-R. Default: random texts or vectors of the same number."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of each contestant, alternating.")
@click.option(
    "--quick", is_flag=True, help="Small sizes, so that every part ends in seconds: a check, not a measurement."
)
@click.option(
    "--assume", multiple=True, metavar="KEY=NUMBER", help="In the part scale, such as between_nodes_gbit_s=100."
)
def bench(
    parts: Sequence[str],
    lists: bool,
    out: str | None,
    model: str | None,
    multilingual: str | None,
    xquad: str | None,
    rounds: int,
    quick: bool,
    assume: Sequence[str],
) -> None:
    """Measure speed and memory, each against a baseline.

    Writes bench.json: value, unit, peer (the baseline), ratio, spread and details of every part. Results of other
    parts from earlier runs are kept.
    """
    from hbt_ray.bench.registry import BENCHES, BenchSettings, check_parts, run_parts
    from hbt_ray.bench.scaling_model import format_predictions, override_assumptions

    if lists:
        click.echo("\n".join(BENCHES))
        return
    check_parts(parts)
    folder = out_folder(out, "bench").resolve()
    assumed = dict(_parse_assumption(option) for option in assume)
    override_assumptions(assumed)
    settings = BenchSettings(folder, model, xquad, rounds, quick, multilingual, assumed)
    outcome = run_parts(parts, settings, click.echo)
    if "scale" in outcome.results:
        from hbt_ray.utils.terminal_table import print_tables

        print_tables([format_predictions(outcome.results["scale"])])
    click.echo(f"results  {folder / 'bench.json'}")
    if outcome.failed:
        raise UserError(f"no result of {', '.join(outcome.failed)}; see above")


def _parse_assumption(option: str) -> tuple[str, float]:
    """Parse an --assume, KEY=NUMBER; raise ConfigError if the value is not a number."""
    key, _, value = option.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise ConfigError(f"--assume {option!r} is no number; write KEY=NUMBER, such as pairs_per_gpu=64") from None
