"""Speed of listing the first passages of a question exactly, against FAISS's flat index and a plain matrix product."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, RoundFunction, compare_alternating
from hbt_ray.retrieval.exact_search import single_threaded_products, top_k
from hbt_ray.retrieval.faiss_index import flat_index

QUESTIONS, PASSAGES, WIDTH, K = 1024, 1_000_000, 64, 100
TILE = (256, 1024)  # of the plain product: questions and passages


def bench_exact_search(settings: BenchSettings) -> BenchResult:
    """Compare questions per second with those of FAISS's `IndexFlatIP`, which has no order among equal scores.

    Passages are random unit vectors; each question is a passage with a little noise. Details: `product_share`, the
    median speed as a fraction of that of only the matrix products, in tiles that stay in a cache.
    """
    sizes = (64, 5_000) if settings.quick else (QUESTIONS, PASSAGES)
    ours = Contestant(make_search_round, sizes)
    product = compare_alternating(
        ours, Contestant(make_product_round, sizes), unit="questions/s", rounds=settings.rounds
    )
    details = {
        "peer_is": "FAISS's IndexFlatIP",
        "passages": sizes[1],
        "product_share": product.ratio,
        "product_questions_per_s": product.baseline,
    }
    flat = Contestant(make_flat_index_round, sizes)
    return compare_alternating(ours, flat, unit="questions/s", rounds=settings.rounds, details=details)


def make_search_round(questions: int, passages: int) -> RoundFunction:
    """Return a function that lists the first passages of all questions, and returns the number of questions."""
    query_vectors, vectors = _vectors(questions, passages)
    return lambda: len(top_k(query_vectors, vectors, K)[0])


def make_flat_index_round(questions: int, passages: int) -> RoundFunction:
    """Return a function that does the same by FAISS's flat index."""
    query_vectors, vectors = _vectors(questions, passages)
    index = flat_index(vectors)
    return lambda: len(index.search(query_vectors, K)[0])


def make_product_round(questions: int, passages: int) -> RoundFunction:
    """Return a function that multiplies questions and passages, in as many threads, and returns that number."""
    query_vectors, vectors = _vectors(questions, passages)

    def multiply(first: int) -> None:
        block = query_vectors[first : first + TILE[0]]
        products = np.empty((len(block), TILE[1]), np.float32)
        for start in range(0, len(vectors), TILE[1]):
            tile = vectors[start : start + TILE[1]]
            np.matmul(block, tile.T, out=products[:, : len(tile)])

    def multiply_all() -> float:
        with single_threaded_products() as threads, ThreadPoolExecutor(threads) as executor:
            list(executor.map(multiply, range(0, questions, TILE[0])))
        return questions

    return multiply_all


def _vectors(questions: int, passages: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((passages, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = rng.normal(0, 0.05, (questions, WIDTH)).astype(np.float32)
    return vectors[:questions] + noise, vectors
