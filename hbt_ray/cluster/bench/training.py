"""Training speed on Ray: without Ray, two workers against one, the rows of the vocabulary, and reproducible sums."""

from __future__ import annotations

import shutil
from pathlib import Path

from hbt_ray.bench.fixtures import E5_SMALL, MINILM, VOCABULARY, TextTokens, bench_encoder, write_synthetic_store
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import peak_mib, scratch_folder
from hbt_ray.cluster.resources import resources_per_worker
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.training.driver import train
from hbt_ray.config import ModelConfig, RunConfig, SmallEncoderConfig, TextConfig, TrainConfig, replace_in
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.process import run_in_subprocess

PAIRS = 32
TOKENS = TextTokens(question=40, passage=80)  # the means of XQuAD-R's pairs by MiniLM's vocabulary
ITEMS = 4_000
XQUAD_ROWS = 51_742  # of multilingual-e5-small's vocabulary that XQuAD-R's tokens have, in its eleven languages


def bench_train_under_ray(settings: BenchSettings) -> BenchResult:
    """Compare steps per second of `hbt train` with one worker with those of the same loop on ready-made batches.

    Both have the same threads, batches, model and precision. Only the time under Ray includes the feed and reporting.
    """
    connect()
    with scratch_folder(settings.out / "train_under_ray") as scratch:
        runner = _TrainRunner(settings, scratch, model=settings.model)
        config = runner.config(workers=1, threads=None)
        threads = int(resources_per_worker(config.train)["CPU"])
        under_ray, without_ray, peaks = [], [], []
        for _ in range(settings.rounds):
            steps_per_s, peak_mib = run_in_subprocess(
                _train_without_ray, config, runner.store, runner.model, threads, runner.warm_up
            )
            without_ray.append(steps_per_s)
            peaks.append(peak_mib)
            under_ray.append(runner.steps_per_s(config))
    details = runner.details | {"peer_is": "the same loop without Ray", "threads": threads, "peer_peak_mib": max(peaks)}
    return summarize_rounds(under_ray, without_ray, "steps/s", details)


def bench_two_workers(settings: BenchSettings) -> BenchResult:
    """Compare pairs per second of two DDP workers of one thread each with those of one worker of two threads."""
    connect()
    with scratch_folder(settings.out / "two_workers") as scratch:
        runner = _TrainRunner(settings, scratch, model=settings.model)
        with_two, with_one = runner.alternate(runner.config(workers=2, threads=1), runner.config(workers=1, threads=2))
    details = runner.details | {"peer_is": "one worker of two threads"}
    return summarize_rounds(_pairs_per_s(with_two), _pairs_per_s(with_one), "pairs/s", details)


def bench_vocabulary_step(settings: BenchSettings) -> BenchResult:
    """Compare the seconds of a step of two DDP workers with the rows that occur and with all rows, all exchanged.

    Texts are random ids of as many rows as XQuAD-R has in its eleven languages.
    """
    connect()
    with scratch_folder(settings.out / "vocabulary_step") as scratch:
        runner = _TrainRunner(settings, scratch, model=settings.multilingual, shape=E5_SMALL, rows=XQUAD_ROWS, steps=30)
        usual = runner.config(workers=2, threads=1)
        dense = replace_in(replace_in(usual, "train.vocabulary", "all"), "train.embedding_gradient", "all")
        occurring, every = runner.alternate(usual, dense)
    details = runner.details | {"peer_is": "the same with all rows of the word embeddings, exchanged by DDP"}
    return summarize_rounds([1 / speed for speed in occurring], [1 / speed for speed in every], "s", details)


def bench_reproducible(settings: BenchSettings) -> BenchResult:
    """Compare pairs per second of two DDP workers with `train.reproducible` with those of the same two without."""
    connect()
    with scratch_folder(settings.out / "reproducible") as scratch:
        runner = _TrainRunner(settings, scratch, model=settings.model)
        usual = runner.config(workers=2, threads=1)
        reproducible, without = runner.alternate(replace_in(usual, "train.reproducible", True), usual)
    details = runner.details | {"peer_is": "the same two workers without train.reproducible"}
    return summarize_rounds(_pairs_per_s(reproducible), _pairs_per_s(without), "pairs/s", details)


def _pairs_per_s(steps_per_s: list[float]) -> list[float]:
    return [PAIRS * speed for speed in steps_per_s]


class _TrainRunner:
    """A store and an encoder in a scratch folder, and training runs on them."""

    def __init__(
        self,
        settings: BenchSettings,
        scratch: Path,
        *,
        model: str | None,
        shape: SmallEncoderConfig = MINILM,
        rows: int = VOCABULARY,
        steps: int = 60,
    ) -> None:
        """Write the store and, without a model, a random encoder.

        Args:
            settings: of the benchmark.
            scratch: a folder that is deleted afterwards.
            model: folder or hub name of the encoder; None: a random one of `shape`.
            shape: of a random encoder.
            rows: of the vocabulary that occur in the store; an eighth of them if `settings.quick`.
            steps: of a run; 12 if `settings.quick`. The first quarter does not count: Ray still starts processes.
        """
        quick = settings.quick
        self.scratch, self.rounds = scratch, settings.rounds
        self.steps = 12 if quick else steps
        self.warm_up = self.steps // 4
        self.model = bench_encoder(model, scratch, quick=quick, shape=shape)
        self.store = write_synthetic_store(scratch / "store", ITEMS, TOKENS, vocabulary=rows // 8 if quick else rows)
        self._runs = 0

    @property
    def details(self) -> dict[str, object]:
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

    def alternate(self, ours: RunConfig, baseline: RunConfig) -> tuple[list[float], list[float]]:
        """Return the steps per second of both in each round; which one begins alternates."""
        speeds: tuple[list[float], list[float]] = [], []
        for number in range(self.rounds):
            for index in (1, 0) if number % 2 else (0, 1):
                speeds[index].append(self.steps_per_s((ours, baseline)[index]))
        return speeds

    def steps_per_s(self, config: RunConfig) -> float:
        """Train, and return the steps per second after the warm-up, from the metrics that `train` reports."""
        step_s: dict[int, float] = {}

        def on_metrics(step: int, metrics: dict[str, float]) -> None:
            if "train/pairs_per_s" in metrics:
                step_s[step] = PAIRS / metrics["train/pairs_per_s"]

        self._runs += 1
        folder = run_dir_of(config, self.scratch / f"run-{self._runs}")
        train(config, self.store, self.model, folder, on_metrics)
        shutil.rmtree(folder.path)
        counted = [seconds for step, seconds in step_s.items() if step > self.warm_up]
        return len(counted) / sum(counted)


def _train_without_ray(
    config: RunConfig, store_folder: Path, model: str, threads: int, warm_up: int
) -> tuple[float, float]:
    """Return the steps per second of a plain loop, and this process's peak memory in MiB."""
    import time

    import torch

    from hbt_ray.models.encoder import load_for_training
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

    torch.set_num_threads(threads)
    store = TokenStore.open(store_folder)
    sampler = training_sampler(config, store.manifest)
    batches = [build_batch(sampler.batch(step), store) for step in range(config.train.steps)]
    encoder = load_for_training(config.model, config.text, model)
    trainer = ContrastiveTrainer(encoder, config.train, seed=config.seed, loss=config.loss)
    for step in range(warm_up):
        trainer.step(step, [batches[step]])
    began_s = time.perf_counter()
    for step in range(warm_up, config.train.steps):
        trainer.step(step, [batches[step]])
    seconds = time.perf_counter() - began_s
    return (config.train.steps - warm_up) / seconds, peak_mib()
