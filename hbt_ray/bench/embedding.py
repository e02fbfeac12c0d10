"""Speed of embedding texts, against sentence-transformers' `encode`."""

from __future__ import annotations

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from hbt_ray.bench.fixtures import MAX_TOKENS, bench_encoder, monolingual_batches
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, RoundFunction, compare_alternating, scratch_folder
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.models.encoder import default_device, load_pretrained
from hbt_ray.models.precision import has_bf16_arithmetic
from hbt_ray.models.text_embedder import TextEmbedder

MAX_COMPARED = 200  # texts whose embeddings are compared with float32's


def bench_embedding(settings: BenchSettings) -> BenchResult:
    """Compare texts per second, tokenizing included, on XQuAD-R's questions and passages or random texts.

    The baseline loads the encoder in bfloat16 where the device computes in it, as is usual; this project keeps float32
    weights and casts them once. Details `least_cosine` and `peer_least_cosine`: the smallest cosine of an embedding
    with that of float32.
    """
    with scratch_folder(settings.out / "embedding") as scratch:
        encoder = bench_encoder(settings.model, scratch, quick=settings.quick)
        bf16 = has_bf16_arithmetic(default_device())
        arguments = (encoder, settings.xquad, settings.quick, bf16)
        texts = load_texts(settings.xquad, settings.quick)
        compared = texts[:: 1 if settings.quick else 101][:MAX_COMPARED]
        exact = _embedder(encoder, bf16=False).passages(compared)
        cosines = {
            "least_cosine": float((_embedder(encoder, bf16=bf16).passages(compared) * exact).sum(1).min()),
            "peer_least_cosine": float((_encode(_baseline_model(encoder, bf16), compared) * exact).sum(1).min()),
        }
        details = {
            "peer_is": "sentence-transformers' encode",
            "precision": "bf16" if bf16 else "fp32",
            "texts": len(texts),
            **{name: round(value, 5) for name, value in cosines.items()},
        }
        return compare_alternating(
            Contestant(make_embedding_round, arguments),
            Contestant(make_baseline_round, arguments),
            unit="texts/s",
            rounds=min(settings.rounds, 3),
            warm_up=0,  # a round is long
            details=details,
        )


def make_embedding_round(encoder: str, xquad: str | None, quick: bool, bf16: bool) -> RoundFunction:
    """Return a function that embeds all texts."""
    texts = load_texts(xquad, quick)
    embedder = _embedder(encoder, bf16=bf16)
    embedder.passages(texts[:8])

    def run_round() -> float:
        return len(embedder.passages(texts))

    return run_round


def make_baseline_round(encoder: str, xquad: str | None, quick: bool, bf16: bool) -> RoundFunction:
    """Return a function that encodes all texts with sentence-transformers, in its default batches of 32."""
    texts = load_texts(xquad, quick)
    model = _baseline_model(encoder, bf16)
    _encode(model, texts[:8])

    def run_round() -> float:
        return len(_encode(model, texts))

    return run_round


def load_texts(xquad: str | None, quick: bool) -> list[str]:
    """Return XQuAD-R's questions and passages, or random texts if `xquad` is None; 120 texts with `quick`."""
    if xquad is None or quick:
        pairs = monolingual_batches(xquad, 1, 60 if quick else 13_000)[0]
        return [*pairs.questions, *pairs.passages]
    benchmark = load_benchmark("xquad-r", xquad)
    return [query.text for query in benchmark.queries] + [passage.text for passage in benchmark.passages]


def _embedder(encoder: str, *, bf16: bool) -> TextEmbedder:
    loaded = load_pretrained(encoder, device=default_device())
    loaded.max_seq_length = MAX_TOKENS
    return TextEmbedder(loaded, query_prefix="", passage_prefix="", bf16=bf16)


def _baseline_model(encoder: str, bf16: bool) -> SentenceTransformer:
    model = SentenceTransformer(
        encoder, device=default_device(), model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32}
    )
    model.max_seq_length = MAX_TOKENS
    return model


def _encode(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """Return (N, D) float32 unit vectors."""
    # As tensors, because numpy has no bfloat16.
    vectors = model.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    return vectors.float().cpu().numpy()
