"""Hybrid batches for sentence-transformers' trainer, or for any `torch.utils.data.DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch.distributed as dist
from torch.utils.data import ConcatDataset, Sampler

from hbt_ray.config import MixConfig, build
from hbt_ray.data.hybrid_dataset import HybridDataset, PairIndex
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.hybrid_sampler import HybridStepSampler


class HybridBatchSampler(Sampler[list[int]]):
    """Yield the batches of `HybridStepSampler` as indices of a `HybridDataset`.

    Pass the class, or a `functools.partial` of it with settings of the mix, as `batch_sampler` of
    `SentenceTransformerTrainingArguments`; with several data sets, as `multi_dataset_batch_sampler` as well:

        args = SentenceTransformerTrainingArguments(..., batch_sampler=partial(HybridBatchSampler, alpha=0.6))

    With R ranks and B pairs on each, a global batch has G = R * B pairs. The batch of step s is that of
    `hbt plan` with the same items, settings, seed and G. It is yielded as R lists of B indices, in the order of the
    ranks. accelerate gives every R-th list to a rank, so all ranks have the same step, kind and languages. An epoch has
    as many batches as the rows fill; epoch e begins at step e * batches.

    Args:
        dataset: a `HybridDataset`, or a `ConcatDataset` of several with different names.
        batch_size: B.
        drop_last: has no effect: every batch is full.
        valid_label_columns: has no effect.
        generator: has no effect: draws are functions of the seed.
        seed: of all draws.
        batch_samplers: one for each of several data sets, from which B is taken.
        mix: composition of the batches. Default: `MixConfig()` with the data set's `hard_negatives`.
        languages: to draw from. Default: all.
        num_ranks: R. Default: the size of torch's process group. With `split_batches` of accelerate write 1: B is then
            the global batch, and accelerate divides it.
        **settings: settings of the mix by name, such as alpha=0.6.

    Raises:
        ConfigError: a setting is wrong, the data set is of another class, has another number of hard negatives, or
            cannot supply the batches.
    """

    def __init__(
        self,
        dataset: HybridDataset | ConcatDataset[Any],
        batch_size: int | None = None,
        drop_last: bool = True,
        valid_label_columns: Sequence[str] | None = None,
        generator: object = None,
        seed: int = 0,
        *,
        batch_samplers: Sequence[Any] | None = None,
        mix: MixConfig | None = None,
        languages: Sequence[str] | None = None,
        num_ranks: int | None = None,
        **settings: Any,
    ) -> None:
        parts: list[Any] = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
        other = next((part for part in parts if not isinstance(part, HybridDataset)), None)
        if other is not None:
            raise ConfigError(
                f"a {type(other).__name__} cannot pair a question with the passage of another row; "
                "wrap it: hbt_ray.HybridDataset(dataset)"
            )
        self.datasets: list[HybridDataset] = parts
        if batch_size is None:
            batch_size = next((sampler.batch_size for sampler in batch_samplers or ()), 1)
        self.batch_size = batch_size
        self.drop_last = True  # as accelerate reads it
        self.seed = seed
        self.num_ranks = num_ranks or (dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1)
        negatives = self.datasets[0].hard_negatives
        chosen: dict[str, Any] = {
            "hard_negatives": negatives,
            **(mix.model_dump(exclude_unset=True) if mix else {}),
            **settings,
        }
        self.mix = build(MixConfig, chosen)
        if self.mix.hard_negatives != negatives:
            raise ConfigError(
                f"hard_negatives is {self.mix.hard_negatives}, and the data set has {negatives}; write "
                f"HybridDataset(rows, hard_negatives={self.mix.hard_negatives})"
            )
        if self.mix.strategy == "one-to-k":
            raise ConfigError(
                "one-to-k has several passages for a question, and a data set's row has one; use hbt train"
            )
        self.languages = tuple(languages) if languages else None
        self.set_epoch(0)
        if isinstance(dataset, ConcatDataset):
            vars(dataset)["set_epoch"] = self.set_epoch  # see HybridDataset.set_epoch

    @cached_property
    def steps(self) -> HybridStepSampler:
        """The sampler of steps; it is built on first use."""
        by_source = {name: part for part in self.datasets for name in part.manifest.sources}
        if len(by_source) < sum(len(part.manifest.sources) for part in self.datasets):
            raise ConfigError("two data sets have one name; write HybridDataset(rows, name=...) with different ones")
        manifest = StoreManifest("", "", {name: by_source[name].manifest.sources[name] for name in sorted(by_source)})
        try:
            return HybridStepSampler(
                manifest,
                self.mix,
                seed=self.seed,
                global_batch_pairs=self.batch_size * self.num_ranks,
                languages=self.languages,
                split=self.datasets[0].split_of_items,
            )
        except ConfigError as error:
            message = str(error).replace("global_batch_pairs", "per_device_train_batch_size")
            raise ConfigError(message.replace("the corpora", "the data set")) from None

    def batch(self, step: int) -> list[int]:
        """Return the global batch of a step: G indices, each a `PairIndex`."""
        spec = self.steps.batch(step)
        offset = 0
        for part in self.datasets:
            if spec.source in part.manifest.sources:
                break
            offset += len(part)
        questions = part.rows_of(spec.source, spec.rows, spec.query_languages) + offset
        passages = part.rows_of(spec.source, spec.rows, spec.passage_languages) + offset
        return [PairIndex(*rows) for rows in zip(questions.tolist(), passages.tolist(), strict=True)]

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration yields."""
        return self.datasets[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration yields."""
        for part in self.datasets:
            part.set_epoch(epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Number of global batches of an epoch."""
        return max(sum(map(len, self.datasets)) // (self.batch_size * self.num_ranks), 1)

    def __len__(self) -> int:
        return self.batches_per_epoch * self.num_ranks

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.batches_per_epoch
        for step in range(first, first + self.batches_per_epoch):
            batch = self.batch(step)
            for start in range(0, len(batch), self.batch_size):
                yield batch[start : start + self.batch_size]
