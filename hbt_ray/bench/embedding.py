"""How fast texts become vectors, against sentence-transformers' `encode`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from hbt_ray.bench.encoder import encoder_to_measure
from hbt_ray.bench.pairs import MAX_TOKENS, batches_of_pairs
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.timing import Contestant, compare_alternating
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.models.encoder import default_device, load_pretrained
from hbt_ray.models.precision import has_bf16_arithmetic
from hbt_ray.models.text_embedder import TextEmbedder

COMPARED = 200  # texts


def embed(settings: BenchSettings) -> BenchResult:
    """Texts a second, tokenizing included, of all of XQuAD-R's questions and passages or as many random ones.

    Theirs loads the encoder in bfloat16 where the device computes in it, as is usual; ours keeps float32 weights and
    casts them once. As `least_cosine` and `peer_least_cosine`: how near the vectors of either come to float32's.
    """
    with scratch_folder(settings.out / "embedding") as scratch:
        encoder = encoder_to_measure(settings.model, scratch, quick=settings.quick)
        bf16 = has_bf16_arithmetic(default_device())
        arguments = (encoder, settings.xquad, settings.quick, bf16)
        texts = texts_of(settings.xquad, settings.quick)
        some = texts[:: 1 if settings.quick else 101][:COMPARED]
        exact = _embedder(encoder, bf16=False).passages(some)
        cosines = {
            "least_cosine": float((_embedder(encoder, bf16=bf16).passages(some) * exact).sum(1).min()),
            "peer_least_cosine": float((_encoded(_peer(encoder, bf16), some) * exact).sum(1).min()),
        }
        details = {
            "peer_is": "sentence-transformers' encode",
            "precision": "bf16" if bf16 else "fp32",
            "texts": len(texts),
            **{name: round(value, 5) for name, value in cosines.items()},
        }
        return compare_alternating(
            Contestant(embedding, arguments),
            Contestant(peers_embedding, arguments),
            unit="texts/s",
            rounds=min(settings.rounds, 3),
            warm_up=0,  # a round is long
            details=details,
        )


def embedding(encoder: str, xquad: str | None, quick: bool, bf16: bool) -> Callable[[], float]:
    """Embeds all texts a round."""
    texts = texts_of(xquad, quick)
    embedder = _embedder(encoder, bf16=bf16)
    embedder.passages(texts[:8])

    def work() -> float:
        return len(embedder.passages(texts))

    return work


def peers_embedding(encoder: str, xquad: str | None, quick: bool, bf16: bool) -> Callable[[], float]:
    """Encodes all texts a round, in batches of 32, which is theirs by default."""
    texts = texts_of(xquad, quick)
    model = _peer(encoder, bf16)
    _encoded(model, texts[:8])

    def work() -> float:
        return len(_encoded(model, texts))

    return work


def texts_of(xquad: str | None, quick: bool) -> list[str]:
    if xquad is None or quick:
        pairs = batches_of_pairs(xquad, 1, 60 if quick else 13_000)[0]
        return [*pairs.questions, *pairs.passages]
    benchmark = load_benchmark("xquad-r", xquad)
    return [query.text for query in benchmark.queries] + [passage.text for passage in benchmark.passages]


def _embedder(encoder: str, *, bf16: bool) -> TextEmbedder:
    opened = load_pretrained(encoder, device=default_device())
    opened.max_seq_length = MAX_TOKENS
    return TextEmbedder(opened, query_prefix="", passage_prefix="", bf16=bf16)


def _peer(encoder: str, bf16: bool) -> SentenceTransformer:
    model = SentenceTransformer(
        encoder, device=default_device(), model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32}
    )
    model.max_seq_length = MAX_TOKENS
    return model


def _encoded(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """(N, D) float32. As tensors, since numpy knows no bfloat16."""
    found = model.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    return found.float().cpu().numpy()
