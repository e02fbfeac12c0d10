"""Training tasks of pretraining: masked language modelling and SimCSE.

Ray Train's controller imports this module, so it imports no library that takes seconds to import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import numpy as np

from hbt_ray.config import LoopConfig, PretrainConfig, PretrainRunConfig, TrainConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import transformer_subfolder
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.block_sampler import BlockBatchSpec, TextBlockSampler
from hbt_ray.pretraining.collate import build_blocks, build_simcse_pairs, token_counts
from hbt_ray.pretraining.masking import MaskRules
from hbt_ray.pretraining.perplexity import held_out_loss, held_out_perplexity, held_out_streams
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import BatchT
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hbt_ray.training.base_trainer import BaseTrainer
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer


def pretraining_sampler(config: PretrainRunConfig, manifest: StoreManifest, split: Split = "train") -> TextBlockSampler:
    """Return the sampler of a configuration; see `TextBlockSampler` for what it raises."""
    return TextBlockSampler(manifest, config.pretrain, seed=config.seed, languages=config.languages, split=split)


@dataclass(frozen=True)
class PretrainingTask(ABC, Generic[BatchT]):
    """`training.task.TrainingTask` of a pretraining. A subclass is an objective with its type of batch."""

    config: PretrainRunConfig
    initial_model: str  # folder or hub name of the encoder that training starts from

    @property
    def train(self) -> LoopConfig:
        return self.config.pretrain

    @property
    @abstractmethod
    def batch_type(self) -> type[BatchT]:
        """Type of the batches."""

    def make_initial_model(self, store: Path) -> None:
        """Do nothing: the encoder is evaluated while the workers start, so the driver has made it."""

    @abstractmethod
    def build_trainer(self, device: str, store: TokenStore | None = None) -> BaseTrainer[BatchT]:
        """Build the model and its optimizer as they are before the first step."""

    @abstractmethod
    def build(self, spec: BlockBatchSpec, sampler: TextBlockSampler, store: TokenStore) -> BatchT:
        """Read the batch of a spec from the store."""

    @abstractmethod
    def evaluate(self, trainer: BaseTrainer[BatchT], store: TokenStore) -> dict[str, float]:
        """Evaluate the trainer's weights on held-out text, language by language."""

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[BatchT]:
        return self._batches("train", store, numbers, rank, num_ranks)

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[BatchT]:
        if not self.train.validation_every:
            return []
        numbers = range(self.train.validation_batches)
        return list(self._batches("validation", store, numbers, rank, num_ranks))

    def describe_batch(self, store: TokenStore, number: int) -> str:
        sampler = pretraining_sampler(self.config, store.manifest)
        spec = sampler.batch(number)
        blocks = zip(spec.streams.tolist(), spec.places.tolist(), strict=True)
        unit = "text" if sampler.draws_whole_texts else "token"
        return f"from {unit} " + ", ".join(f"{place} of {sampler.streams[stream].name}" for stream, place in blocks)

    def evaluate_checkpoint(
        self, store: TokenStore, checkpoints: StoragePath, step: int, device: str
    ) -> dict[str, float]:
        from hbt_ray.training.checkpoint import CheckpointManager

        trainer = self.build_trainer(device)
        if step:
            CheckpointManager(checkpoints).load_weights(step, trainer.checkpointed_module)
        return self.evaluate(trainer, store)

    def _batches(self, split: Split, store: TokenStore, numbers: range, rank: int, num_ranks: int) -> Iterator[BatchT]:
        sampler = pretraining_sampler(self.config, store.manifest, split)
        specs = sampler.rank_batches(numbers, rank, num_ranks, self.config.pretrain.chunk_blocks)
        return (self.build(spec, sampler, store) for spec in specs)


@dataclass(frozen=True)
class MaskedLMTask(PretrainingTask[TokenBlockBatch]):
    """Prediction of masked tokens, in texts (`mlm`) or in joined parallel texts (`tlm`)."""

    rules: MaskRules
    # Counted in all languages of the store, so that a new head does not depend on `languages`.
    token_counts: np.ndarray = field(compare=False, repr=False)

    @property
    def batch_type(self) -> type[TokenBlockBatch]:
        return TokenBlockBatch

    def build_trainer(self, device: str, store: TokenStore | None = None) -> BaseTrainer[TokenBlockBatch]:
        from hbt_ray.models.encoder import load_for_training
        from hbt_ray.models.precision import resolve_bf16
        from hbt_ray.pretraining.mlm_model import MaskedLanguageModel, load_head
        from hbt_ray.pretraining.mlm_trainer import MaskedLMTrainer

        config, pretrain, model = self.config, self.config.pretrain, self.config.model
        encoder = load_for_training(model, config.encoder_text, self.initial_model, device=device, seed=config.seed)
        head = load_head(
            self.initial_model,
            encoder,
            seed=config.seed,
            trust_remote_code=model.trust_remote_code,
            token_counts=self.token_counts,
        )
        bf16 = resolve_bf16(pretrain.precision, encoder.device)
        mlm = MaskedLanguageModel(encoder, head, seed=config.seed, chunk_blocks=pretrain.chunk_blocks, bf16=bf16)
        return MaskedLMTrainer(mlm, pretrain)

    def build(self, spec: BlockBatchSpec, sampler: TextBlockSampler, store: TokenStore) -> TokenBlockBatch:
        return build_blocks(spec, sampler, store, self.rules, self.config.seed)

    def evaluate(self, trainer: BaseTrainer[TokenBlockBatch], store: TokenStore) -> dict[str, float]:
        return held_out_perplexity(trainer, self.config, store, self.rules)


