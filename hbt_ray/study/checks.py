"""What a study needs, read and checked before any work; no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from hbt_ray.config import absolute_path, replace_in, with_absolute_paths
from hbt_ray.data.corpora import list_shards
from hbt_ray.debiasing.fitting_texts import check_several_languages
from hbt_ray.evaluation.report import markdown_table
from hbt_ray.evaluation.retrieval_metrics import judged_queries
from hbt_ray.evaluation.run_evaluation import check_benchmarks
from hbt_ray.study.config import StudyConfig, without_absent_benchmarks
from hbt_ray.study.experiments import Experiment, list_experiments
from hbt_ray.study.results import check_measures
from hbt_ray.study.synthetic_benchmarks import make_benchmark
from hbt_ray.utils.file_names import word_name


@dataclass(frozen=True, slots=True)
class CheckedStudy:
    """A study whose benchmarks and corpora are there."""

    config: StudyConfig  # with absolute paths, and with the benchmarks that were made
    experiments: list[Experiment]
    absent_benchmarks: tuple[str, ...]  # optional ones that are left out
    queries: dict[str, int]  # of each benchmark, the perturbed ones included
    corpora: dict[str, tuple[int, int | None]]  # name -> files, languages; None: rows name them


def check_study(config: StudyConfig, folder: Path) -> CheckedStudy:
    """Make the benchmarks of a study, and check everything that needs no cluster, model or network.

    1. Leave out the optional benchmarks whose folder does not exist, with their metrics.
    2. List the files of the corpora.
    3. Write the benchmarks that are made from a corpus.
    4. Look for several languages in the corpora of methods that are debiased.
    5. Read every benchmark, and compute every metric from its judgements.

    Args:
        config: of the study.
        folder: to write benchmarks to.

    Raises:
        ConfigError: a setting or metric is wrong.
        CorpusError: a corpus or benchmark cannot be read.
    """
    # 1. Optional benchmarks
    config, absent = without_absent_benchmarks(config)
    # 2. Corpora
    corpora = {}
    for corpus in config.run.corpora:
        shards = list_shards(corpus)
        languages = {shard.language for shard in shards}
        corpora[corpus.name] = len(shards), None if None in languages else len(languages)
    # 3. Benchmarks made from a corpus
    config = _with_made_benchmarks(config, folder)
    experiments = list_experiments(config, config.run.evaluate.benchmarks)
    # 4. Languages to remove
    for one in experiments:
        if one.method.debiased and one.seed == config.seeds[0]:
            check_several_languages({shard.language for corpus in one.config.corpora for shard in list_shards(corpus)})
    # 5. Metrics
    judged: dict[str, pa.Table] = {}
    check_benchmarks(config.run.evaluate, lambda benchmark: judged.update({benchmark.name: judged_queries(benchmark)}))
    check_measures(config, judged)
    queries = {name: len(set(table["query_id"].to_pylist())) for name, table in judged.items()}
    return CheckedStudy(config, experiments, tuple(absent), queries, corpora)


def describe_study(checked: CheckedStudy) -> list[str]:
    """Return what a study is going to do, as Markdown: its corpora, benchmarks and methods."""
    config = checked.config
    corpora = [
        [name, f"{files:,}", "named by rows" if languages is None else str(languages)]
        for name, (files, languages) in checked.corpora.items()
    ]
    benchmarks = [[name, f"{queries:,}"] for name, queries in checked.queries.items()]
    benchmarks += [[name, "not there, left out"] for name in checked.absent_benchmarks]
    seeds, methods = ", ".join(map(str, config.seeds)), []
    for name, method in config.methods.items():
        steps = method.settings.get("train.steps", config.run.train.steps)
        trained = f"{steps:,} steps" if not method.tokens_of else f"as many tokens as {method.tokens_of}"
        methods.append([name, seeds, trained if method.trained else "none"])
    return [
        *markdown_table(["corpus", "files", "languages"], corpora),
        "",
        *markdown_table(["benchmark", "queries"], benchmarks),
        "",
        *markdown_table(["method", "seeds", "training"], methods),
        "",
    ]


def _with_made_benchmarks(config: StudyConfig, folder: Path) -> StudyConfig:
    """Return the study with absolute paths, after making its benchmarks and adding them to those evaluated."""
    run = with_absolute_paths(config.run)
    sources = {
        name: replace_in(source, "corpus.path", absolute_path(source.corpus.path))
        for name, source in config.made.items()
    }
    benchmarks = dict(run.evaluate.benchmarks)
    for name, source in sources.items():
        path = folder / "benchmarks" / word_name(name)
        make_benchmark(name, source, path)
        benchmarks[name] = str(path)
    config = replace_in(config, "run", replace_in(run, "evaluate.benchmarks", benchmarks))
    return replace_in(config, "made", sources)
