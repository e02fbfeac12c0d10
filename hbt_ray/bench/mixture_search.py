"""Steps that a search for a mixture takes to a quality: branches of one training against independent trainings.

The corpus is synthetic. An item is a set of concepts; a language writes each concept with one of some synonyms, more in
one language than in another, so that languages differ in size and difficulty. Of three sources one is clean, and of two
larger ones many or all passages do not answer their questions. A good mixture avoids these.
"""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from hbt_ray.bench.fixtures import word_tokenizer
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.config import TextConfig, build_config
from hbt_ray.config.base import Settings
from hbt_ray.data.manifest import write_manifest
from hbt_ray.data.token_store import TokenItem, TokenStore, write_shard
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.evaluation.evaluator import retrieval_metrics_of
from hbt_ray.models.encoder import init_encoder, save_encoder
from hbt_ray.models.text_embedder import TextEmbedder
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.search.algorithms import list_candidates
from hbt_ray.search.branching import branch_quantiles, segments, values_at
from hbt_ray.search.candidates import Mixture, with_mixtures
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.base_trainer import BaseTrainer
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.storage import StoragePath

LANGUAGES = {"en": (1000, 1), "de": (400, 2), "fr": (150, 3), "hi": (60, 4)}  # items of the clean source, synonyms
SOURCES = {"clean": (1.0, 0.0), "web": (2.0, 0.5), "junk": (2.0, 1.0)}  # items relative to it, share of wrong passages
CONCEPTS, PER_ITEM, FILLERS = 80, 4, 40
OBJECTIVES = ("mono/map", "cross/map", "multi/map")  # the quality is their mean
SPACE: Settings = {
    "mix.alpha": {"uniform": [0, 1]},
    "mix.language_weights": {"simplex": list(LANGUAGES)},
    "mix.source_weights": {"simplex": list(SOURCES)},
}
CANDIDATES, STEPS = 10, 60  # of random search
BRANCHES = {"configurations": 4, "measure_every": 4, "branch_every": 15}
QUICK = (3, 4, {"configurations": 2, "measure_every": 2, "branch_every": 4})


class Point(NamedTuple):
    """The qualities of a trained encoder."""

    dev: float  # quality on the items to choose by
    test: float  # quality on other items
    steps: int  # of all trainings up to it


def bench_mixture_search(settings: BenchSettings) -> BenchResult:
    """Compare the optimizer steps of a search by branches with those of random search to the same quality.

    1. For each seed: a training with both exponents of sampling at 0.5, CANDIDATES random mixtures, and a search by
       branches. `rounds` is the number of seeds.
    2. The quality of random search after n trainings is the mean over all choices of n of them, each by the dev items.
    3. The baseline is the steps of the smallest n that is as good as branches, of means over seeds.

    `mixture_search.json` keeps what was trained, and a later call continues there.
    """
    count, steps, branches = QUICK if settings.quick else (CANDIDATES, STEPS, BRANCHES)
    file = settings.out / "mixture_search.json"
    known: dict[str, list[float]] = load_json(file.read_text()) if file.exists() else {}

    def once(key: str, train: Callable[[], Point]) -> Point:
        if key not in known:
            known[key] = list(train())
            atomic_write_text(file, json.dumps(known))
        dev, test, trained = known[key]
        return Point(dev, test, int(trained))

    size = [(0, {"mix.language_sampling": 0.5, "mix.source_sampling": 0.5})]
    fixed, drawn, branched = [], [], []
    for seed in range(settings.rounds):
        world = World(settings.out / f"mixtures-{seed}", seed, steps)
        fixed.append(once(f"size {seed}", functools.partial(world.train, size)))
        candidates = list_candidates(_search(seed, steps, algorithm="random", configurations=count))
        drawn.append(
            [
                once(f"random {seed} {number}", functools.partial(world.train, [(0, dict(candidate.values))]))
                for number, candidate in enumerate(candidates)
            ]
        )
        branched.append(once(f"branch {seed}", functools.partial(world.search_by_branches, branches)))
    return _result(steps, fixed, drawn, branched)


def _search(seed: int, steps: int, **settings: object) -> SearchConfig:
    run = {"train": {"steps": steps}}
    return SearchConfig.model_validate({"run": run, "space": SPACE, "seed": seed, **settings})


