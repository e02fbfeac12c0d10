"""A pretraining as those who carry it out need to know it.

Imported by Ray Train's controller as well, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hbt_ray.config import LoopConfig, PretrainRunConfig, TrainConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import transformer_subfolder
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.block_sampler import TextBlockSampler
from hbt_ray.pretraining.collate import build_blocks, build_simcse_pairs, token_counts
from hbt_ray.pretraining.masking import MaskRules
from hbt_ray.sampling import rank_slice
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.run_dir import RunDir
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hbt_ray.training.base_trainer import BaseTrainer


@dataclass(frozen=True)
class PretrainingTask:
    """`job.TrainingTask` of a pretraining."""

    config: PretrainRunConfig
    initial_model: str
    rules: MaskRules | None  # None: nothing is masked
    # Of the text in all languages, trained on or not, for a new head.
    token_counts: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def train(self) -> LoopConfig:
        return self.config.pretrain

    @property
    def batch_type(self) -> type[PairBatch | TokenBlockBatch]:
        return PairBatch if self.rules is None else TokenBlockBatch

    def build_trainer(self, device: str) -> BaseTrainer[Any]:
        from hbt_ray.models.encoder import load_for_training
        from hbt_ray.models.precision import resolve_bf16
        from hbt_ray.pretraining.mlm_model import MaskedLanguageModel, load_head
        from hbt_ray.pretraining.mlm_trainer import MaskedLMTrainer
        from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

        config, pretrain, model = self.config, self.config.pretrain, self.config.model
        encoder = load_for_training(model, config.encoder_text, self.initial_model, device=device)
        if self.rules is None:
            return ContrastiveTrainer(encoder, _as_pairs(config), seed=config.seed)
        head = load_head(
            self.initial_model,
            encoder,
            seed=config.seed,
            trust_remote_code=model.trust_remote_code,
            token_counts=self.token_counts,
        )
        bf16 = resolve_bf16(pretrain.precision, encoder.device)
        masked = MaskedLanguageModel(encoder, head, seed=config.seed, chunk_blocks=pretrain.chunk_blocks, bf16=bf16)
        return MaskedLMTrainer(masked, pretrain)

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[Any]:
        return self._batches("train", store, numbers, rank, num_ranks)

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[Any]:
        if not self.train.validation_every:
            return []
        numbers = range(self.train.validation_batches)
        return list(self._batches("validation", store, numbers, rank, num_ranks))

    def describe_batch(self, store: TokenStore, number: int) -> str:
        plan = self.plan(store.manifest)
        spec = plan.batch(number)
        blocks = zip(spec.streams.tolist(), spec.places.tolist(), strict=True)
        unit = "text" if plan.whole_texts else "token"
        return f"from {unit} " + ", ".join(f"{place} of {plan.streams[stream].name}" for stream, place in blocks)

    def measure(self, store: TokenStore, checkpoints: StoragePath, step: int, device: str) -> dict[str, float]:
        from hbt_ray.pretraining.perplexity import evaluate_held_out
        from hbt_ray.training.checkpoint import CheckpointManager

        trainer = self.build_trainer(device)
        if step:
            CheckpointManager(checkpoints).load_weights(step, trainer.checkpointed_module)
        return evaluate_held_out(trainer, self.config, store, self.rules)

    def plan(self, manifest: StoreManifest, split: Split = "train") -> TextBlockSampler:
        """The order. Raises ConfigError when the store cannot serve it."""
        config = self.config
        return TextBlockSampler(manifest, config.pretrain, seed=config.seed, languages=config.languages, split=split)

    def _batches(self, split: Split, store: TokenStore, numbers: range, rank: int, num_ranks: int) -> Iterator[Any]:
        plan, rules = self.plan(store.manifest, split), self.rules
        mine = rank_slice(plan.pretrain.global_batch_blocks, num_ranks, rank, plan.pretrain.chunk_blocks)
        specs = (plan.batch(number, mine) for number in numbers)
        if rules is None:
            return (build_simcse_pairs(spec, plan, store) for spec in specs)
        return (build_blocks(spec, plan, store, rules, self.config.seed) for spec in specs)


def pretraining_job(config: PretrainRunConfig, store_folder: Path, folder: RunDir) -> PretrainingTask:
    """The job of a configuration, after it was checked that it can be done; an encoder from nothing is made beside it.

    Raises:
        ConfigError: the corpora have too little text, or none that is parallel; or the encoder cannot be pretrained so.
        StoreError: the store is not the one that the configuration's corpora and tokenizer make.
    """
    tokenizer = store_tokenizer(store_folder, config.prepare_inputs)
    store = TokenStore.open(store_folder)
    job = checked_job(config, tokenizer, store.manifest)
    of_all = replace(job, config=config.model_copy(update={"languages": None}))
    counts = None if job.rules is None else token_counts(of_all.plan(store.manifest), store, job.rules)
    return PretrainingTask(config, prepare_initial_model(config, tokenizer, folder), job.rules, counts)


def checked_job(
    config: PretrainRunConfig, tokenizer: PreTrainedTokenizerFast, manifest: StoreManifest
) -> PretrainingTask:
    """The same before there is an encoder, and raising the same."""
    from hbt_ray.pretraining.perplexity import held_out_streams

    pretrain, path = config.pretrain, config.model.path
    most = tokenizer.model_max_length
    if path is not None and pretrain.block_tokens > most:
        raise ConfigError(
            f"pretrain.block_tokens is {pretrain.block_tokens}, and the model takes {most} at most; "
            f"write pretrain.block_tokens={most}"
        )
    rules = None
    if pretrain.objective != "contrastive":
        _check_head(config)
        rules = MaskRules.of(tokenizer, pretrain.mask_share, path or "the small encoder")
    job = PretrainingTask(config, path or "", rules)
    job.plan(manifest)
    held_out_streams(config, manifest)
    if pretrain.validation_every:
        job.plan(manifest, "validation")
    return job


def _check_head(config: PretrainRunConfig) -> None:
    """Raises ConfigError when transformers has no model of the encoder's family that tells masked tokens."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    model = config.model
    path = model.path
    if path is None:
        return
    family = AutoConfig.from_pretrained(
        path, subfolder=transformer_subfolder(path), trust_remote_code=model.trust_remote_code
    ).model_type
    if family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not model.trust_remote_code:
        raise ConfigError(
            f"the encoder {path!r} has no masked-language-model head: transformers knows none of the family {family}; "
            "write pretrain.objective=contrastive, or another model.path"
        )


def _as_pairs(config: PretrainRunConfig) -> TrainConfig:
    """The settings of training on texts paired with themselves."""
    pretrain = config.pretrain
    loop = {name: getattr(pretrain, name) for name in LoopConfig.model_fields}
    return TrainConfig(
        **loop,
        global_batch_pairs=pretrain.global_batch_blocks,
        chunk_pairs=pretrain.chunk_blocks,
        temperature=pretrain.temperature,
    )
