"""Speed of `hbt prepare` on many short rows, against its speed on fewer: a ratio of 1 is linear time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import scratch_folder
from hbt_ray.cluster.bench.peak_memory import peak_mib, private_mib, this_process
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import CorpusConfig, PrepareConfig, PrepareInputs, RunConfig
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.row_tables import read_rows
from hbt_ray.data.store_inputs import index_evaluation_sets, load_evaluation_sets
from hbt_ray.data.text_normalization import clean_row, normalize_for_matching
from hbt_ray.data.types import CorpusRow
from hbt_ray.utils.machine import count_cpus

ROWS = (100_000, 300_000)
QUICK_ROWS = (200, 600)
LANGUAGES = ("de", "en", "es", "hi", "zh")
QUESTION_WORDS, PASSAGE_WORDS, WORDS = 8, 24, 20_000
SAMPLED_ROWS = 5_000  # in this process, to divide the time of reading


def bench_prepare_scale(settings: BenchSettings) -> BenchResult:
    """Compare the rows per second of a corpus of short texts with those of a third of it.

    A tokenizer is trained, because that once took all texts to the driver. Details: rows per second and core; seconds
    of each stage of the larger corpus; the driver's peak memory above what earlier parts have left; and microseconds of
    one core for each row of what the stage "read" does.
    """
    connect()
    [driver] = this_process()
    sizes, rounds = (QUICK_ROWS, 1) if settings.quick else (ROWS, settings.rounds)
    rates: dict[int, list[float]] = {rows: [] for rows in sizes}
    stages: dict[str, float] = {}
    peaks: dict[int, float] = {}
    with scratch_folder(settings.out / "prepare_scale") as scratch:
        corpora = {rows: write_corpus(scratch / f"rows-{rows}", rows) for rows in sizes}
        for number in range(rounds):
            for rows, corpus in corpora.items():
                stages, held_mib = {}, private_mib(driver)
                with peak_mib(this_process) as peak:
                    began_s = time.perf_counter()
                    stores = scratch / f"stores-{rows}-{number}"
                    prepare(_inputs(corpus, settings), stores, on_stage=stages.__setitem__)
                    rates[rows].append(rows / (time.perf_counter() - began_s))
                peaks[rows] = max(peaks.get(rows, 0.0), peak[0] - held_mib)
        of_reading = read_microseconds(_inputs(corpora[sizes[-1]], settings), min(SAMPLED_ROWS, sizes[0]))
    small, large = rates.values()
    details = {
        "peer_is": f"hbt prepare with {sizes[0]:,} rows",
        "rows": sizes[-1],
        "rows_per_s_and_core": sorted(large)[len(large) // 2] / count_cpus().ray,
        "evaluation_sets": [settings.xquad] if settings.xquad else [],
        "stages_s": stages,
        "read_us_per_row": of_reading,
        "driver_added_mib": {str(rows): mib for rows, mib in peaks.items()},
    }
    return summarize_rounds(large, small, "rows/s", details)


def write_corpus(folder: Path, rows: int) -> Path:
    """Write a JSON Lines file of parallel items of random words for each of LANGUAGES; return their folder."""
    folder.mkdir()
    for language in LANGUAGES:
        draw = random.Random(language)
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for item in range(rows // len(LANGUAGES)):
                words = [f"w{number}" for number in draw.choices(range(WORDS), k=QUESTION_WORDS + PASSAGE_WORDS)]
                question, passage = " ".join(words[:QUESTION_WORDS]), " ".join(words[QUESTION_WORDS:])
                file.write(json.dumps({"id": f"item-{item}", "question": question, "context": passage}) + "\n")
    return folder


def _inputs(corpus: Path, settings: BenchSettings) -> PrepareInputs:
    evaluation_sets: dict[str, str | None] = {"xquad-r": settings.xquad} if settings.xquad else {}
    config = RunConfig(
        corpora=(CorpusConfig(format="jsonl", path=str(corpus)),),
        prepare=PrepareConfig(evaluation_sets=evaluation_sets),
    )
    return config.prepare_inputs


def read_microseconds(inputs: PrepareInputs, rows: int) -> dict[str, float]:
    """Return the microseconds of one core for each row of parsing, cleaning, decontamination, and the rest of reading.

    Args:
        inputs: of a store.
        rows: of its first shard to read.
    """
    [shard, *_] = list_shards(inputs.corpora[0])
    index = index_evaluation_sets(load_evaluation_sets(inputs), inputs.prepare.near_duplicate_threshold)
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[[], object]) -> None:
        began_s = time.process_time()
        function()
        spent[name] = 1e6 * (time.process_time() - began_s) / len(read)

    read = [row for row, _ in zip(read_shard(shard), range(rows), strict=False) if isinstance(row, CorpusRow)]
    timed("parse", lambda: [row for row, _ in zip(read_shard(shard), range(rows), strict=False)])
    timed("clean", lambda: list(map(clean_row, read)))
    texts = [normalize_for_matching(text) for row in read for text in (row.question or "", row.passage)]
    timed("decontaminate", lambda: index.find_all(texts) if index else None)
    began_s = time.process_time()
    done = sum(table.num_rows for table in read_rows([shard], index))
    spent["rest"] = 1e6 * (time.process_time() - began_s) / done - sum(spent.values())
    return spent
