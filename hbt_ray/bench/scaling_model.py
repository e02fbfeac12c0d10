"""Analytic model of training speed over GPUs, and a real run of the data feed of 64 ranks.

    step = max(compute + optimizer + exchange(gradients) + exchange(negatives), feed)
    pairs/s = n * b / step

Legend: n GPUs, one rank each, b pairs on each, S hard negatives per pair, P parameters, D width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hbt_ray.bench.data_feed import PAIRS, TOKENS, make_batch_builder, make_sampler
from hbt_ray.bench.fixtures import write_synthetic_store
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import scratch_folder
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.sampling import rank_slice
from hbt_ray.utils.digests import JsonObject

if TYPE_CHECKING:
    from rich.table import Table

GPUS = (1, 2, 4, 8, 16, 32, 64)
RANKS = (1, 8, 64)  # numbers of ranks whose feed is run
# Tokens of a global batch -> its distinct ids: pairs of parallel documentation in 14 languages (three of them Chinese),
# 110 tokens each, by XLM-R's tokenizer. The last is a whole store.
DISTINCT_IDS = {
    1_690: 937,
    3_538: 1_822,
    7_306: 3_333,
    14_496: 5_609,
    28_491: 8_959,
    57_446: 13_699,
    114_071: 19_405,
    226_248: 25_963,
    452_260: 32_955,
    904_520: 39_932,
    15_000_000: 62_031,
}


def _assumed(default: float, unit: str, source: str) -> Any:
    return field(default=default, metadata={"unit": unit, "source": source})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Inputs of the model, each with its unit and source; the defaults are XLM-R-base on nodes of eight A100.

    None is a measurement of this project except `feed_batches_s`, which `bench_scaling` fills in.
    """

    pairs_per_gpu: float = _assumed(128, "pairs", "a choice")
    hard_negatives: float = _assumed(0, "per pair", "a choice")
    tokens_per_pair: float = _assumed(120, "tokens", "the synthetic store's mean: 40 of a question, 80 of a passage")
    layers: float = _assumed(12, "layers", "XLM-R-base's configuration")
    width: float = _assumed(768, "values", "XLM-R-base's configuration")
    vocabulary: float = _assumed(250_002, "tokens", "XLM-R-base's configuration")
    gpu_flops: float = _assumed(312e12, "FLOP/s", "NVIDIA's data sheet of the A100, dense bf16")
    utilisation: float = _assumed(
        0.4, "share of gpu_flops", "a guess; `compute_s` takes its place where it is measured"
    )
    compute_s: float = _assumed(0, "s a step of one GPU", "measured on the GPU in question; 0: from the five above")
    memory_bytes_s: float = _assumed(2.0e12, "bytes/s", "NVIDIA's data sheet of the A100 80 GB")
    optimizer_bytes: float = _assumed(28, "bytes per parameter", "AdamW in float32: four values read, three written")
    gradient_bytes: float = _assumed(4, "bytes per parameter", "DDP exchanges float32")
    embedding_rows: float = _assumed(
        0, "rows that are exchanged", "0: the distinct ids of a global batch, measured; `vocabulary`: all rows"
    )
    embedding_bytes: float = _assumed(4, "bytes per value", "float32; 2 with train.embedding_exchange=bf16")
    hidden_share: float = _assumed(
        0, "share of the gradients' exchange", "none hides behind the backward pass: the worst"
    )
    gpus_per_node: float = _assumed(8, "GPUs", "DGX A100")
    within_node_bytes_s: float = _assumed(230e9, "bytes/s of a ring", "usual in NCCL's tests on a DGX A100 over NVLink")
    between_nodes_gbit_s: float = _assumed(400, "Gbit/s of a node", "a choice; clouds have 100 to 3,200")
    hop_s: float = _assumed(10e-6, "s of a message", "a guess")
    feed_batches_s: float = _assumed(0, "batches/s of a rank", "measured here by this part; 0: never waited for")

    @property
    def encoder_parameters(self) -> float:
        """Number of parameters of the layers: 4 D^2 of attention and 8 D^2 of the feed-forward block in each.

        >>> Assumptions().encoder_parameters
        84934656.0
        """
        return 12.0 * self.layers * self.width**2

    @property
    def parameters(self) -> float:
        """Number of all parameters: with the embeddings, which cost communication but no arithmetic."""
        return self.encoder_parameters + self.vocabulary * self.width

    def exchanged_bytes(self, gpus: int) -> float:
        """Return the bytes of a step's gradient, which each of n GPUs sends 2 (n - 1) / n times.

        >>> round(Assumptions(embedding_rows=250_002).exchanged_bytes(8) / 1e9, 2)  # the whole table
        1.11
        >>> round(Assumptions().exchanged_bytes(8) / 1e9, 2)
        0.4
        """
        tokens = gpus * self.pairs_per_gpu * self.tokens_per_pair * (1 + self.hard_negatives * 2 / 3)
        distinct = np.interp(np.log(tokens), np.log(list(DISTINCT_IDS)), list(DISTINCT_IDS.values()))
        rows = min(self.embedding_rows or min(float(distinct), tokens), self.vocabulary)
        return self.gradient_bytes * self.encoder_parameters + self.embedding_bytes * rows * self.width


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted seconds of each part of a step on a number of GPUs, and the resulting speed."""

    gpus: int
    compute_s: float
    optimizer_s: float
    gradients_s: float
    negatives_s: float
    feed_s: float
    pairs_per_s: float
    efficiency: float  # pairs per second per GPU, relative to a single GPU
    gradient_bytes: float


def override_assumptions(changed: Mapping[str, float]) -> Assumptions:
    """Return the default assumptions with the given values. Raise ConfigError if a name is not an assumption."""
    known = [item.name for item in fields(Assumptions)]
    unknown = sorted(set(changed) - set(known))
    if unknown:
        raise ConfigError(f"there is no assumption {unknown[0]!r}; write --assume with one of {', '.join(known)}")
    return replace(Assumptions(), **changed)


def predict_step(given: Assumptions, gpus: int) -> Prediction:
    """Predict one step on `gpus` GPUs.

    - Compute: 6 FLOP per parameter and token (Kaplan et al. 2020, arXiv 2001.08361); 12 L T D per token for attention,
      where T is half of a pair's tokens; and 6 D for each combination of a GPU's questions with all GPUs' passages.
    - Gradient all-reduce around a ring: 2 (n - 1) / n of the gradients' bytes, in 2 (n - 1) messages. Of the word
      embeddings, only the rows of the global batch's tokens are exchanged; a rank reads the whole batch for their ids.
    - Negative exchange around a ring: forward, n - 1 times a rank's passage vectors in float32 with two keys of 8
      bytes; backward, twice the bytes of the vectors.
    - A ring is as fast as its slowest link: with more than one node, the link between nodes.
    """
    single = _step_s(given, 1)
    step = _step_s(given, gpus)
    pairs_per_s = gpus * given.pairs_per_gpu / _total_s(step)
    efficiency = _total_s(single) / _total_s(step)
    return Prediction(
        gpus, *step, pairs_per_s=pairs_per_s, efficiency=efficiency, gradient_bytes=given.exchanged_bytes(gpus)
    )


def _total_s(step: Sequence[float]) -> float:
    """Return the seconds of a step; the feed, which is the last part, runs concurrently with the others."""
    *sequential, feed_s = step
    return max(sum(sequential), feed_s)


def _step_s(given: Assumptions, gpus: int) -> tuple[float, float, float, float, float]:
    """Return the seconds of compute, optimizer, gradient exchange, negative exchange, and feed."""
    pairs, others = given.pairs_per_gpu, gpus - 1
    passages = pairs * (1 + given.hard_negatives)
    # A negative is as long as a passage: two thirds of a pair.
    tokens = pairs * given.tokens_per_pair * (1 + given.hard_negatives * 2 / 3)
    flops = tokens * (6 * given.encoder_parameters + 12 * given.layers * given.width * given.tokens_per_pair / 2)
    flops += 6 * given.width * pairs * passages * gpus
    compute_s = given.compute_s or flops / (given.gpu_flops * given.utilisation)
    optimizer_s = given.optimizer_bytes * given.parameters / given.memory_bytes_s
    within = gpus <= given.gpus_per_node
    bandwidth = given.within_node_bytes_s if within else given.between_nodes_gbit_s * 1e9 / 8
    gradients_s = 2 * others / gpus * given.exchanged_bytes(gpus) / bandwidth + 2 * others * given.hop_s
    gradients_s *= 1 - given.hidden_share
    negatives_s = others * passages * (12 * given.width + 16) / bandwidth + 5 * others * given.hop_s
    batches_read = 1 + gpus if gpus > 1 and given.embedding_rows < given.vocabulary else 1
    feed_s = batches_read / given.feed_batches_s if given.feed_batches_s else 0.0
    return compute_s, optimizer_s, gradients_s, negatives_s, feed_s


def bench_scaling(settings: BenchSettings) -> BenchResult:
    """Compare the batches per second of one rank's feed among 64 ranks with those of a single rank; run the model.

    Each rank has the same number of pairs, so the global batch grows with the number of ranks. Details `predicted` and
    `assumed`: the model's predictions and all of its assumptions.
    """
    given = override_assumptions(settings.assume)
    items, batches = (8_000, 8) if settings.quick else (200_000, 512)
    with scratch_folder(settings.out / "scale") as scratch:
        store = TokenStore.open(write_synthetic_store(scratch / "store", items, TOKENS))
        check_ranks(store, RANKS[-1], steps=4)
        rates = [feed_rates(store, RANKS, batches) for _ in range(min(settings.rounds, 3))]
    medians = {ranks: float(np.median([by_ranks[ranks] for by_ranks in rates])) for ranks in RANKS}
    if not given.feed_batches_s:
        # The feed was timed on batches of PAIRS pairs; its time is proportional to the number of pairs.
        given = replace(given, feed_batches_s=medians[RANKS[-1]] * PAIRS / given.pairs_per_gpu)
    predicted = [predict_step(given, gpus) for gpus in GPUS]
    return summarize_rounds(
        [by_ranks[RANKS[-1]] for by_ranks in rates],
        [by_ranks[RANKS[0]] for by_ranks in rates],
        "batches/s",
        {
            "peer_is": f"the feed of a single rank; the value is that of each of {RANKS[-1]} ranks",
            "pairs": PAIRS,
            "batches_per_s_by_ranks": {str(ranks): round(rate, 1) for ranks, rate in medians.items()},
            "predicted": [asdict(prediction) for prediction in predicted],
            "assumed": describe_assumptions(given),
        },
    )


def check_ranks(store: TokenStore, ranks: int, steps: int) -> None:
    """Raise UserError unless the ranks' pairs, each sampled independently, are disjoint and join to the whole batch."""
    samplers = [make_sampler(store, ranks) for _ in range(ranks)]
    for step in range(steps):
        whole = samplers[0].batch(step)
        rank_batches = [
            sampler.batch(step, rank_slice(sampler.global_batch_size, ranks, rank))
            for rank, sampler in enumerate(samplers)
        ]
        rows = np.concatenate([batch.rows for batch in rank_batches])
        if len(np.unique(rows)) != len(rows) or not np.array_equal(rows, whole.rows):
            raise UserError(f"the pairs of {ranks} ranks do not join to the batch of step {step}")


