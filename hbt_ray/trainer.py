"""The training step: what happens to the model between two batches. Knows no Ray; one process or many with DDP."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.config import LossConfig, RunConfig, TrainConfig
from hbt_ray.dual_encoder import DualEncoder, passage_rows, query_rows
from hbt_ray.errors import ConfigError
from hbt_ray.loss import training_loss
from hbt_ray.model import load_encoder, open_teacher
from hbt_ray.packing import transformer_of
from hbt_ray.plan import rank_pairs
from hbt_ray.precision import uses_bf16
from hbt_ray.records import Batch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step measured, the same on every rank."""

    loss: float  # mean over the global batch
    gradient_norm: float  # before clipping
    learning_rate: float
    skipped: bool = False  # the gradient was not finite, and neither weights nor moments moved
    wishes: tuple[bool, ...] = ()  # which of the ranks' wishes any of them had


def learning_rate(step: int, train: TrainConfig) -> float:
    """The rate of optimizer step `step`, counted from 0: a linear warm-up, then the schedule towards 0."""
    warmup_steps = round(train.warmup_share * train.steps)
    if step < warmup_steps:
        return train.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(train.steps - warmup_steps, 1)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[train.schedule]
    return train.learning_rate * factor


class Trainer:
    """A model with its optimizer.

    It draws no random number of its own, keeps no schedule and no order: all are functions of the step. So
    weights, optimizer moments and the step are its whole state.

    Args:
        seed: of dropout.
        loss: None: InfoNCE alone.
        teacher: a frozen encoder on the same device; needed for `loss.distillation`.

    Raises:
        ConfigError: `loss.matryoshka` names a width above the encoder's.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        train: TrainConfig,
        *,
        seed: int,
        loss: LossConfig | None = None,
        teacher: SentenceTransformer | None = None,
    ) -> None:
        self.train = train
        self.encoder = encoder
        self.loss_settings = loss or LossConfig()
        _check_widths(self.loss_settings, encoder)
        bf16 = uses_bf16(train.precision, encoder.device)
        self.dual = DualEncoder(
            encoder, seed=seed, chunk_pairs=train.chunk_pairs, bf16=bf16, piece_tokens=train.chunk_tokens
        )
        self.teacher: nn.Module | None = None
        if teacher is not None:
            self.teacher = DualEncoder(
                teacher, seed=seed, chunk_pairs=train.chunk_pairs, bf16=bf16, piece_tokens=train.chunk_tokens
            ).eval()
        _freeze_unused(encoder)
        self._caches = train.gradient_caching or train.gradient_checkpointing
        if train.gradient_checkpointing:
            transformer_of(encoder).activation_checkpointing_enable({"use_reentrant": False})
        self.model: nn.Module = self.dual
        if _num_ranks() > 1:
            # Buffers are not synchronised in forward: the encoders hold constants alone.
            self.model = DistributedDataParallel(
                self.dual,
                device_ids=[encoder.device] if encoder.device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,  # else each gradient is copied into a bucket and back
            )
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.dual, train.weight_decay), lr=0.0, fused=True)

    def step(self, step: int, batches: Sequence[Batch], wishes: Sequence[bool] = ()) -> StepResult:
        """One optimizer step on one batch, or on several whose gradients are averaged.

        A gradient that is not finite moves nothing. All ranks hold the same gradient, so they decide alike.

        Args:
            wishes: what this rank would like to do after the step, if any rank does; as many on every rank. They
                travel with the loss, so that ranks agree without a message of their own.
        """
        self.model.train()
        rate = learning_rate(step, self.train)
        losses = []
        for place, batch in enumerate(batches):
            synchronise = place == len(batches) - 1
            losses.append(self.backward(batch, 1 / len(batches), synchronise))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.train.max_gradient_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        told = torch.stack([torch.stack(losses).mean(), *(torch.tensor(float(wish)).to(norm) for wish in wishes)])
        mean_loss, *granted = _mean_over_ranks(told)
        return StepResult(mean_loss, float(norm), rate, not finite, tuple(share > 0 for share in granted))

    def loss(self, batch: Batch) -> Tensor:
        """This rank's loss on its slice of a global batch."""
        return self._loss_of(batch, *self.model(batch))

    def _loss_of(self, batch: Batch, query_vectors: Tensor, passage_vectors: Tensor) -> Tensor:
        device = query_vectors.device
        with torch.no_grad():
            teacher_vectors = None if self.teacher is None else self.teacher(batch)
        return training_loss(
            self.loss_settings,
            query_vectors,
            passage_vectors,
            torch.tensor(batch.query_keys, device=device),
            torch.tensor(batch.passage_keys, device=device),
            temperature=self.train.temperature,
            gather_negatives=self.train.gather_negatives,
            rank_pairs=rank_pairs(batch.global_pairs, _num_ranks(), self.train.chunk_pairs),
            positives=batch.positives,
            second_of=torch.tensor(batch.second_of, device=device),
            teacher_vectors=teacher_vectors,
        )

    def backward(self, batch: Batch, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        """Adds the gradient of a batch's weighted loss to the parameters', and returns this rank's loss.

        Args:
            synchronise: take the mean over ranks; otherwise a later call does, for this batch as well.
        """
        if self._caches:
            return self._backward_in_pieces(batch, weight, synchronise)
        with _maybe_no_sync(self.model, synchronise):
            loss = self.loss(batch)
            (loss * weight).backward()
        return loss.detach()

    def _backward_in_pieces(self, batch: Batch, weight: float, synchronise: bool) -> Tensor:
        """With the activations of one piece at a time: gradient caching (Gao et al. 2021, arXiv 2101.06983).

        All vectors are computed without activations, then the loss's gradient by each vector, then each piece anew
        with its activations, and its vectors' gradient through it. Dropout follows from a piece's place, so a piece
        comes out the same twice.
        """
        pieces = self.dual.pieces(batch)
        with torch.no_grad():
            # Through the bare module: DDP wants a backward for each of its own forwards.
            parts = [self.dual(batch, [piece]) for piece in pieces]
        device = self.encoder.device
        asked = [torch.from_numpy(query_rows(batch, piece)).to(device) for piece in pieces]
        answers = [torch.from_numpy(passage_rows(batch, piece)).to(device) for piece in pieces]
        queries = _in_rows([own for own, _ in parts], asked).requires_grad_()
        passages = _in_rows([own for _, own in parts], answers).requires_grad_()
        loss = self._loss_of(batch, queries, passages)
        of_queries, of_passages = torch.autograd.grad(loss * weight, (queries, passages))
        for piece, own_asked, own_answers in zip(pieces, asked, answers, strict=True):
            with _maybe_no_sync(self.model, synchronise and piece is pieces[-1]):
                vectors = self.model(batch, [piece])
                torch.autograd.backward(vectors, (of_queries[own_asked], of_passages[own_answers]))
        return loss.detach()

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[Batch]) -> float:
        """Mean loss over batches without dropout, over all ranks."""
        self.model.eval()
        losses = [self.loss(batch) for batch in batches]
        [mean] = _mean_over_ranks(torch.stack(losses).mean()[None])
        return mean

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors by parameter name: `exp_avg/<name>` and so on."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.dual.named_parameters()}
        return {
            f"{key}/{names[parameter]}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `optimizer_state`, after the encoder's weights were loaded."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            by_name.setdefault(name, {})[kind] = value
        state: dict[Tensor, Any] = {}
        for name, parameter in self.dual.named_parameters():
            if name in by_name:
                # AdamW keeps `step` in float32 beside the parameter, moments in the parameter's own type.
                state[parameter] = {kind: value.to(parameter.device) for kind, value in by_name[name].items()}
        self.optimizer.state.clear()
        self.optimizer.state.update(state)


def trainer_of(config: RunConfig, initial_model: str | Path, device: str) -> Trainer:
    """The trainer of a run, from the encoder it begins with.

    Raises:
        ConfigError: the encoder or its teacher cannot be loaded, or does not go with the settings.
    """
    encoder = load_encoder(config.model, config.text, initial_model, device=device, seed=config.seed)
    distillation = config.loss.distillation
    teacher = open_teacher(distillation.teacher, encoder, config.model) if distillation else None
    return Trainer(encoder, config.train, seed=config.seed, loss=config.loss, teacher=teacher)


def _in_rows(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """Vectors of some pieces, each in its row of the whole."""
    vectors = torch.cat(list(parts))
    placed = torch.empty_like(vectors)
    placed[torch.cat(list(rows))] = vectors
    return placed


def _maybe_no_sync(model: nn.Module, synchronise: bool) -> Any:
    if isinstance(model, DistributedDataParallel) and not synchronise:
        return model.no_sync()
    return contextlib.nullcontext()


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _mean_over_ranks(values: Tensor) -> list[float]:
    """The ranks' means of (N,) values."""
    if _num_ranks() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= _num_ranks()
    return values.tolist()


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and normalisation gains do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _check_widths(loss: LossConfig, encoder: SentenceTransformer) -> None:
    """Raises ConfigError when vectors are to be cut to more than they have."""
    width = encoder.get_embedding_dimension()
    too_wide = [cut for cut in loss.matryoshka if width is not None and cut > width]
    if too_wide:
        raise ConfigError(
            f"loss.matryoshka names {too_wide[0]}, and the encoder's vectors have {width} values; "
            f"write widths below {width}"
        )


def _freeze_unused(encoder: SentenceTransformer) -> None:
    """Freezes what takes no part in the vectors, such as BERT's pooler under another pooling.

    DDP waits for the gradient of every parameter that asks for one.
    """
    ids = torch.zeros((1, 4), dtype=torch.long, device=encoder.device)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        vectors = encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]
        vectors[..., 0].sum().backward()
    for parameter in encoder.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None
