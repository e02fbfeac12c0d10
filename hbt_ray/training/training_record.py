"""What a model was trained on, as digests and as the settings of the order of its batches, in the model's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import hbt_ray
from hbt_ray.config import MixConfig, ModelConfig, RunConfig, TextConfig, build
from hbt_ray.config.base import Settings
from hbt_ray.data.manifest import MANIFEST, StoreManifest, read_manifest
from hbt_ray.data.store_inputs import TOKENIZER
from hbt_ray.data.tokenizer import PairTokenizer, load_tokenizer
from hbt_ray.errors import ConfigError, StoreError
from hbt_ray.sampling.hybrid_sampler import HybridStepSampler
from hbt_ray.sampling.order_digest import order_digest
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.digests import with_checksum, without_checksum

TRAINING_RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """Which texts a model was trained on, and in which order. The fields are those of `training.json`."""

    store: str  # `StoreManifest.content_fingerprint`
    order: str  # `order_digest` of all batches
    steps: int  # optimizer steps of the weights
    batches_per_step: int
    global_batch_pairs: int
    seed: int
    languages: tuple[str, ...] | None
    with_query_translations: bool
    mix: Settings
    text: Settings
    version: str = hbt_ray.__version__

    @classmethod
    def of(cls, config: RunConfig, manifest: StoreManifest, steps: int) -> TrainingRecord:
        """Describe the training of a run up to a step."""
        record = cls(
            store=manifest.content_fingerprint(),
            order="",
            steps=steps,
            batches_per_step=config.train.gradient_accumulation,
            global_batch_pairs=config.train.global_batch_pairs,
            seed=config.seed,
            languages=config.languages,
            with_query_translations=config.loss.requires_translations,
            mix=config.mix.model_dump(mode="json"),
            text=config.text.model_dump(mode="json"),
        )
        digest = order_digest(record.sampler(manifest), record.batches)
        return replace(record, order=digest)

    @property
    def batches(self) -> int:
        """The number of global batches in all steps."""
        return self.steps * self.batches_per_step

    def sampler(self, manifest: StoreManifest) -> HybridStepSampler:
        """Return the sampler of the training batches."""
        return HybridStepSampler(
            manifest,
            build(MixConfig, self.mix),
            seed=self.seed,
            global_batch_pairs=self.global_batch_pairs,
            languages=self.languages,
            with_query_translations=self.with_query_translations,
        )

    def tokenizer(self, model: str | Path, store: Path, *, trust_remote_code: bool = False) -> PairTokenizer:
        """Return the tokenizer of the store: the model's, or that of the store's folder.

        Args:
            model: folder of the model.
            store: that it was trained on.
            trust_remote_code: run code from the model's folder.

        Raises:
            StoreError: neither is the one that the store was made with.
        """
        expected = read_manifest(store).text_fingerprint
        for path in (str(model), str(store / TOKENIZER)):
            if Path(path).expanduser().is_dir():
                loaded = load_tokenizer(ModelConfig(path=path, trust_remote_code=trust_remote_code))
                tokenizer = PairTokenizer(loaded, build(TextConfig, self.text))
                if tokenizer.fingerprint() == expected:
                    return tokenizer
        raise StoreError(
            f"the store {store} was made with another tokenizer than that of {model}; name the folder of the model "
            "that was trained on it"
        )

    def write(self, folder: Path) -> None:
        """Write `training.json`."""
        atomic_write_text(folder / TRAINING_RECORD, with_checksum(asdict(self)))


def read_training_record(model: str | Path) -> TrainingRecord | None:
    """Read the record of a model; None if its folder has none.

    Raises:
        ConfigError: it is damaged.
    """
    file = Path(model).expanduser() / TRAINING_RECORD
    try:
        data = without_checksum(file.read_text(encoding="utf-8"))
        languages = data.pop("languages")
        return TrainingRecord(**data, languages=None if languages is None else tuple(languages))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({' '.join(str(error).split())[:100]}); export the model again") from None


def find_store(run: Path, fingerprint: str, folder: str | Path | None) -> Path:
    """Return the folder of the store that a run was trained on.

    Args:
        run: folder of the run.
        fingerprint: `StoreManifest.content_fingerprint` of its store.
        folder: of the store, or of stores. None: `stores` next to the run.

    Raises:
        StoreError: it is not there.
    """
    root = Path(folder).expanduser() if folder is not None else run.parent / "stores"
    for file in (root / MANIFEST, *sorted(root.glob(f"*/{MANIFEST}"))):
        if file.is_file() and read_manifest(file.parent).content_fingerprint() == fingerprint:
            return file.parent
    raise StoreError(
        f"{root} does not have the store {fingerprint}, which the run was trained on; name its folder with --store"
    )
