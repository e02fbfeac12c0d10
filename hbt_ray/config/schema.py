"""Every section of a run's settings, in the order of the data flow: typed, frozen, and checked when it is built.

The text under a field is its documentation: `python -m hbt_ray.config.reference` prints the README's reference from it.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from hbt_ray.config.base import ConfigSection, Fraction
from hbt_ray.config.mix import Sampling
from hbt_ray.utils.file_names import benchmark_slug, check_distinct

Precision = Literal["auto", "bf16", "fp32"]
Attention = Literal["auto", "packed", "sdpa", "eager"]
Perturbation = Literal["typos", "case", "accents", "translation"]
Count = Annotated[int, Field(ge=1)]
Workers = Count | tuple[Count, Count]

UNLIMITED_TOKENS = 2**20  # more than any text has


def _distinct_widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(widths)) < len(widths):
        raise ValueError(f"{list(widths)} names a width twice")
    return widths


# Data


class PrepareConfig(ConfigSection):
    """How corpora become a token store."""

    evaluation_sets: dict[str, str | None] = Field(default_factory=dict)
    """Benchmark name -> folder, in addition to those of `evaluate`: training items with texts of one are removed."""
    near_duplicate_threshold: float = Field(0.8, gt=0, le=1)
    """Similarity of 5-character shingles from which texts, or parts, count as the same; 1: equal texts only."""
    max_reject_share: Fraction = 0.02
    """Fraction of unusable rows in a source above which `prepare` fails."""
    validation_share: Fraction = 0.02
    """Fraction of each source's items that is held out, by a hash of its id; items that share a text, together."""
    items_per_shard: int = Field(16384, ge=1)


class TextConfig(ConfigSection):
    """How text becomes tokens. A store serves only the settings it was made with."""

    query_prefix: str = "Query: "
    passage_prefix: str = "Passage: "
    max_query_tokens: int = Field(64, ge=4)
    max_passage_tokens: int = Field(128, ge=4)


# Model


class SmallEncoderConfig(ConfigSection):
    """The encoder with random weights that is used when `model.path` is not set."""

    layers: int = Field(2, ge=1)
    width: int = Field(128, ge=8)
    heads: int = Field(2, ge=1)
    vocabulary: int = Field(8000, ge=300)

    @model_validator(mode="after")
    def _check_heads(self) -> SmallEncoderConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class LoraConfig(ConfigSection):
    """Low-rank adapters, trained instead of the encoder's weights (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    """An adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of an adapter's input."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Linear layers to adapt, by the last component of their names. None: the attention projections."""


class ModelConfig(ConfigSection):
    """The encoder that questions and passages share."""

    path: str | None = None
    """Folder or hub name of a Hugging Face or sentence-transformers model. None: `model.small`."""
    pooling: Literal["mean", "cls", "lasttoken", "weightedmean"] = "mean"
    """For encoders that do not define their own pooling."""
    dropout: Fraction | None = None
    """None: the encoder's own."""
    attention: Attention = "auto"
    """`packed`: without padding, for the families in models/README.md. `auto`: packed for these, else eager on CPU and
    sdpa on GPU."""
    lora: LoraConfig | None = None
    """Such as {rank: 8}: train adapters only; needs `hbt_ray[lora]`. None: all weights are trained."""
    small: SmallEncoderConfig = SmallEncoderConfig()
    trust_remote_code: bool = False


# Loss, mining


class DistillationConfig(ConfigSection):
    """A frozen teacher encoder whose score distribution the trained encoder matches."""

    teacher: str
    """Folder or hub name of a model with the same vocabulary as the trained encoder."""
    weight: float = Field(1.0, gt=0)
    """Of the distillation loss, added to InfoNCE."""
    temperature: float = Field(0.05, gt=0)
    """Of both softmaxes, the teacher's and the student's."""


class LossConfig(ConfigSection):
    """Loss terms added to InfoNCE from questions to passages."""

    symmetric: bool = False
    """Average InfoNCE over both directions: questions to passages and passages to questions."""
    matryoshka: Annotated[tuple[Count, ...], AfterValidator(_distinct_widths)] = ()
    """Widths, such as [32, 64, 128], at which truncated embeddings are trained as well as the full width."""
    distillation: DistillationConfig | None = None
    """Such as {teacher: FOLDER}: match the scores of a frozen encoder."""
    consistency: float = Field(0.0, ge=0)
    """Weight of the divergence between the score distributions of a question and its translation."""

    @property
    def requires_translations(self) -> bool:
        """Whether a loss that is switched on requires batches with translated questions."""
        return self.consistency > 0


