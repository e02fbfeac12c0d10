"""Every setting of a run: typed, frozen, checked where it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hbt_ray.config.base import ConfigSection, Fraction
from hbt_ray.config.loop import Count, LoopConfig, Precision

Strategy = Literal["x-x-mono", "x-y", "x-x", "hybrid", "one-to-k"]


def _distinct(languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if languages is not None and len(set(languages)) < max(len(languages), 1):
        raise ValueError("name at least one language, and each once")
    return languages


Languages = Annotated[tuple[str, ...] | None, AfterValidator(_distinct)]


class Columns(ConfigSection):
    """What a JSON Lines, Parquet or Hugging Face corpus calls its columns."""

    id: str = "id"
    question: str = "question"
    passage: str = "context"
    language: str = "language"  # needed only where one file or data set holds several languages
    negatives: str = "negatives"  # optional list of strings
    answer_text: str = "answer_text"  # optional; with answer_start >= 0 it must stand in the passage at that place
    answer_start: str = "answer_start"


class CorpusConfig(ConfigSection):
    """One source of parallel question-passage pairs, or of plain text."""

    format: Literal["embedded", "squad", "jsonl", "parquet", "huggingface", "text"]  # text: lines, to pretrain on
    name: str = ""  # the source's name in the store; default: the format, or the folder's name
    path: str | None = None  # a folder or file; for huggingface a data set's name or a folder saved to disk
    languages: Languages = None  # None: all that are found
    columns: Columns = Columns()
    subset: str | None = None  # huggingface: the configuration's name
    split: str = "train"  # huggingface and embedded: which split

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            named = Path(str(data.get("path") or "")).name  # "" for "." and "/"
            data = {**data, "name": named or str(data.get("format", ""))}
        return data

    @model_validator(mode="after")
    def _has_path(self) -> CorpusConfig:
        if self.format != "embedded" and not self.path:
            raise ValueError(f"a corpus of format {self.format!r} needs a path: a folder or file to read")
        return self


class PrepareConfig(ConfigSection):
    """How corpora become a token store."""

    # benchmark name -> folder; no training item may occur in them
    evaluation_sets: dict[str, str | None] = Field(default_factory=dict)
    near_duplicate_threshold: Fraction = 0.8  # Jaccard similarity of 5-character shingles; 1 turns near-duplicates off
    max_reject_share: Fraction = 0.02  # above this share of bad rows in a source, preparing fails
    validation_share: Fraction = 0.02  # of each source's items, held out by a hash of their id
    items_per_shard: int = Field(16384, ge=1)


class TextConfig(ConfigSection):
    """How text becomes tokens. A store serves only the settings it was made with."""

    query_prefix: str = "Query: "
    passage_prefix: str = "Passage: "
    max_query_tokens: int = Field(64, ge=4)
    max_passage_tokens: int = Field(128, ge=4)


class SmallEncoderConfig(ConfigSection):
    """The encoder that is trained from nothing when no `model.path` is given."""

    layers: int = Field(2, ge=1)
    width: int = Field(128, ge=8)
    heads: int = Field(2, ge=1)
    vocabulary: int = Field(8000, ge=300)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SmallEncoderConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


Attention = Literal["auto", "packed", "sdpa", "eager"]


class LoraConfig(ConfigSection):
    """Adapters of low rank, which are trained in the encoder's place (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)  # what an adapter adds is multiplied by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)  # of what an adapter reads
    targets: tuple[str, ...] | None = Field(None, min_length=1)  # linear layers, by the last parts of their names


class ModelConfig(ConfigSection):
    """The encoder shared by questions and passages."""

    path: str | None = None  # folder or hub name of a Hugging Face or sentence-transformers model; None: small encoder
    pooling: Literal["mean", "cls"] = "mean"  # for encoders that do not bring their own pooling
    dropout: Fraction | None = None  # None: as the encoder's own configuration says
    # packed: without padding; auto: packed for the families that can be, else eager on CPU and sdpa on GPU
    attention: Attention = "auto"
    lora: LoraConfig | None = None  # None: all weights are trained
    small: SmallEncoderConfig = SmallEncoderConfig()
    trust_remote_code: bool = False


def _sampling(value: Any) -> Any:
    return {"size": 1.0, "uniform": 0.0}.get(value, value) if isinstance(value, str) else value


# A weight of count ** exponent. "size" is exponent 1, "uniform" is 0, a temperature T is exponent 1 / T.
Sampling = Annotated[float, BeforeValidator(_sampling), Field(ge=0, le=1)]


class AlphaSchedule(ConfigSection):
    """Alpha as a function of the batch: through points, and constant before the first and behind the last."""

    points: tuple[tuple[Annotated[int, Field(ge=0)], Fraction], ...] = Field(min_length=1)  # (batch, alpha), ascending
    between: Literal["hold", "linear", "cosine"] = "linear"  # hold: that of the point before, so alpha goes by steps

    @model_validator(mode="after")
    def _ascending(self) -> AlphaSchedule:
        batches = [batch for batch, _ in self.points]
        if batches != sorted(set(batches)):
            raise ValueError(f"the points' batches {batches} must ascend, such as [[0, 0.9], [600, 0.1]]")
        return self


class MixConfig(ConfigSection):
    """How a batch is composed."""

    strategy: Strategy = "hybrid"
    alpha: Fraction = 0.5  # hybrid: probability that a batch is monolingual; otherwise it is cross-lingual
    alpha_schedule: AlphaSchedule | None = None  # hybrid: in the place of alpha, one that changes while training
    cross_pairs: Literal["one", "mixed"] = "one"  # a cross-lingual batch of one ordered pair, or each row its own
    positive_languages: int = Field(2, ge=2)  # one-to-k: passages of each question, each in another language
    language_sampling: Sampling = 0.0
    source_sampling: Sampling = 1.0
    hard_negatives: int = Field(0, ge=0)  # per pair; items with fewer are not drawn

    @model_validator(mode="after")
    def _schedule_of_hybrid(self) -> MixConfig:
        if self.alpha_schedule and self.strategy != "hybrid":
            raise ValueError(f"the strategy {self.strategy} has no alpha to schedule; write strategy=hybrid")
        return self


