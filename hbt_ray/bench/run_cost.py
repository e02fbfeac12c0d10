"""What a training will cost: hours, memory of a GPU, size of a checkpoint and money, before it runs.

Elsewhere the seconds of a step are those of the analytic model (`scaling_model`), here they are measured.
Legend: n GPUs, P parameters, L layers, D width.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from hbt_ray.bench.scaling_model import Assumptions, predict_step
from hbt_ray.config import RunConfig, replace_in
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import UserError
from hbt_ray.losses.score_tiles import MAX_SCORES
from hbt_ray.models.encoder import default_device
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_batches, training_sampler
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer, build_contrastive_trainer
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.machine import count_cpus
from hbt_ray.utils.process_pool import run_in_processes
from hbt_ray.utils.progress import stage

GIB = 2**30
PROBE_S = 60.0
_MEASURING = "training to measure a step"
_WARM_UP = 2  # steps
_COUNTED_BATCHES = 64  # whose tokens are counted
_OVERHEAD_BYTES = GIB  # of a process on a GPU: context and libraries


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU, by its data sheet."""

    flops: float  # dense bf16, a second
    memory_bytes: float
    memory_bytes_s: float


# NVIDIA's data sheets.
GPUS = {
    "a100": Gpu(312e12, 80e9, 2.0e12),
    "h100": Gpu(989e12, 80e9, 3.35e12),
    "h200": Gpu(989e12, 141e9, 4.8e12),
    "b200": Gpu(2250e12, 180e9, 8.0e12),
    "l4": Gpu(121e12, 24e9, 0.3e12),
    "l40s": Gpu(362e12, 48e9, 0.864e12),
    "a10g": Gpu(70e12, 24e9, 0.6e12),
}
HERE = "here"


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a training will cost. Preparing, starting and evaluating are not part of it."""

    machine: str
    steps: int
    tokens_per_step: float
    parameters: int
    trained_parameters: int
    step_s: float
    source: str  # of the seconds: what was measured or assumed
    validation_s: float  # of all validations
    memory_bytes: float | None  # of each GPU; None: not known
    memory_limit_bytes: float | None
    checkpoint_bytes: float
    workers: int
    price: float | None  # of a GPU for an hour

    @property
    def hours(self) -> float:
        """The hours of the training."""
        return (self.steps * self.step_s + self.validation_s) / 3600

    @property
    def money(self) -> float | None:
        """What all GPUs cost for these hours; None without a price."""
        return None if self.price is None else self.hours * self.workers * self.price


def parse_machine(text: str) -> tuple[int, str]:
    """Parse `8xh100` as 8 GPUs of a kind, and `here` as this machine.

    Raises:
        UserError: it is neither.
    """
    match = re.fullmatch(r"(\d+)x(\w+)", text.lower())
    if text == HERE:
        return 0, HERE
    if match is None or match[2] not in GPUS or not int(match[1]):
        raise UserError(
            f"--on {text} is no machine; write here, or a number and a GPU such as 8xh100: {', '.join(GPUS)}"
        )
    return int(match[1]), match[2]


def estimate_cost(
    config: RunConfig, store: TokenStore, initial_model: str, on: str, price: float | None, probe_s: float = PROBE_S
) -> RunCost:
    """Estimate what a training costs on some GPUs, or on this machine.

    1. Count the tokens of some batches, at equal distances in the training, and the parameters.
    2. Here: train for some seconds. Elsewhere: compute a step's seconds from the GPU's data sheet.

    Args:
        config: of the run. Elsewhere it has a worker for each GPU.
        store: its token store.
        initial_model: folder or hub name of the encoder that it starts from.
        on: see `parse_machine`.
        price: of a GPU for an hour.
        probe_s: seconds to train here.

    Raises:
        UserError: `on` is no machine.
        ConfigError: the encoder cannot be loaded, or the batch cannot be divided among the GPUs.
    """
    gpus, kind = parse_machine(on)
    if gpus:
        config = replace_in(config, "train.workers", gpus)
    train = config.train
    here = kind == HERE
    device = default_device() if here else "cpu"
    trainer = build_contrastive_trainer(config, initial_model, device, store if here else None)
    tokens = _tokens_of_steps(config, store)
    parameters = _count_parameters(trainer.encoder)
    trained = sum(parameter.numel() for parameter in trainer.encoder.parameters() if parameter.requires_grad)
    if here:
        step_s, source = _measure(config, store, initial_model, trainer, float(tokens.mean()), probe_s)
    else:
        step_s, source = _predict(config, trainer, float(tokens.mean()), GPUS[kind])
    validations = -(-train.steps // train.validation_every) if train.validation_every else 0
    # A forward pass is a third of a step.
    validation_s = validations * train.validation_batches * step_s / train.gradient_accumulation / 3
    return RunCost(
        machine=on,
        steps=train.steps,
        tokens_per_step=float(tokens.mean()),
        parameters=parameters,
        trained_parameters=trained,
        step_s=step_s,
        source=source,
        validation_s=validation_s,
        memory_bytes=None if here else _memory_bytes(config, trainer, float(tokens.max()), parameters, trained),
        memory_limit_bytes=None if here else GPUS[kind].memory_bytes,
        checkpoint_bytes=4.0 * (parameters if config.model.lora is None else trained) + 8.0 * trained,
        workers=train.max_workers,
        price=price,
    )


def describe_cost(cost: RunCost) -> Iterator[str]:
    """Yield the lines to print."""
    yield f"on         {cost.machine}, {cost.workers} worker{'s' * (cost.workers != 1)}"
    yield f"steps      {cost.steps:,} of {cost.tokens_per_step:,.0f} tokens"
    yield f"model      {cost.parameters / 1e6:,.1f} million parameters, {cost.trained_parameters / 1e6:,.1f} trained"
    yield f"a step     {cost.step_s:.3g} s, {cost.source}"
    yield f"time       {_duration(cost.hours)} of training, without preparing, starting and evaluating"
    if cost.money is not None:
        yield f"money      {cost.money:,.2f} for {cost.workers} at {cost.price:g} an hour"
    if cost.memory_bytes is not None and cost.memory_limit_bytes is not None:
        fits = "" if cost.memory_bytes <= cost.memory_limit_bytes else ": too much; write train.gradient_caching=true"
        yield f"memory     {cost.memory_bytes / GIB:.1f} of {cost.memory_limit_bytes / GIB:.0f} GiB of a GPU{fits}"
    yield f"checkpoint {cost.checkpoint_bytes / GIB:.2f} GiB each"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} seconds"
    return f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:.1f} hours"


def _tokens_of_steps(config: RunConfig, store: TokenStore) -> np.ndarray:
    """Return the tokens of an optimizer step, estimated from each of some batches."""
    sampler, per_step = training_sampler(config, store.manifest), config.train.gradient_accumulation
    numbers = np.unique(np.linspace(0, config.train.steps * per_step - 1, _COUNTED_BATCHES).astype(np.int64))
    batches = (build_batch(sampler.batch(number), store) for number in numbers.tolist())
    return np.array([per_step * int(one.query_lengths.sum() + one.passage_lengths.sum()) for one in batches])


def _measure(
    config: RunConfig,
    store: TokenStore,
    initial_model: str,
    trainer: ContrastiveTrainer,
    tokens_per_step: float,
    seconds: float,
) -> tuple[float, str]:
    """Train for some seconds; return the seconds of a mean step, and how they were found.

    On CPUs all workers are run, in processes of their own; on a GPU the part of the first one. Seconds are proportional
    to tokens.
    """
    train = config.train
    is_cpu = trainer.encoder.device.type == "cpu"
    cpus, workers = count_cpus().usable, train.max_workers
    threads = train.threads_per_worker or max(cpus // workers if workers > 1 else cpus - 1, 1)
    if is_cpu and workers > 1:
        tokens, spent, counted = _train_together(config, store, initial_model, threads, seconds)
    else:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with stage(_MEASURING, round(seconds), "s") as shown:
                tokens, spent, counted = _train(config, store, trainer, 0, seconds, shown.move_to)
        finally:
            torch.set_num_threads(before)
    step_s = spent / tokens * tokens_per_step / workers
    unit = f"{threads} thread{'s' * (threads != 1)}" if is_cpu else "this GPU"
    together = f" in each of {workers} workers" if is_cpu and workers > 1 else ""
    return step_s, f"measured over {counted:,} steps with {unit}{together}"


def _train_together(
    config: RunConfig, store: TokenStore, initial_model: str, threads: int, seconds: float
) -> tuple[int, float, int]:
    """Run `_train` in a process for each worker; return what the first one does."""
    with tempfile.TemporaryDirectory() as folder:
        given = (config, store.folder, initial_model, threads, seconds, folder)
        ranks = [(f"rank {rank}", _train_rank, (rank, *given)) for rank in range(config.train.max_workers)]
        for _ in run_in_processes(ranks, _MEASURING, len(ranks)):
            pass
        tokens, spent, counted = load_json(Path(folder, "measured.json").read_text())
    return tokens, spent, counted


def _train_rank(
    rank: int, config: RunConfig, store: Path, initial_model: str, threads: int, seconds: float, folder: str
) -> None:
    """Run `_train` as a rank of a process group; the first rank writes what it returns to `measured.json` in `folder`.

    The trainer is freed before the group is left. DDP would destroy the group otherwise, and with it wait for gloo's
    threads while it holds the GIL, for which a thread that frees its last tensors may wait.
    """
    torch.set_num_threads(threads)
    ranks = config.train.max_workers
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=ranks)
    measured = _train_in_group(rank, config, TokenStore.open(store), initial_model, seconds)
    torch.distributed.destroy_process_group()
    if rank == 0:
        Path(folder, "measured.json").write_text(json.dumps(measured))


def _train_in_group(
    rank: int, config: RunConfig, store: TokenStore, initial_model: str, seconds: float
) -> tuple[int, float, int]:
    trainer = build_contrastive_trainer(config, initial_model, "cpu", store)
    return _train(config, store, trainer, rank, seconds, lambda _: None)


def _train(
    config: RunConfig,
    store: TokenStore,
    trainer: ContrastiveTrainer,
    rank: int,
    seconds: float,
    show: Callable[[int], object],
) -> tuple[int, float, int]:
    """Train a rank's part until the first rank has trained for some seconds.

    Returns:
        The rank's tokens, the seconds and the number of its steps, without the first ones.
    """
    train, per_step = config.train, config.train.gradient_accumulation
    batches_of_all = training_batches(config, store, range(train.steps * per_step), rank, train.max_workers)
    tokens, spent, counted = 0, 0.0, 0
    began = time.monotonic()
    for step in range(train.steps):
        batches = list(itertools.islice(batches_of_all, per_step))
        step_began = time.monotonic()
        trainer.step(step, batches)
        if trainer.encoder.device.type == "cuda":
            torch.cuda.synchronize()
        if step >= min(_WARM_UP, train.steps - 1):
            spent += time.monotonic() - step_began
            tokens += sum(int(one.query_lengths.sum() + one.passage_lengths.sum()) for one in batches)
            counted += 1
        show(min(round(time.monotonic() - began), round(seconds)))
        has_ended = torch.tensor([float(counted > 0 and time.monotonic() - began > seconds)])
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(has_ended, 0)
        if has_ended:
            break
    return tokens, spent, counted


def _predict(config: RunConfig, trainer: ContrastiveTrainer, tokens_per_step: float, gpu: Gpu) -> tuple[float, str]:
    """Return the seconds of a step by the analytic model, and its assumptions.

    The model has encoders of 12 D^2 parameters in a layer; another one counts as the number of such layers that has as
    many parameters outside its embeddings. Gradient caching or checkpointing adds a forward pass, a third; so does the
    teacher of a distillation, of its own size.
    """
    train, default = config.train, Assumptions()
    recomputed = 4 / 3 if train.gradient_caching or train.gradient_checkpointing else 1.0
    given = _with_shape_of(
        trainer.encoder,
        Assumptions(
            pairs_per_gpu=train.global_batch_pairs / train.max_workers,
            tokens_per_pair=tokens_per_step / train.gradient_accumulation / train.global_batch_pairs,
            gpu_flops=gpu.flops,
            utilisation=default.utilisation / recomputed,
            memory_bytes_s=gpu.memory_bytes_s,
        ),
    )
    predicted = predict_step(given, train.max_workers)
    seconds = train.gradient_accumulation * predicted.compute_s + predicted.optimizer_s
    seconds += predicted.gradients_s + train.gradient_accumulation * predicted.negatives_s
    if trainer.teacher is not None:
        of_teacher = _with_shape_of(trainer.teacher.encoder, replace(given, utilisation=default.utilisation))
        seconds += train.gradient_accumulation * predict_step(of_teacher, train.max_workers).compute_s / 3
    assumed = f"assumed: {default.utilisation:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s"
    if train.max_workers > default.gpus_per_node:
        assumed += f", {default.between_nodes_gbit_s:g} Gbit/s between nodes of {default.gpus_per_node:g}"
    return seconds, assumed


def _with_shape_of(encoder: SentenceTransformer, given: Assumptions) -> Assumptions:
    embeddings = transformer_of(encoder).get_input_embeddings()
    width, rows = embeddings.embedding_dim, embeddings.num_embeddings
    layers = (_count_parameters(encoder) - rows * width) / (12 * width**2)
    return replace(given, layers=layers, width=width, vocabulary=rows)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _memory_bytes(
    config: RunConfig, trainer: ContrastiveTrainer, tokens_per_step: float, parameters: int, trained: int
) -> float:
    """Return the bytes that a GPU holds.

    - 4 of each parameter, also of a teacher, and 12 more of a trained one: gradient and AdamW's moments.
    - 34 L D of each token whose activations are held, in bf16 and without attention scores (Korthikanti et al. 2022,
      arXiv 2205.05198, section 4.1); with gradient caching those of a micro-batch, or those that are kept.
    - The scores of a tile of a worker's queries and all passages, four times in float32.
    """
    train = config.train
    transformer = transformer_of(trainer.encoder)
    layers, width = transformer.config.num_hidden_layers, transformer.config.hidden_size
    held = tokens_per_step / train.gradient_accumulation / train.max_workers
    if train.gradient_caching or train.gradient_checkpointing:
        chunk = tokens_per_step / train.gradient_accumulation / train.global_batch_pairs * train.chunk_pairs
        held = min(held, chunk, train.chunk_tokens)
    passages = train.global_batch_pairs * (1 + config.mix.hard_negatives)
    scores = 16.0 * min(passages * train.global_batch_pairs / train.max_workers, MAX_SCORES)
    kept_layers = 1 if train.gradient_checkpointing else layers
    activations = held * width * (34 * kept_layers + 2 * (layers - kept_layers))
    activations = max(activations, train.kept_activations_mib * 2.0**20)
    of_teacher = 0 if trainer.teacher is None else _count_parameters(trainer.teacher)
    return 4.0 * (parameters + of_teacher) + 12.0 * trained + activations + scores + _OVERHEAD_BYTES
