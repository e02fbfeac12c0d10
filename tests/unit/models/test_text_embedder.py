"""Random models of published families are embedded without padding, as sentence-transformers embeds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from hbt_ray.models.encoder import load_pretrained
from hbt_ray.models.packed_attention import is_packed
from hbt_ray.models.text_embedder import TextEmbedder
from tests.helpers import open_bases, tiny_corpus

TEXTS = ["", "so", *(tiny_corpus.passage(x, i) * (1 + i % 4) for x in tiny_corpus.LANGUAGES for i in range(9))]


@pytest.fixture(scope="module", params=open_bases.PUBLISHED)
def folder(request, tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("published") / "model"
    return open_bases.PUBLISHED[request.param](made)


def test_a_published_family_has_the_vectors_of_sentence_transformers(folder):
    library = SentenceTransformer(str(folder), device="cpu")
    embedder = TextEmbedder(load_pretrained(str(folder)), batch_tokens=400)
    assert is_packed(embedder.encoder)
    for found, expected in (
        (embedder.queries(TEXTS), library.encode_query(TEXTS)),
        (embedder.passages(TEXTS), library.encode_document(TEXTS)),
    ):
        cosines = (found * expected).sum(1) / np.linalg.norm(expected, axis=1)
        assert cosines.min() > 1 - 1e-6
        others = expected @ expected.T
        assert np.abs(others - 1).max() > 0.01  # the texts can be distinguished