class MineConfig(ConfigSection):
    """Which passages become hard negatives of a question, of those that do not answer it for all that is known."""

    negatives: int = Field(4, ge=1)  # of an item in each language
    skip_first: int = Field(0, ge=0)  # of them that come first: the likeliest to answer after all
    depth: int = Field(100, ge=1)  # passages of a question that are looked at, known answers among them
    # Share of the own passage's score above which none is taken (Moreira et al. 2024, arXiv 2407.15831); None: off
    margin: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _deep_enough(self) -> MineConfig:
        least = self.skip_first + self.negatives
        if self.depth < least:
            raise ValueError(
                f"depth {self.depth} cannot give {self.negatives} negatives behind {self.skip_first} skipped; "
                f"write depth={least} or more"
            )
        return self


class DistillationConfig(ConfigSection):
    """A teacher: an encoder that stays as it is, and whose scores the trained one's are drawn to."""

    teacher: str  # folder or hub name of a model with the trained encoder's vocabulary
    weight: float = Field(1.0, gt=0)  # of its loss beside InfoNCE
    temperature: float = Field(0.05, gt=0)  # of the teacher's softmax and of the encoder's


def _each_once(widths: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(widths)) < len(widths):
        raise ValueError(f"{list(widths)} names a width twice")
    return widths


class LossConfig(ConfigSection):
    """What is trained beside InfoNCE from questions to passages."""

    symmetric: bool = False  # from passages to questions as well: the mean of both directions
    # Widths to which vectors are cut and trained again, beside the whole width.
    matryoshka: Annotated[tuple[Count, ...], AfterValidator(_each_once)] = ()
    distillation: DistillationConfig | None = None
    consistency: float = Field(0.0, ge=0)  # weight of how unlike a question scores passages in two languages


class TrainConfig(LoopConfig):
    section: ClassVar[str] = "train"

    global_batch_pairs: int = Field(64, ge=2)
    chunk_pairs: int = Field(16, ge=1)  # pairs that pass the encoder together; dropout is drawn per chunk
    chunk_tokens: int = Field(16384, ge=1)  # a chunk of more passes in several pieces
    gradient_caching: bool = False  # activations of one chunk at a time; a third more arithmetic
    gradient_checkpointing: bool = False  # activations of one layer at a time; implies gradient_caching
    temperature: float = Field(0.05, gt=0)
    gather_negatives: bool = True  # passages of all ranks serve as negatives

    @model_validator(mode="after")
    def _workers_have_whole_chunks(self) -> TrainConfig:
        self.check_shares("global_batch_pairs", "chunk_pairs")
        return self


Perturbation = Literal["typos", "case", "accents", "translation"]


class EvaluateConfig(ConfigSection):
    # name -> folder ("embedded" needs none); measured when training has ended
    benchmarks: dict[str, str | None] = Field(default_factory=dict)
    precision: Precision = "auto"
    run_depth: int = Field(100, ge=1)  # passages per query in run.trec
    with_paragraph: bool = False  # encode a sentence together with its paragraph
    figures: bool = True  # in each report; half of the time of a small benchmark
    split: str | None = None  # "dev" or "test", where a set has both; None: the one that is usually reported
    perturbations: tuple[Perturbation, ...] = ()  # of the queries; each benchmark is measured with each as well
    window_chars: int | None = Field(None, ge=16)  # long passages in windows, the best one counts; None: cut off
    shards: int = Field(0, ge=0)  # actors among which the passages are shared; 0: all in one process
    index: Literal["flat", "hnsw", "ivfpq"] = "flat"  # of a shard; the others are approximate
    index_depth: int = Field(1000, ge=100)  # passages per query that an approximate index looks for
    dimensions: int | None = Field(None, ge=1)  # vectors are cut to so many values; None: whole

    @model_validator(mode="after")
    def _index_in_shards(self) -> EvaluateConfig:
        if self.index != "flat" and not self.shards:
            raise ValueError(f"index {self.index} lies in shards; write shards=1 or more")
        return self


class TrackingConfig(ConfigSection):
    uri: str | None = None  # None: MLFLOW_TRACKING_URI, else a SQLite file beside the run's folder
    experiment: str = "hbt"
    log_model: bool = True


def check_sources(corpora: tuple[CorpusConfig, ...]) -> None:
    """Raises ValueError where there is no corpus, or two have one name."""
    names = [corpus.name for corpus in corpora]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names:
        raise ValueError("corpora is empty; name at least one, such as {format: embedded}")
    if twice:
        raise ValueError(f"two corpora are called {twice[0]!r}; give each a name of its own")


class RunConfig(ConfigSection):
    name: str = "run"
    storage: str | None = None  # a folder or s3://BUCKET/FOLDER for checkpoints; None: the run's own folder
    seed: int = Field(0, ge=0, lt=2**63)
    corpora: tuple[CorpusConfig, ...] = (CorpusConfig(format="embedded", name="embedded"),)
    languages: Languages = None  # train on these alone
    prepare: PrepareConfig = PrepareConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    mix: MixConfig = MixConfig()
    loss: LossConfig = LossConfig()
    mine: MineConfig = MineConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _distinct_sources(self) -> RunConfig:
        check_sources(self.corpora)
        return self