@dataclass(frozen=True)
class SimCSETask(PretrainingTask[PairBatch]):
    """Contrastive training on texts paired with themselves (`contrastive`)."""

    @property
    def batch_type(self) -> type[PairBatch]:
        return PairBatch

    def build_trainer(self, device: str, store: TokenStore | None = None) -> ContrastiveTrainer:
        from hbt_ray.models.deterministic_dropout import drops_nothing
        from hbt_ray.models.encoder import load_for_training
        from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

        config = self.config
        encoder = load_for_training(
            config.model, config.encoder_text, self.initial_model, device=device, seed=config.seed
        )
        if drops_nothing(encoder):
            raise ConfigError(
                "contrastive distinguishes a text from its copy by dropout only, and the model has none; write "
                "model.dropout=0.1"
            )
        return ContrastiveTrainer(encoder, _contrastive_settings(config), seed=config.seed)

    def build(self, spec: BlockBatchSpec, sampler: TextBlockSampler, store: TokenStore) -> PairBatch:
        return build_simcse_pairs(spec, sampler, store)

    def evaluate(self, trainer: BaseTrainer[PairBatch], store: TokenStore) -> dict[str, float]:
        return held_out_loss(trainer, self.config, store)


AnyPretrainingTask = PretrainingTask[Any]  # whose objective, and so the type of its batches, is configured


def make_pretraining_task(config: PretrainRunConfig, store_folder: Path, folder: RunDir) -> AnyPretrainingTask:
    """Check a configuration against its store, and return its task.

    The objective decides the type of its batches. If no encoder is configured, an untrained one is written to the run's
    folder.

    Raises:
        ConfigError: see `check_pretraining`.
        StoreError: the store was not prepared with the configuration's corpora and tokenizer.
    """
    tokenizer = store_tokenizer(store_folder, config.prepare_inputs)
    store = TokenStore.open(store_folder)
    check_pretraining(config, tokenizer, store.manifest)
    if config.pretrain.objective == "contrastive":
        return SimCSETask(config, prepare_initial_model(config, tokenizer, folder))
    rules = _mask_rules(config, tokenizer)
    all_languages = TextBlockSampler(store.manifest, config.pretrain, seed=config.seed, leaves_out_short=True)
    counts = token_counts(all_languages, store, rules)
    return MaskedLMTask(config, prepare_initial_model(config, tokenizer, folder), rules, counts)


def check_pretraining(config: PretrainRunConfig, tokenizer: PreTrainedTokenizerFast, manifest: StoreManifest) -> None:
    """Check a configuration before an encoder is loaded.

    Raises:
        ConfigError: see `check_encoder`; or the corpora have too little text, parallel text or held-out text.
    """
    check_encoder(config, tokenizer)
    pretraining_sampler(config, manifest)
    held_out_streams(config, manifest)
    if config.pretrain.validation_every:
        pretraining_sampler(config, manifest, "validation")


def check_encoder(config: PretrainRunConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Check a configuration against its encoder's tokenizer.

    Raises:
        ConfigError: blocks are longer than the encoder accepts, its family has no masked-LM head, or its tokenizer has
            no mask token.
    """
    pretrain, max_tokens = config.pretrain, tokenizer.model_max_length
    if config.model.path is not None and pretrain.block_tokens > max_tokens:
        raise ConfigError(
            f"pretrain.block_tokens is {pretrain.block_tokens}, and the model takes {max_tokens} at most; "
            f"write pretrain.block_tokens={max_tokens}"
        )
    if pretrain.objective != "contrastive":
        _check_head(config)
        _mask_rules(config, tokenizer)


def _mask_rules(config: PretrainRunConfig, tokenizer: PreTrainedTokenizerFast) -> MaskRules:
    return MaskRules.of(tokenizer, config.pretrain.mask_share, config.model.path or "the small encoder")


def _check_head(config: PretrainRunConfig) -> None:
    """Raise ConfigError if there is no masked-LM model of the encoder's family, or if its head reads a decoder."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    model = config.model
    path = model.path
    if path is None:
        return
    subfolder = transformer_subfolder(path)
    loaded = AutoConfig.from_pretrained(path, subfolder=subfolder, trust_remote_code=model.trust_remote_code)
    family, way_out = loaded.model_type, "write pretrain.objective=contrastive, or another model.path"
    has_code = "AutoModelForMaskedLM" in (getattr(loaded, "auto_map", None) or {})
    if type(loaded) not in MODEL_FOR_MASKED_LM_MAPPING and not (model.trust_remote_code and has_code):
        raise ConfigError(
            f"the encoder {path!r} has no masked-language-model head: neither transformers nor its own code has one of "
            f"the family {family}; {way_out}"
        )
    if loaded.is_encoder_decoder:
        raise ConfigError(
            f"the encoder {path!r} is of the family {family}, whose head reads a decoder, not the encoder; {way_out}"
        )


class _SimCSEConfig(TrainConfig):
    """Settings of `ContrastiveTrainer` that are those of a pretraining, and so named in messages."""

    section: ClassVar[str] = PretrainConfig.section


def _contrastive_settings(config: PretrainRunConfig) -> TrainConfig:
    """Return the settings of `ContrastiveTrainer` for texts paired with themselves."""
    pretrain = config.pretrain
    loop = {name: getattr(pretrain, name) for name in LoopConfig.model_fields}
    return _SimCSEConfig(
        **loop,
        global_batch_pairs=pretrain.global_batch_blocks,
        chunk_pairs=pretrain.chunk_blocks,
        temperature=pretrain.temperature,
        embedding_gradient="all",
    )
