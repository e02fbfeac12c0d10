"""How fast `hbt train` trains: against the same loop without Ray, and in two processes against one."""

from __future__ import annotations

import shutil
from pathlib import Path

from hbt_ray.bench.encoder import encoder_to_measure
from hbt_ray.bench.own_process import run_in_subprocess
from hbt_ray.bench.result import BenchResult, of_rounds
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.synthetic import TextTokens, write_synthetic_store
from hbt_ray.bench.timing import peak_mib
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.training.driver import resources_per_worker, train
from hbt_ray.config import ModelConfig, RunConfig, TextConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.run_dir import run_dir_of, training_sampler

PAIRS = 32
TOKENS = TextTokens(question=40, passage=80)  # as many as XQuAD-R's pairs have by MiniLM's vocabulary
ITEMS = 4_000


def train_under_ray(settings: BenchSettings) -> BenchResult:
    """Steps per second of `hbt train` with one worker, over those of the same loop on ready-made batches.

    Both have the same threads, batches, model and precision. Ray's share includes the feed and every report.
    """
    connect()
    with scratch_folder(settings.out / "train_under_ray") as scratch:
        work = _Work(settings, scratch)
        config = work.config(workers=1, threads=None)
        threads = int(resources_per_worker(config.train)["CPU"])
        under_ray, bare, peaks = [], [], []
        for _ in range(settings.rounds):
            steps_per_s, peak_mib = run_in_subprocess(_bare, config, work.store, work.model, threads, work.warm_up)
            bare.append(steps_per_s)
            peaks.append(peak_mib)
            under_ray.append(work.steps_per_s(config))
    details = work.details | {"peer_is": "the same loop without Ray", "threads": threads, "peer_peak_mib": max(peaks)}
    return of_rounds(under_ray, bare, "steps/s", details)


def two_workers(settings: BenchSettings) -> BenchResult:
    """Pairs per second of two DDP workers of one thread each, over those of one worker of two threads."""
    connect()
    with scratch_folder(settings.out / "two_workers") as scratch:
        work = _Work(settings, scratch)
        two, one = work.config(workers=2, threads=1), work.config(workers=1, threads=2)
        by_two, by_one = [], []
        for _ in range(settings.rounds):
            by_one.append(PAIRS * work.steps_per_s(one))
            by_two.append(PAIRS * work.steps_per_s(two))
    return of_rounds(by_two, by_one, "pairs/s", work.details | {"peer_is": "one worker of two threads"})


class _Work:
    """What is trained: a store, an encoder and so many steps."""

    def __init__(self, settings: BenchSettings, scratch: Path) -> None:
        self.scratch = scratch
        self.steps, self.warm_up = (12, 4) if settings.quick else (60, 15)  # Ray goes on starting processes for seconds
        self.model = encoder_to_measure(settings.model, scratch, quick=settings.quick)
        self.store = write_synthetic_store(scratch / "store", ITEMS, TOKENS)
        self._rounds = 0

    @property
    def details(self) -> dict[str, int]:
        return {"steps": self.steps - self.warm_up, "pairs": PAIRS, "tokens_per_pair": sum(TOKENS)}

    def config(self, *, workers: int, threads: int | None) -> RunConfig:
        return RunConfig(
            text=TextConfig(max_query_tokens=64, max_passage_tokens=128),
            model=ModelConfig(path=self.model),
            train=TrainConfig(
                steps=self.steps,
                global_batch_pairs=PAIRS,
                chunk_pairs=PAIRS // 2,
                checkpoint_every=self.steps,
                workers=workers,
                threads_per_worker=threads,
                gpu=False,
            ),
        )

    def steps_per_s(self, config: RunConfig) -> float:
        """Of the steps after the warm-up, as they were measured while `train` went on."""
        step_s: dict[int, float] = {}

        def on_metrics(step: int, metrics: dict[str, float]) -> None:
            if "train/pairs_per_s" in metrics:
                step_s[step] = PAIRS / metrics["train/pairs_per_s"]

        self._rounds += 1
        folder = run_dir_of(config, self.scratch / f"run-{self._rounds}")
        train(config, self.store, self.model, folder, on_metrics)
        shutil.rmtree(folder.path)
        counted = [seconds for step, seconds in step_s.items() if step > self.warm_up]
        return len(counted) / sum(counted)


def _bare(config: RunConfig, store_folder: Path, model: str, threads: int, warm_up: int) -> tuple[float, float]:
    """Steps per second without Ray, and the most MiB that the process held."""
    import time

    import torch

    from hbt_ray.models.encoder import load_for_training
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

    torch.set_num_threads(threads)
    store = TokenStore.open(store_folder)
    plan = training_sampler(config, store.manifest)
    batches = [build_batch(plan.batch(step), store) for step in range(config.train.steps)]
    encoder = load_for_training(config.model, config.text, model)
    trainer = ContrastiveTrainer(encoder, config.train, seed=config.seed, loss=config.loss)
    for step in range(warm_up):
        trainer.step(step, [batches[step]])
    began_s = time.perf_counter()
    for step in range(warm_up, config.train.steps):
        trainer.step(step, [batches[step]])
    seconds = time.perf_counter() - began_s
    return (config.train.steps - warm_up) / seconds, peak_mib()
