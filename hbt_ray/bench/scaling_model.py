"""How far training scales: a model of pairs a second over GPUs, and the feed of as many ranks really run.

    step = max(compute + optimizer + exchange(gradients) + exchange(negatives), feed)
    pairs/s = n * b / step

Legend: n GPUs, one rank each, b pairs of each, S hard negatives per pair, P parameters, D width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hbt_ray.bench.data_feed import PAIRS, TOKENS, feeder, plan_of
from hbt_ray.bench.result import BenchResult, of_rounds
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.synthetic import write_synthetic_store
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.sampling import rank_slice

if TYPE_CHECKING:
    from rich.table import Table

GPUS = (1, 2, 4, 8, 16, 32, 64)
RANKS = (1, 8, 64)  # of which the feed is run


def _assumed(default: float, unit: str, source: str) -> Any:
    return field(default=default, metadata={"unit": unit, "source": source})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What a prediction rests on. Each has a unit and says where it is from; none was measured here but `feed`.

    Defaults are those of XLM-R-base on nodes of eight A100.
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
    gradient_bytes: float = _assumed(4, "bytes per parameter", "DDP exchanges float32, the embeddings' as well")
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
        """Of the layers, which every token passes: 4 D^2 of attention and 8 D^2 of the feed-forward part in each.

        >>> Assumptions().encoder_parameters
        84934656.0
        """
        return 12.0 * self.layers * self.width**2

    @property
    def parameters(self) -> float:
        """With the embeddings, which cost an exchange but no arithmetic."""
        return self.encoder_parameters + self.vocabulary * self.width


@dataclass(frozen=True, slots=True)
class Prediction:
    """One step of a number of GPUs; seconds, and what they come to."""

    gpus: int
    compute_s: float
    optimizer_s: float
    gradients_s: float
    negatives_s: float
    feed_s: float
    pairs_per_s: float
    efficiency: float  # pairs a second of each GPU, over those of one alone


def assumptions(changed: Mapping[str, float]) -> Assumptions:
    """The defaults with some of them changed. Raises ConfigError where there is no such assumption."""
    known = [one.name for one in fields(Assumptions)]
    unknown = sorted(set(changed) - set(known))
    if unknown:
        raise ConfigError(f"there is no assumption {unknown[0]!r}; write --assume with one of {', '.join(known)}")
    return replace(Assumptions(), **changed)


def predict(given: Assumptions, gpus: int) -> Prediction:
    """One step of `gpus` GPUs.

    - Compute: 6 FLOP a parameter and token (Kaplan et al. 2020, arXiv 2001.08361), 12 L T D a token for attention of T
      tokens, half a pair's, and 6 D for each of a GPU's questions and passages of all.
    - Exchanges go around a ring: 2 (n - 1) / n of the gradients' bytes, in 2 (n - 1) messages; of the passages' vectors
      n - 1 times a rank's own forward, in float32 with two keys of 8 bytes, and twice that of the vectors backward.
      A ring is as fast as its slowest link: of more than a node, the link between nodes.
    """
    alone = _step_s(given, 1)
    step = _step_s(given, gpus)
    pairs_per_s = gpus * given.pairs_per_gpu / _longest(step)
    efficiency = _longest(alone) / _longest(step)
    return Prediction(gpus, *step, pairs_per_s=pairs_per_s, efficiency=efficiency)


def _longest(step: Sequence[float]) -> float:
    """Seconds of a step: the feed runs beside the rest."""
    *own, feed_s = step
    return max(sum(own), feed_s)


def _step_s(given: Assumptions, gpus: int) -> tuple[float, float, float, float, float]:
    """Seconds of compute, optimizer, the gradients' exchange, the negatives', and the feed."""
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
    gradients_s = 2 * others / gpus * given.gradient_bytes * given.parameters / bandwidth + 2 * others * given.hop_s
    gradients_s *= 1 - given.hidden_share
    negatives_s = others * passages * (12 * given.width + 16) / bandwidth + 5 * others * given.hop_s
    feed_s = 1 / given.feed_batches_s if given.feed_batches_s else 0.0
    return compute_s, optimizer_s, gradients_s, negatives_s, feed_s


def scale(settings: BenchSettings) -> BenchResult:
    """Batches a second of each rank's feed where 64 ranks share the batches, against one rank; and the model.

    Each rank has the same number of pairs, so that the global batch grows with the ranks. What the model predicts
    stands in the details, with everything that it assumes.
    """
    given = assumptions(settings.assume)
    items, batches = (8_000, 8) if settings.quick else (200_000, 512)
    with scratch_folder(settings.out / "scale") as scratch:
        store = TokenStore.open(write_synthetic_store(scratch / "store", items, TOKENS))
        check_ranks(store, RANKS[-1], steps=4)
        rates = [feed_rates(store, RANKS, batches) for _ in range(min(settings.rounds, 3))]
    medians = {ranks: float(np.median([of_round[ranks] for of_round in rates])) for ranks in RANKS}
    if not given.feed_batches_s:
        # The feed was measured on batches of PAIRS pairs: a rank's own batch takes as many times as long.
        given = replace(given, feed_batches_s=medians[RANKS[-1]] * PAIRS / given.pairs_per_gpu)
    predicted = [predict(given, gpus) for gpus in GPUS]
    return of_rounds(
        [of_round[RANKS[-1]] for of_round in rates],
        [of_round[RANKS[0]] for of_round in rates],
        "batches/s",
        {
            "peer_is": f"the feed of one rank alone; of each of {RANKS[-1]} ranks here",
            "pairs": PAIRS,
            "batches_per_s_by_ranks": {str(ranks): round(rate, 1) for ranks, rate in medians.items()},
            "predicted": [asdict(one) for one in predicted],
            "assumed": described(given),
        },
    )


def check_ranks(store: TokenStore, ranks: int, steps: int) -> None:
    """Raises UserError unless the ranks' pairs, each planned alone, are disjoint and join to the whole batch."""
    plans = [plan_of(store, ranks) for _ in range(ranks)]
    for step in range(steps):
        whole = plans[0].batch(step)
        parts = [plan.batch(step, rank_slice(plan.global_batch_pairs, ranks, rank)) for rank, plan in enumerate(plans)]
        rows = np.concatenate([part.rows for part in parts])
        if len(np.unique(rows)) != len(rows) or not np.array_equal(rows, whole.rows):
            raise UserError(f"the pairs of {ranks} ranks do not join to the batch of step {step}")


