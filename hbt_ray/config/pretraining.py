"""The settings of pretraining."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from hbt_ray.config.base import ConfigSection
from hbt_ray.config.loop import LoopConfig
from hbt_ray.config.sections import (
    CorpusConfig,
    Languages,
    ModelConfig,
    PrepareConfig,
    RunConfig,
    Sampling,
    TextConfig,
    TrackingConfig,
    check_sources,
)

WHOLE = 2**20  # tokens, more than any text has


class PretrainConfig(LoopConfig):
    section: ClassVar[str] = "pretrain"

    # mlm: masked tokens; tlm: the same in two parallel texts joined; contrastive: a text and itself, dropped out anew
    objective: Literal["mlm", "tlm", "contrastive"] = "mlm"
    block_tokens: int = Field(128, ge=8)  # contrastive: of a text, which is a block by itself, at most
    global_batch_blocks: int = Field(64, ge=1)
    chunk_blocks: int = Field(16, ge=1)  # blocks that pass the encoder together; dropout is drawn per chunk
    language_sampling: Sampling = 0.5
    mask_share: float = Field(0.15, gt=0, lt=1)  # mlm and tlm: of the tokens
    temperature: float = Field(0.05, gt=0)  # contrastive
    held_out_blocks: int = Field(64, ge=1)  # of each language, on which it is measured before and after; at most
    learning_rate: float = Field(5e-4, gt=0)

    @model_validator(mode="after")
    def _workers_have_whole_chunks(self) -> PretrainConfig:
        self.check_shares("global_batch_blocks", "chunk_blocks")
        if self.objective == "contrastive" and self.global_batch_blocks < 2:
            raise ValueError("contrastive compares the texts of a batch; write global_batch_blocks=2 or more")
        return self

    @property
    def most_text_tokens(self) -> int:
        """Texts are cut to so many: none for mlm, whose blocks go on where others end."""
        return {"mlm": WHOLE, "tlm": self.block_tokens // 2, "contrastive": self.block_tokens}[self.objective]


class PretrainRunConfig(ConfigSection):
    name: str = "pretrain"
    storage: str | None = None  # a folder or s3://BUCKET/FOLDER for checkpoints; None: the run's own folder
    seed: int = Field(0, ge=0, lt=2**63)
    corpora: tuple[CorpusConfig, ...] = (CorpusConfig(format="embedded", name="embedded"),)
    languages: Languages = None  # pretrain on these alone; tokenizer and first weights are those of all
    prepare: PrepareConfig = PrepareConfig()
    text: TextConfig = TextConfig()  # prefixes and lengths of what the model is trained for later
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> PretrainRunConfig:
        check_sources(self.corpora)
        if self.pretrain.objective == "contrastive" and self.model.dropout == 0:
            raise ValueError("contrastive tells a text from itself by dropout alone; write model.dropout=0.1")
        return self

    @property
    def encoder_text(self) -> TextConfig:
        """What the encoder has room and prompts for."""
        longest = max(self.text.max_passage_tokens, self.pretrain.block_tokens)
        return self.text.model_copy(update={"max_passage_tokens": longest})

    @property
    def preparing(self) -> RunConfig:
        """The run whose store it reads: all languages, and texts without prefixes."""
        most = self.pretrain.most_text_tokens
        bare = TextConfig(query_prefix="", passage_prefix="", max_query_tokens=most, max_passage_tokens=most)
        return RunConfig(corpora=self.corpora, prepare=self.prepare, text=bare, model=self.model)
