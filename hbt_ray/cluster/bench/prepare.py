"""How fast corpora become a store, against `datasets` that tokenizes the same files and saves them."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray

from hbt_ray.bench.own_process import run_in_subprocess
from hbt_ray.bench.result import BenchResult, of_rounds
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.cluster.prepare import prepare as prepare_store
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import CorpusConfig, ModelConfig, PrepareConfig, RunConfig

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
REAL = "docs-parallel/courses"  # below the folder that HBT_DATA names: parallel sections in 55 languages
PROCESSES = 2  # of the peer
SAMPLE_EVERY_S = 0.2


def prepare(settings: BenchSettings) -> BenchResult:
    """Rows per second of `hbt prepare`, over those of `datasets`, which reads, tokenizes and saves the same rows.

    `hbt prepare` also cleans, checks, compares with evaluation sets, finds repeated items and aligns languages. In the
    details the same of a quarter of the items, for what grows faster than they do.
    """
    from hbt_ray.bench.encoder import encoder_to_measure  # brings torch, which the peer's process does without

    connect()
    items = 40 if settings.quick else 1_800
    with scratch_folder(settings.out / "prepare") as scratch:
        model = encoder_to_measure(settings.model, scratch, quick=settings.quick)
        corpora = {share: write_corpus(scratch / f"corpus-{share}", items // share) for share in (1, 4)}
        evaluation_sets: dict[str, str | None] = {"xquad-r": settings.xquad} if settings.xquad else {}
        ours: dict[int, list[float]] = {share: [] for share in corpora}
        theirs, peaks, their_peaks = [], [], []
        if not settings.quick:
            prepare_store(_config(corpora[4][0], model, evaluation_sets), scratch / "warm-up")
        for number in range(settings.rounds):
            for share, (folder, rows) in corpora.items():
                with _peak_mib() as peak:
                    began_s = time.perf_counter()
                    prepare_store(_config(folder, model, evaluation_sets), scratch / f"stores-{share}-{number}")
                    ours[share].append(rows / (time.perf_counter() - began_s))
                peaks.append(peak[0])
            folder, rows = corpora[1]
            seconds, mib = run_in_subprocess(_with_datasets, folder, model, scratch / f"datasets-{number}")
            theirs.append(rows / seconds)
            their_peaks.append(mib)
    details = {
        "peer_is": f"datasets map with {PROCESSES} processes",
        "rows": corpora[1][1],
        "rows_of_a_quarter": corpora[4][1],
        "rows_per_s_of_a_quarter": sorted(ours[4])[len(ours[4]) // 2],
        "evaluation_sets": list(evaluation_sets),
        "peak_mib": max(peaks),  # of the largest process
        "peer_peak_mib": max(their_peaks),
    }
    return of_rounds(ours[1], theirs, "rows/s", details)


def write_corpus(folder: Path, items: int) -> tuple[Path, int]:
    """JSON Lines files of parallel items by language, real ones where there are some; the folder and all rows in it."""
    folder.mkdir()
    real = Path(os.environ.get("HBT_DATA", "")) / REAL
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


def _config(corpus: Path, model: str, evaluation_sets: dict[str, str | None]) -> RunConfig:
    return RunConfig(
        corpora=(CorpusConfig(format="jsonl", path=str(corpus)),),
        prepare=PrepareConfig(evaluation_sets=evaluation_sets, max_reject_share=0.2),
        model=ModelConfig(path=model),
    )


def _with_datasets(corpus: Path, model: str, scratch: Path) -> tuple[float, float]:
    """Seconds, and the most MiB that its largest process held."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes instead
    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenize(rows: dict[str, list[str]]) -> dict[str, Any]:
        questions = tokenizer([f"Query: {text}" for text in rows["question"]], truncation=True, max_length=64)
        passages = tokenizer([f"Passage: {text}" for text in rows["context"]], truncation=True, max_length=128)
        return {"query": questions["input_ids"], "passage": passages["input_ids"]}

    with _peak_mib() as peak:
        began_s = time.perf_counter()
        files = sorted(str(file) for file in corpus.glob("*.jsonl"))
        read = datasets.Dataset.from_json(files, cache_dir=str(scratch / "cache"))
        mapped = read.map(tokenize, batched=True, num_proc=PROCESSES, remove_columns=read.column_names)
        mapped.save_to_disk(scratch / "saved")
        seconds = time.perf_counter() - began_s
    return seconds, peak[0]


@contextlib.contextmanager
def _peak_mib() -> Iterator[list[float]]:
    """The most MiB that this process, one below it or, where there is a cluster, one of its workers held."""
    peak, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], max(map(_held_mib, _processes())))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    found = [own, *own.children(recursive=True)]
    if ray.is_initialized():
        session = ray._private.worker.global_worker.node.session_name
        raylets = [p for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] == "raylet"]
        for raylet in raylets:
            if any(session in word for word in raylet.info["cmdline"] or ()):
                found += raylet.children(recursive=True)
    return found


def _held_mib(process: psutil.Process) -> float:
    try:
        held = process.memory_info()
    except psutil.Error:  # it has ended
        return 0.0
    return (held.rss - held.shared) / 2**20  # without the object store, which all of them map