class MineConfig(ConfigSection):
    """Which passages become hard negatives of a question. Known answers never do."""

    negatives: int = Field(4, ge=1)
    """Per item and language."""
    skip_first: int = Field(0, ge=0)
    """Highest-ranked candidates to skip: the likeliest to be unlabelled answers."""
    depth: int = Field(100, ge=1)
    """Passages retrieved per question, known answers included."""
    margin: float | None = Field(None, gt=0, le=1)
    """Maximum score of a negative over the positive's (Moreira et al. 2024, arXiv 2407.15831). None: no maximum."""

    @model_validator(mode="after")
    def _check_depth(self) -> MineConfig:
        min_depth = self.skip_first + self.negatives
        if self.depth < min_depth:
            raise ValueError(
                f"depth {self.depth} cannot give {self.negatives} negatives after {self.skip_first} skipped; "
                f"write depth={min_depth} or more"
            )
        return self


# Training and pretraining


class EarlyStoppingConfig(ConfigSection):
    """When training ends before its last step."""

    patience: int = Field(3, ge=1)
    """Validations without a lower loss."""
    min_change: float = Field(0.0, ge=0)
    """A loss is lower if it is more than this below the lowest one before."""


class LoopConfig(ConfigSection):
    """Settings that every training loop has: optimization, checkpoints, workers."""

    section: ClassVar[str] = ""  # the name of this section in a configuration file

    steps: int = Field(600, ge=1)
    """Optimizer steps."""
    gradient_accumulation: int = Field(1, ge=1)
    """Batches per optimizer step, each with its own negatives."""
    learning_rate: float = Field(3e-5, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_share: Fraction = 0.1
    """Fraction of the steps."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_gradient_norm: float = Field(1.0, gt=0)
    precision: Precision = "auto"
    """`auto`: bf16 where the processor has bf16 arithmetic."""
    non_finite_allowed: int = Field(0, ge=0)
    """Steps that may be skipped because the gradient is not finite; one more ends the run."""
    validation_every: int = Field(0, ge=0)
    """Steps; 0: never."""
    validation_batches: int = Field(8, ge=1)
    early_stopping: EarlyStoppingConfig | None = None
    """Such as {patience: 3}."""
    evaluate_every: int = Field(0, ge=0)
    """Steps between checkpoints that are evaluated while training continues; 0: never."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps."""
    checkpoint_minutes: float | None = Field(10.0, gt=0)
    """Also save when the last checkpoint is this old. None: by steps only."""
    checkpoints_kept: int = Field(2, ge=1)
    """The newest ones; the best one is kept in addition."""
    best_by: Literal["validation_loss", "loss"] | None = "validation_loss"
    """None: no best checkpoint is kept."""
    workers: Workers = 1
    """A number, or [min, max] for a worker group that follows the cluster's size."""
    gpu: bool | None = None
    """None: when the cluster has one for every worker."""
    threads_per_worker: int | None = Field(None, ge=1)
    """None: the cluster's CPUs divided among the workers; a single worker leaves one free."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the newest checkpoint."""
    step_timeout_s: float = Field(600.0, gt=0)
    """Seconds after which a step that has not ended is reported, with each rank's phase and stacks."""
    collective_timeout_s: float = Field(1800.0, gt=0)
    """Seconds that a rank waits for other ranks, a batch or Ray before it fails, and the workers are restarted."""

    @property
    def min_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _check_early_stopping(self) -> LoopConfig:
        if self.early_stopping and not self.validation_every:
            raise ValueError("early_stopping needs validation_every, the number of steps between validations")
        if self.early_stopping and self.best_by != "validation_loss":
            raise ValueError("early_stopping keeps the best weights: write best_by=validation_loss")
        return self

    def check_batch_division(self, batch_key: str, mini_batch_key: str) -> None:
        """Check that the workers can divide a global batch into whole mini-batches.

        Args:
            batch_key: name of the setting with the global batch size, such as `global_batch_pairs`.
            mini_batch_key: name of the setting with the mini-batch size, such as `chunk_pairs`.

        Raises:
            ValueError: they cannot; the message names both settings.
        """
        batch, mini_batch, unit = getattr(self, batch_key), getattr(self, mini_batch_key), batch_key.rpartition("_")[2]
        if not isinstance(self.workers, int):
            low, high = self.workers
            if low > high:
                raise ValueError(f"workers [{low}, {high}] must be [min, max]; write [{high}, {low}]")
            if high > -(-batch // mini_batch):
                raise ValueError(
                    f"{batch} {unit} in chunks of {mini_batch_key} {mini_batch} are not enough for "
                    f"{high} workers; write {mini_batch_key}={max(batch // high, 1)} or fewer workers"
                )
            return
        if batch % self.workers:
            lower = batch // self.workers * self.workers
            nearest = [number for number in (lower, lower + self.workers) if number]
            raise ValueError(
                f"{batch_key} {batch} is not divisible by workers {self.workers}; "
                f"write {' or '.join(map(str, nearest))}"
            )
        per_worker = batch // self.workers
        if (per_worker % mini_batch and per_worker > mini_batch) or (self.workers > 1 and per_worker < mini_batch):
            raise ValueError(
                f"a worker's {per_worker} {unit} are not whole chunks of {mini_batch_key} {mini_batch}; "
                f"write {mini_batch_key}={math.gcd(per_worker, mini_batch)}"
            )


class TrainConfig(LoopConfig):
    """Fine-tuning on question-passage pairs."""

    section: ClassVar[str] = "train"

    global_batch_pairs: int = Field(64, ge=2)
    chunk_pairs: int = Field(16, ge=1)
    """Pairs per mini-batch: encoded together, with their own dropout masks."""
    chunk_tokens: int = Field(16384, ge=1)
    """A mini-batch with more tokens is encoded in several micro-batches."""
    gradient_caching: bool = False
    """Keep the activations of one mini-batch at a time, for about a third more arithmetic."""
    gradient_checkpointing: bool = False
    """Keep the activations of one layer at a time. Implies `gradient_caching`."""
    kept_activations_mib: int = Field(0, ge=0)
    """With `gradient_caching`: keep the activations of the first mini-batches too, as many as fit in this, and do their
    arithmetic once."""
    temperature: float = Field(0.05, gt=0)
    gather_negatives: bool = True
    """Use the passages of all ranks as negatives."""
    vocabulary: Literal["auto", "all", "occurring"] = "auto"
    """Word embeddings to train: all, or those of the tokens that occur in the store. The trained model has all rows
    either way. `auto`: those that occur, if that changes no bit of it and they are at most half."""
    embedding_gradient: Literal["auto", "all", "batch"] = "auto"
    """Rows of the word embeddings' gradient that are summed, exchanged between workers and clipped: all, or those of a
    step's tokens. `auto`: those of the tokens, if the table is large for them."""
    embedding_exchange: Literal["fp32", "bf16"] = "fp32"
    """Numbers in which workers exchange the rows of a step's tokens."""
    reproducible: bool = False
    """The same bits of the weights with any number of workers, at the same number of threads of each. Gradients are
    summed in fixed point, and each worker computes the loss of the whole batch."""

    @model_validator(mode="after")
    def _check_mini_batches(self) -> TrainConfig:
        self.check_batch_division("global_batch_pairs", "chunk_pairs")
        if self.reproducible and not self.gather_negatives:
            raise ValueError(
                "reproducible compares with the passages of all workers; write gather_negatives=true, or "
                "reproducible=false"
            )
        if not self.gather_negatives and not isinstance(self.workers, int):
            raise ValueError(
                "with gather_negatives=false each worker has negatives of its own, so their number matters; write one "
                "number of workers"
            )
        if self.embedding_exchange != "fp32" and self.embedding_gradient == "all":
            raise ValueError("embedding_exchange has no effect with embedding_gradient=all; leave one of them out")
        if self.reproducible and (self.kept_activations_mib or self.embedding_exchange != "fp32"):
            name = "kept_activations_mib" if self.kept_activations_mib else "embedding_exchange"
            raise ValueError(f"{name} has no effect with reproducible=true; leave one of them out")
        if self.kept_activations_mib and (self.gradient_checkpointing or not self.gradient_caching):
            way_out = "gradient_checkpointing=false" if self.gradient_checkpointing else "gradient_caching=true"
            raise ValueError(f"kept_activations_mib has no effect; write {way_out}, or leave it out")
        return self


class PretrainConfig(LoopConfig):
    """Pretraining on text."""

    section: ClassVar[str] = "pretrain"

    objective: Literal["mlm", "tlm", "contrastive"] = "mlm"
    """`mlm`: masked tokens. `tlm`: masked tokens of two parallel texts joined. `contrastive`: SimCSE, a text against
    itself under another dropout mask."""
    block_tokens: int = Field(128, ge=8)
    """Tokens per block. `contrastive`: maximum tokens of a text, which is a block of its own."""
    global_batch_blocks: int = Field(64, ge=1)
    chunk_blocks: int = Field(16, ge=1)
    """Blocks per mini-batch: encoded together, with their own dropout masks."""
    language_sampling: Sampling = 0.5
    mask_share: float = Field(0.15, gt=0, lt=1)
    """`mlm` and `tlm`: fraction of the tokens to predict."""
    temperature: float = Field(0.05, gt=0)
    """`contrastive`."""
    held_out_blocks: int = Field(64, ge=1)
    """Maximum blocks of each language for perplexity before and after."""
    learning_rate: float = Field(5e-4, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _refuse_vocabulary(cls, settings: object) -> object:
        if isinstance(settings, dict) and "vocabulary" in settings:
            raise ValueError(
                "vocabulary is a setting of train: the head of a masked language model is tied to the word embeddings "
                "of all tokens; leave it out"
            )
        return settings

    @model_validator(mode="after")
    def _check_mini_batches(self) -> PretrainConfig:
        self.check_batch_division("global_batch_blocks", "chunk_blocks")
        if self.objective == "contrastive" and self.global_batch_blocks < 2:
            raise ValueError("contrastive compares the texts of a batch; write global_batch_blocks=2 or more")
        return self

    @property
    def max_text_tokens(self) -> int:
        """Tokens to which texts are truncated. mlm does not truncate: a long text continues in the next block."""
        return {"mlm": UNLIMITED_TOKENS, "tlm": self.block_tokens // 2, "contrastive": self.block_tokens}[
            self.objective
        ]


# Evaluation and tracking


class EvaluateConfig(ConfigSection):
    """How a model is evaluated."""

    benchmarks: dict[str, str | None] = Field(default_factory=dict)
    """Name -> folder (`embedded` needs none). Evaluated after training."""
    precision: Precision = "auto"
    run_depth: int = Field(100, ge=1)
    """Passages per query in run.trec."""
    with_paragraph: bool = False
    """Encode a sentence together with its paragraph."""
    figures: bool = True
    """In each report; half of the time of a small benchmark."""
    split: str | None = None
    """`dev` or `test`, where a benchmark has both. None: the one that is usually reported."""
    perturbations: tuple[Perturbation, ...] = ()
    """Of the queries. Each benchmark is evaluated with each of them as well."""
    window_chars: int | None = Field(None, ge=16)
    """Split long passages into windows of this length; the best window scores. None: passages are truncated."""
    shards: int = Field(0, ge=0)
    """Ray actors that share the passages. 0: one process, no Ray."""
    index: Literal["flat", "hnsw", "ivfpq"] = "flat"
    """Of a shard. All but `flat` are approximate."""
    index_depth: int = Field(1000, ge=100)
    """Passages per query that an approximate index retrieves."""
    dimensions: int | None = Field(None, ge=1)
    """Truncate embeddings to this width. None: full width."""

    @model_validator(mode="after")
    def _check_shards(self) -> EvaluateConfig:
        perturbed = (f"{name}-{change}" for name in self.benchmarks for change in self.perturbations)
        check_distinct("benchmarks", [*self.benchmarks, *perturbed], benchmark_slug)
        if self.index != "flat" and not self.shards:
            raise ValueError(f"index {self.index} is built in shards; write shards=1 or more")
        if self.index == "flat" and self.index_depth != type(self).model_fields["index_depth"].default:
            raise ValueError("index_depth has no effect with index: flat; leave it out, or write index=hnsw")
        return self


class TrackingConfig(ConfigSection):
    """Where a run is logged in MLflow."""

    uri: str | None = None
    """None: MLFLOW_TRACKING_URI, else a SQLite file next to the run's folder."""
    experiment: str = "hbt"
    log_model: bool = True
