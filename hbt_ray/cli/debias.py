"""The command that removes the language from an encoder's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hbt_ray.cli.evaluation import benchmark_folders
from hbt_ray.cli.options import check_corpora, echo_sentences, examples, loading_options
from hbt_ray.config import CorpusConfig, build, load_config


@click.command(
    epilog=examples(
        "hbt debias intfloat/multilingual-e5-small --corpora data/faq --out x",
        "hbt debias ~/hbt_runs/faq/model --corpora faq.yaml --method mean --out x",
        "hbt debias MODEL --corpora data/faq --languages en,de,th \\",
        "    --exclude xquad-r=data/xquad-r --out x",
    )
)
@click.argument("model")
@click.option(
    "--corpora",
    "paths",
    multiple=True,
    required=True,
    help="Folder, file or hub data set, as for hbt inspect; a YAML file of settings; or embedded. Repeatable.",
)
@click.option("--out", required=True, help="Folder for the new model.")
@click.option(
    "--method",
    type=click.Choice(["mean", "projection", "leace"]),
    default="projection",
    help="mean needs the language of each text, which hbt evaluate gives.",
)
@click.option(
    "--items", type=click.IntRange(1), default=2000, show_default=True, help="Items of each language, at most."
)
@click.option("--languages", help="Only these, as en,de,th. Default: all of the corpora.")
@click.option("--rank", type=click.IntRange(1), help="Directions to remove, at most. Default: one less than languages.")
@click.option(
    "--exclude", multiple=True, help="NAME=FOLDER of a benchmark whose texts are not to be fitted on. Repeatable."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice of items.")
@loading_options
def debias(
    model: str,
    paths: Sequence[str],
    out: str,
    method: str,
    items: int,
    languages: str | None,
    rank: int | None,
    exclude: Sequence[str],
    seed: int,
    pooling: str,
    query_prefix: str | None,
    passage_prefix: str | None,
    trust_remote_code: bool,
) -> None:
    """Remove the language from vectors, without training.

    MODEL is a folder or hub name. What is removed is fitted on training texts of the corpora. The new model is the
    baseline for claims on language bias: evaluate it as any other.
    """
    evaluation_sets = benchmark_folders(exclude)
    from hbt_ray.data.model_files import check_model_exists

    check_model_exists(model, "MODEL")
    corpora = [corpus for path in paths for corpus in corpora_at(path, languages)]
    from hbt_ray.debiasing.debias import debias_model

    record = debias_model(
        model,
        corpora,
        out,
        method=method,
        items=items,
        seed=seed,
        rank=rank,
        evaluation_sets=evaluation_sets,
        pooling=pooling,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        trust_remote_code=trust_remote_code,
    )
    removed = f"{record['rank']} directions" if "rank" in record else "the mean of each language and side"
    click.echo(f"removed  {removed}, by {method}")
    echo_sentences(
        f"fitted   on {record['items']:,} items in each of {len(record['languages'])} languages "
        f"({' '.join(record['languages'])}); {record['parallel_items']:,} of them are in all"
    )
    if exclude:
        echo_sentences(
            f"         without {record['items_excluded']:,} items that occur in {', '.join(evaluation_sets)}"
        )
    click.echo(f"model    {Path(out).expanduser()}")


def corpora_at(path: str, languages: str | None = None) -> list[CorpusConfig]:
    """Return the corpora that --corpora names, narrowed to some languages.

    Raises:
        CorpusError: the path holds no known format.
        ConfigError: a YAML file names no corpora, or a language is no code.
    """
    from hbt_ray.data.corpora.detection import detect_corpus

    if path.endswith((".yaml", ".yml")):
        config = load_config(path)
        check_corpora(config)
        corpora = config.corpora
    elif path == "embedded":
        corpora = (CorpusConfig(format="embedded"),)
    else:
        corpora = (detect_corpus(path),)
    if languages is None:
        return list(corpora)
    chosen = tuple(language.strip() for language in languages.split(","))
    return [build(CorpusConfig, {**corpus.model_dump(exclude_unset=True), "languages": chosen}) for corpus in corpora]