def feed_rates(store: TokenStore, ranks: Sequence[int], batches: int) -> dict[int, float]:
    """Batches a second of one rank's feed by the number of ranks: a mean over as many ranks as the largest number.

    One rank runs at a time, as if it had a processor of its own. A smaller group is run as often as makes up for it.
    """
    rates = {}
    for num_ranks in ranks:
        turns = [rank % num_ranks for rank in range(max(ranks))]
        seconds = 0.0
        for rank in turns:
            make = feeder(store, batches, rank=rank, num_ranks=num_ranks)
            began_s = time.perf_counter()
            make()
            seconds += time.perf_counter() - began_s
        rates[num_ranks] = len(turns) * batches / seconds
    return rates


def described(given: Assumptions) -> dict[str, dict[str, Any]]:
    """Every assumption's value, unit and source."""
    return {one.name: {"value": getattr(given, one.name), **one.metadata} for one in fields(given)}


def scale_table(figure: BenchResult) -> Table:
    """What the model predicts, as a table to print."""
    from rich.table import Table

    title = "Predicted, not measured: see `assumed` in bench.json; parts of a step in ms"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fits a line of 80
    parts = ("step", "compute", "optimizer", "gradients", "negatives", "feed")
    for heading in ("GPUs", "pairs/s", "efficiency", *parts):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in figure.details["predicted"]:
        own = [one[name] for name in ("compute_s", "optimizer_s", "gradients_s", "negatives_s", "feed_s")]
        shown = [f"{1e3 * seconds:.1f}" for seconds in (_longest(own), *own)]
        table.add_row(str(one["gpus"]), f"{one['pairs_per_s']:,.0f}", f"{one['efficiency']:.0%}", *shown)
    return table