def feed_rates(store: TokenStore, ranks: Sequence[int], batches: int) -> dict[int, float]:
    """Return the batches per second of one rank's feed for each number of ranks, a mean over max(ranks) runs.

    One rank runs at a time, as if it had its own processor. In a smaller group every rank is run several times.
    """
    rates = {}
    for num_ranks in ranks:
        seconds = 0.0
        for run in range(max(ranks)):
            build_next = make_batch_builder(store, batches, rank=run % num_ranks, num_ranks=num_ranks)
            began_s = time.perf_counter()
            build_next()
            seconds += time.perf_counter() - began_s
        rates[num_ranks] = max(ranks) * batches / seconds
    return rates


def describe_assumptions(given: Assumptions) -> dict[str, JsonObject]:
    """Return the value, unit and source of every assumption."""
    return {item.name: {"value": getattr(given, item.name), **item.metadata} for item in fields(given)}


def format_predictions(result: BenchResult) -> Table:
    """Return the model's predictions as a table to print."""
    from rich.table import Table

    title = "Predicted, not measured: see `assumed` in bench.json; parts of a step in ms, gradients in GB"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fits a line of 80
    parts = ("step", "compute", "optimizer", "gradients", "negatives", "feed")
    for heading in ("GPUs", "pairs/s", "efficiency", *parts, "GB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.details["predicted"]:
        step = [row[name] for name in ("compute_s", "optimizer_s", "gradients_s", "negatives_s", "feed_s")]
        milliseconds = [f"{1e3 * seconds:.1f}" for seconds in (_total_s(step), *step)]
        speed = (f"{row['pairs_per_s']:,.0f}", f"{row['efficiency']:.0%}")
        table.add_row(str(row["gpus"]), *speed, *milliseconds, f"{row['gradient_bytes'] / 1e9:.2f}")
    return table
