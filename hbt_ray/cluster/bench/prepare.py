"""Speed of `hbt prepare`, against `datasets`, which tokenizes and saves the same files."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import time
from pathlib import Path

from hbt_ray.bench.fixtures import bench_encoder
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import scratch_folder
from hbt_ray.cluster.bench.peak_memory import all_processes, peak_mib
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import CorpusConfig, ModelConfig, PrepareConfig, PrepareInputs, RunConfig
from hbt_ray.utils.process import run_in_subprocess

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
REAL_CORPUS = "docs-parallel/courses"  # in the folder HBT_DATA: parallel sections in 55 languages
BASELINE_PROCESSES = 2


def bench_prepare(settings: BenchSettings) -> BenchResult:
    """Compare rows per second with `datasets`, which reads, tokenizes and saves the same rows.

    `hbt prepare` also normalizes, checks, decontaminates, finds repeated items and aligns languages. Detail
    `rows_per_s_of_a_quarter`: its speed with a quarter of the items, which shows work that grows faster than they do.
    """
    connect()
    items = 40 if settings.quick else 1_800
    with scratch_folder(settings.out / "prepare") as scratch:
        model = bench_encoder(settings.model, scratch, quick=settings.quick)
        corpora = {divisor: write_corpus(scratch / f"corpus-{divisor}", items // divisor) for divisor in (1, 4)}
        evaluation_sets: dict[str, str | None] = {"xquad-r": settings.xquad} if settings.xquad else {}
        ours: dict[int, list[float]] = {divisor: [] for divisor in corpora}
        baseline, peaks, baseline_peaks = [], [], []
        if not settings.quick:
            prepare(_inputs(corpora[4][0], model, evaluation_sets), scratch / "warm-up")
        for number in range(settings.rounds):
            for divisor, (folder, rows) in corpora.items():
                with peak_mib(all_processes) as peak:
                    began_s = time.perf_counter()
                    prepare(_inputs(folder, model, evaluation_sets), scratch / f"stores-{divisor}-{number}")
                    ours[divisor].append(rows / (time.perf_counter() - began_s))
                peaks.append(peak[0])
            folder, rows = corpora[1]
            seconds, mib = run_in_subprocess(_prepare_with_datasets, folder, model, scratch / f"datasets-{number}")
            baseline.append(rows / seconds)
            baseline_peaks.append(mib)
    details = {
        "peer_is": f"datasets map with {BASELINE_PROCESSES} processes",
        "rows": corpora[1][1],
        "rows_of_a_quarter": corpora[4][1],
        "rows_per_s_of_a_quarter": sorted(ours[4])[len(ours[4]) // 2],
        "evaluation_sets": list(evaluation_sets),
        "peak_mib": max(peaks),  # of the largest process
        "peer_peak_mib": max(baseline_peaks),
    }
    return summarize_rounds(ours[1], baseline, "rows/s", details)


def write_corpus(folder: Path, items: int) -> tuple[Path, int]:
    """Write a JSON Lines file of parallel items for each language: of REAL_CORPUS if it exists, otherwise random words.

    Returns:
        The folder, and the number of rows in all files.
    """
    folder.mkdir()
    real = Path(os.environ.get("HBT_DATA", "")) / REAL_CORPUS
    rows = 0
    if os.environ.get("HBT_DATA") and real.is_dir():
        for file in sorted(real.glob("*.jsonl.gz")):
            with gzip.open(file, "rt", encoding="utf-8") as opened:
                first = list(itertools.islice(opened, items))
            (folder / file.name.removesuffix(".gz")).write_text("".join(first), encoding="utf-8")
            rows += len(first)
        return folder, rows
    for language in LANGUAGES:
        draw = random.Random(language)
        lines = [json.dumps(_row(draw, item)) + "\n" for item in range(items)]
        (folder / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")
        rows += len(lines)
    return folder, rows


def _row(draw: random.Random, item: int) -> dict[str, str]:
    words = [f"w{draw.randrange(20_000)}" for _ in range(10 + draw.randrange(40, 160))]
    return {"id": f"item-{item}", "question": " ".join(words[:10]), "context": " ".join(words[10:])}


def _inputs(corpus: Path, model: str, evaluation_sets: dict[str, str | None]) -> PrepareInputs:
    config = RunConfig(
        corpora=(CorpusConfig(format="jsonl", path=str(corpus)),),
        prepare=PrepareConfig(evaluation_sets=evaluation_sets, max_reject_share=0.2),
        model=ModelConfig(path=model),
    )
    return config.prepare_inputs


def _prepare_with_datasets(corpus: Path, model: str, scratch: Path) -> tuple[float, float]:
    """Return the seconds, and the peak memory of the largest process in MiB."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes instead
    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenize(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        questions = tokenizer([f"Query: {text}" for text in rows["question"]], truncation=True, max_length=64)
        passages = tokenizer([f"Passage: {text}" for text in rows["context"]], truncation=True, max_length=128)
        return {"query": questions["input_ids"], "passage": passages["input_ids"]}

    with peak_mib(all_processes) as peak:
        began_s = time.perf_counter()
        files = sorted(str(file) for file in corpus.glob("*.jsonl"))
        read = datasets.Dataset.from_json(files, cache_dir=str(scratch / "cache"))
        mapped = read.map(tokenize, batched=True, num_proc=BASELINE_PROCESSES, remove_columns=read.column_names)
        mapped.save_to_disk(scratch / "saved")
        seconds = time.perf_counter() - began_s
    return seconds, peak[0]