class World:
    """The corpus, the initial encoder and the evaluation sets of one seed."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        self.folder, self.seed, self.steps = folder, seed, steps
        text = TextConfig(query_prefix="", passage_prefix="", max_query_tokens=12, max_passage_tokens=16)
        tokenizer = word_tokenizer(8 + len(LANGUAGES) * (CONCEPTS * 4 + FILLERS))
        small = {"layers": 1, "width": 32, "heads": 2, "vocabulary": len(tokenizer)}
        train = {
            "steps": steps,
            "global_batch_pairs": 32,
            "chunk_pairs": 32,
            "learning_rate": 0.01,
            "vocabulary": "all",
        }
        self.config = build_config(
            {
                "seed": seed,
                "text": text.model_dump(),
                "model": {"path": str(folder / "encoder"), "small": small, "dropout": 0.0},
                "train": {**train, "precision": "fp32", "temperature": 0.1},
            }
        )
        self._tokenizer = tokenizer
        rng = random.Random(1000 + seed)
        self.dev, self.test = (_benchmark(rng, name, 40) for name in ("dev", "test"))

    @functools.cached_property
    def store(self) -> TokenStore:
        """The corpus; the encoder is written with it."""
        pairs, rng = PairTokenizer(self._tokenizer, self.config.text), random.Random(self.seed)
        shards = [
            write_shard(self.folder, source, "train", 0, _items(pairs, rng, source), pairs.token_type)
            for source in SOURCES
        ]
        write_manifest(self.folder, shards, text_fingerprint=pairs.fingerprint(), token_type=pairs.token_type)
        encoder = init_encoder(self.config.model, self.config.text, self._tokenizer, seed=self.seed)
        save_encoder(encoder, self.folder / "encoder")
        return TokenStore.open(self.folder)

    def train(self, mixtures: Sequence[Mixture]) -> Point:
        """Train from the beginning to the end."""
        return self._train(mixtures, 0, self.steps, None, self.folder / "whole", self.steps)

    def search_by_branches(self, branches: Mapping[str, int]) -> Point:
        """Search as `algorithm: branch` does."""
        search = _search(self.seed, self.steps, algorithm="branch", **branches)
        quantiles: list[float] | None = None
        mixtures: list[Mixture] = []
        parent: Path | None = None
        total = 0
        for number, segment in enumerate(segments(search)):
            ended = []
            for branch in range(segment.branches):
                moved = branch_quantiles(search, number, branch, quantiles)
                values = values_at(search, moved)
                changed = [] if mixtures and mixtures[-1][1] == values else [(segment.first, values)]
                folder = self.folder / f"{segment.first}-{branch}"
                total += segment.until - segment.first
                point = self._train([*mixtures, *changed], segment.first, segment.until, parent, folder, total)
                ended.append((point, moved, [*mixtures, *changed], folder))
            point, quantiles, mixtures, parent = max(ended, key=lambda one: one[0].dev)
        return point._replace(steps=total)

    @functools.cached_property
    def _trainer(self) -> BaseTrainer[PairBatch]:
        """The trainer of all trainings of this seed, which differ in their batches only."""
        store = self.store
        trainer = self._task([(0, {})]).build_trainer("cpu", store)
        CheckpointManager(self._start).save(trainer, TrainState(), {})
        return trainer

    @property
    def _start(self) -> StoragePath:
        return StoragePath.of(self.folder / "start")

    def _task(self, mixtures: Sequence[Mixture]) -> ContrastiveTask:
        return ContrastiveTask(with_mixtures(self.config, mixtures), str(self.folder / "encoder"), lambda *_: {})

    def _train(
        self, mixtures: Sequence[Mixture], first: int, until: int, parent: Path | None, folder: Path, steps: int
    ) -> Point:
        trainer = self._trainer
        CheckpointManager(StoragePath.of(parent) if parent else self._start).load(first, trainer)
        for batch in self._task(mixtures).batches(self.store, range(first, until)):
            trainer.step(batch.step, [batch])
        if until < self.steps:
            CheckpointManager(StoragePath.of(folder)).save(trainer, TrainState(until), {})
        embedder = TextEmbedder(trainer.encoder, bf16=False)
        return Point(_quality(embedder, self.dev), _quality(embedder, self.test), steps)


def _items(pairs: PairTokenizer, rng: random.Random, source: str) -> list[TokenItem]:
    """Return the items of a source: the first ones in all languages, later ones in those that have more items."""
    size, wrong = SOURCES[source]
    sizes = {language: int(size * items) for language, (items, _) in LANGUAGES.items()}
    made = [TokenItem(f"{n:06d}", {}, {}, {}) for n in range(max(sizes.values()))]
    about = [_concepts(rng) for _ in made]
    answers = [_concepts(rng) if rng.random() < wrong else concepts for concepts in about]
    for language, count in sizes.items():
        questions = pairs.encode([_text(rng, language, concepts, 1) for concepts in about[:count]], "question")
        passages = pairs.encode([_text(rng, language, concepts, 4) for concepts in answers[:count]], "passage")
        for item, question, passage in zip(made, questions, passages, strict=False):
            item.questions[language], item.passages[language], item.negatives[language] = question, passage, []
    return made


def _concepts(rng: random.Random) -> list[int]:
    return rng.sample(range(CONCEPTS), PER_ITEM)


def _text(rng: random.Random, language: str, concepts: Sequence[int], fillers: int) -> str:
    """Return a word for each concept, and some words without meaning, in any order."""
    first = list(LANGUAGES).index(language) * (4 * CONCEPTS + FILLERS)
    words = [first + 4 * concept + rng.randrange(LANGUAGES[language][1]) for concept in concepts]
    words += [first + 4 * CONCEPTS + rng.randrange(FILLERS) for _ in range(fillers)]
    rng.shuffle(words)
    return " ".join(f"w{word}" for word in words)


def _benchmark(rng: random.Random, name: str, items: int) -> Benchmark:
    """Return a benchmark of new items in all languages."""
    queries, passages, judgements = [], [], {}
    for number in range(items):
        concepts = _concepts(rng)
        ids = [f"{number:03d}-{language}" for language in LANGUAGES]
        for language, id_ in zip(LANGUAGES, ids, strict=True):
            queries.append(Query(id_, language, _text(rng, language, concepts, 1), group=str(number)))
            passages.append(Passage(id_, language, _text(rng, language, concepts, 4)))
            judgements[id_] = dict.fromkeys(ids, 1)
    return Benchmark(name, queries, sorted(passages, key=lambda passage: passage.passage_id), judgements)


def _quality(embedder: TextEmbedder, benchmark: Benchmark) -> float:
    metrics = retrieval_metrics_of(embedder, benchmark)
    return float(np.mean([metrics[f"{benchmark.name}/{objective}"] for objective in OBJECTIVES]))


def best_of(points: Sequence[Point], count: int) -> float:
    """Return the quality of the best of `count` trainings: the mean over all choices of this number.

    >>> best_of([Point(0.2, 0.3, 1), Point(0.1, 0.5, 1), Point(0.3, 0.7, 1)], 2)
    0.5666666666666667
    """
    ranked = sorted(points, key=lambda point: -point.dev)
    choices = math.comb(len(ranked), count)
    return sum(p.test * math.comb(len(ranked) - 1 - n, count - 1) for n, p in enumerate(ranked)) / choices


def _result(
    steps: int, fixed: Sequence[Point], drawn: Sequence[Sequence[Point]], branched: Sequence[Point]
) -> BenchResult:
    counts = range(1, len(drawn[0]) + 1)
    curve = np.array([[best_of(points, count) for count in counts] for points in drawn])  # (seeds, counts)
    quality = np.array([point.test for point in branched])
    reached = [count for count in counts if curve[:, count - 1].mean() >= quality.mean()]
    baseline = steps * (reached[0] if reached else counts[-1])
    by_seed = [
        steps * next((count for count in counts if qualities[count - 1] >= aim), counts[-1]) / branched[0].steps
        for qualities, aim in zip(curve, quality, strict=True)
    ]
    return BenchResult(
        float(branched[0].steps),
        "steps",
        float(baseline),
        baseline / branched[0].steps,
        (min(by_seed), max(by_seed)),
        {
            "baseline_is": f"random search to the same quality, of at most {counts[-1]} trainings",
            "is_reached": bool(reached),
            "branches": _interval(quality),
            "size_0.5": _interval([point.test for point in fixed]),
            "random": {count * steps: _interval(curve[:, count - 1]) for count in counts},
            "branches_less_size_0.5": _interval(quality - [point.test for point in fixed]),
            "branches_less_random_of_equal_steps": _interval(
                quality - curve[:, max(round(branched[0].steps / steps), 1) - 1]
            ),
        },
    )


def _interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean and half of its 95% confidence interval, by Student's t; 0 for one value."""
    count = len(values)
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count) if count > 1 else 0.0
    return round(float(np.mean(values)), 4), round(float(half), 4)
