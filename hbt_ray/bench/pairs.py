"""The pairs that training is measured on, in batches of one language each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sentence_transformers import SentenceTransformer

from hbt_ray.bench.synthetic import VOCABULARY
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.types import PairBatch
from hbt_ray.sampling.collate import TokenSequences, batch_of

MAX_TOKENS = 128
LANGUAGES = ("en", "de", "es", "ru", "ar", "hi")  # of XQuAD-R: from 54 tokens a pair to 175 by an English vocabulary


@dataclass(frozen=True, slots=True)
class Pairs:
    """Questions with a passage that answers each."""

    questions: list[str]
    passages: list[str]


def batches_of_pairs(xquad: str | None, batches: int, pairs: int) -> list[Pairs]:
    """Batches of one language each, by turns: of XQuAD-R, or of random words of as many different lengths."""
    rng = random.Random(0)
    if xquad is None:
        return [_random_pairs(rng, pairs) for _ in range(batches)]
    benchmark = load_benchmark("xquad-r", xquad)
    passages = {passage.passage_id: passage for passage in benchmark.passages}
    known: dict[str, list[tuple[str, str]]] = {}
    for query in benchmark.queries:
        answers = [passages[name] for name, grade in benchmark.judgements[query.query_id].items() if grade > 0]
        own = next((answer for answer in answers if answer.language == query.language), None)
        if own is not None:
            known.setdefault(query.language, []).append((query.text, own.text))
    made = []
    for number in range(batches):
        drawn = rng.choices(known[LANGUAGES[number % len(LANGUAGES)]], k=pairs)
        made.append(Pairs([question for question, _ in drawn], [passage for _, passage in drawn]))
    return made


def _random_pairs(rng: random.Random, pairs: int) -> Pairs:
    """Questions of 8 to 40 words, passages of 16 to 120, as XQuAD-R's texts are by an English vocabulary."""
    drawn = []
    for least, most in ((8, 40), (16, 120)):
        sizes = [rng.randint(least, most) for _ in range(pairs)]
        drawn.append([" ".join(f"w{rng.randrange(VOCABULARY // 2)}" for _ in range(size)) for size in sizes])
    return Pairs(*drawn)


def as_batch(encoder: SentenceTransformer, pairs: Pairs, step: int) -> PairBatch:
    """Pairs as they are trained on, of MAX_TOKENS at most."""
    return batch_of(
        _tokens(encoder, pairs.questions),
        _tokens(encoder, pairs.passages),
        step=step,
        first_pair=0,
        global_pairs=len(pairs.questions),
        kind="monolingual",
    )


def _tokens(encoder: SentenceTransformer, texts: Sequence[str]) -> TokenSequences:
    found = encoder.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    lengths = np.array([len(ids) for ids in found], np.int32)
    return np.concatenate([np.asarray(ids, np.int32) for ids in found]), lengths
