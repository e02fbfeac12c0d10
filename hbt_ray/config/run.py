"""The settings of a whole run: one configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, model_validator

from hbt_ray.config.base import ConfigSection
from hbt_ray.config.corpora import CorpusConfig, Languages
from hbt_ray.config.mix import MixConfig
from hbt_ray.config.schema import (
    EvaluateConfig,
    LossConfig,
    MineConfig,
    ModelConfig,
    PrepareConfig,
    PretrainConfig,
    TextConfig,
    TrackingConfig,
    TrainConfig,
)
from hbt_ray.utils.file_names import check_distinct


def check_sources(corpora: tuple[CorpusConfig, ...]) -> None:
    """Check that there is a corpus and that no two have the same name.

    Raises:
        ValueError: there is none, or two have one name or one folder.
    """
    names = [corpus.name for corpus in corpora]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names:
        raise ValueError("corpora is empty; name at least one, such as {format: embedded}")
    if repeated:
        raise ValueError(f"two corpora are called {repeated[0]!r}; give each its own name")
    check_distinct("corpora", names)


@dataclass(frozen=True, slots=True)
class PrepareInputs:
    """The settings that determine a token store."""

    corpora: tuple[CorpusConfig, ...]
    prepare: PrepareConfig
    text: TextConfig
    model: ModelConfig  # its tokenizer is used, or the size of the one to train
    evaluation_sets: tuple[tuple[str, str | None], ...]  # name and folder of the benchmarks that it must not contain
    evaluation_split: str | None = None  # of these benchmarks
    languages: tuple[str, ...] | None = None  # that the corpora must have; the store has all
    whole_texts: bool = False  # texts may be longer than the model takes, because they are cut into blocks later


def _zero_shot_sets(*settings: Mapping[str, str | None]) -> tuple[tuple[str, str | None], ...]:
    """Return the name and folder of each benchmark of some settings that training must not have seen.

    The embedded one is not such a benchmark: its pool contains the training passages on purpose, and its queries are
    about combinations of facts that are never trained on.
    """
    sets = dict.fromkeys(item for section in settings for item in section.items())
    return tuple((name, folder) for name, folder in sets if name != "embedded")


class RunConfig(ConfigSection):
    """A training run: `hbt train`, `hbt prepare`, `hbt plan` and `hbt mine`."""

    name: str = "run"
    storage: str | None = None
    """A folder or s3://BUCKET/FOLDER for checkpoints. None: the run's own folder."""
    seed: int = Field(0, ge=0, lt=2**63)
    corpora: tuple[CorpusConfig, ...] = (CorpusConfig(format="embedded", name="embedded"),)
    languages: Languages = None
    """Train on these only. None: all of the store."""
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
    def _check_sections(self) -> RunConfig:
        check_sources(self.corpora)
        if self.train.vocabulary == "occurring" and self.model.lora is not None:
            raise ValueError("with model.lora word embeddings are not trained; write train.vocabulary=all")
        if self.train.embedding_gradient == "batch" and self.model.lora is not None:
            raise ValueError("with model.lora word embeddings are not trained; write train.embedding_gradient=all")
        if self.train.embedding_exchange != "fp32" and self.model.lora is not None:
            raise ValueError("with model.lora word embeddings are not trained; write train.embedding_exchange=fp32")
        train = self.train
        if (
            not train.gather_negatives
            and not self.mix.hard_negatives
            and train.global_batch_pairs < 2 * train.max_workers
        ):
            raise ValueError(
                "with gather_negatives=false a worker's only pair has no negatives without mix.hard_negatives; write "
                f"train.global_batch_pairs={2 * train.max_workers} or more, or fewer workers"
            )
        return self

    @property
    def encoder_text(self) -> TextConfig:
        """Text settings of the saved encoder."""
        return self.text

    @property
    def prepare_inputs(self) -> PrepareInputs:
        """What determines the store of this run."""
        return PrepareInputs(
            self.corpora,
            self.prepare,
            self.text,
            self.model,
            evaluation_sets=_zero_shot_sets(self.evaluate.benchmarks, self.prepare.evaluation_sets),
            evaluation_split=self.evaluate.split,
            languages=self.languages,
        )

    @property
    def plain_text_corpus(self) -> str | None:
        """The name of the first corpus of plain text, which has no questions; None if there is none."""
        return next((corpus.name for corpus in self.corpora if corpus.format == "text"), None)

    @property
    def store_key(self) -> str:
        """Equal for two runs that read the same token store."""
        parts = (*self.corpora, self.prepare, self.text, self.model)
        left_out = (self.prepare_inputs.evaluation_sets, self.evaluate.split)
        return " ".join([*(part.fingerprint() for part in parts), repr(left_out)])

    @property
    def model_key(self) -> str:
        """Equal for two runs that start from the same encoder."""
        return f"{self.store_key} {self.seed}"


class PretrainRunConfig(ConfigSection):
    """A pretraining run: `hbt pretrain`."""

    name: str = "pretrain"
    storage: str | None = None
    """A folder or s3://BUCKET/FOLDER for checkpoints. None: the run's own folder."""
    seed: int = Field(0, ge=0, lt=2**63)
    corpora: tuple[CorpusConfig, ...] = (CorpusConfig(format="embedded", name="embedded"),)
    languages: Languages = None
    """Pretrain on these only. The tokenizer and the first weights are those of all languages."""
    prepare: PrepareConfig = PrepareConfig()
    text: TextConfig = TextConfig()
    """Prefixes and lengths of the fine-tuning that follows."""
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _check_consistency(self) -> PretrainRunConfig:
        check_sources(self.corpora)
        if self.pretrain.objective == "contrastive" and self.model.dropout == 0:
            raise ValueError("contrastive distinguishes a text from its copy by dropout only; write model.dropout=0.1")
        return self

    @property
    def encoder_text(self) -> TextConfig:
        """Text settings of the saved encoder, which must take the longer of a passage and a block."""
        max_tokens = max(self.text.max_passage_tokens, self.pretrain.block_tokens)
        return self.text.model_copy(update={"max_passage_tokens": max_tokens})

    @property
    def prepare_inputs(self) -> PrepareInputs:
        """What determines the store of this run: texts have no prefixes and may be longer than the model takes."""
        max_tokens = self.pretrain.max_text_tokens
        text = TextConfig(
            query_prefix="", passage_prefix="", max_query_tokens=max_tokens, max_passage_tokens=max_tokens
        )
        return PrepareInputs(
            self.corpora,
            self.prepare,
            text,
            self.model,
            evaluation_sets=_zero_shot_sets(self.prepare.evaluation_sets),
            languages=self.languages,
            whole_texts=True,
        )
