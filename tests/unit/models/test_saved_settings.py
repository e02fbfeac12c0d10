"""A saved model is used as sentence-transformers uses it, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.errors import ConfigError
from hbt_ray.models.encoder import load_for_training, load_pretrained, open_teacher, save_encoder
from hbt_ray.models.text_embedder import TextEmbedder
from tests.helpers import model_folders, tiny_corpus

QUESTIONS = [tiny_corpus.question(x, i) for x in tiny_corpus.LANGUAGES for i in range(4)]
PASSAGES = [tiny_corpus.passage(x, i) for x in tiny_corpus.LANGUAGES for i in range(9)]
TEXTS = [*QUESTIONS, *PASSAGES, "IT IS THE NUMBER", "", "so " * 100]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("folders")
    return made


def written(folders: Path, kind: str) -> Path:
    folder = folders / kind.replace(" ", "-")
    return folder if folder.exists() else model_folders.KINDS[kind](folder)


@pytest.mark.parametrize("kind", model_folders.KINDS)
def test_scores_are_those_of_sentence_transformers(folders, kind):
    path = str(written(folders, kind))
    library = SentenceTransformer(path, device="cpu")
    library_scores = library.similarity(library.encode_query(TEXTS), library.encode_document(PASSAGES)).numpy()
    embedder = TextEmbedder(load_pretrained(path), batch_tokens=64)
    scores = embedder.queries(TEXTS) @ embedder.passages(PASSAGES).T
    if library.similarity_fn_name == "euclidean":  # |x - y|^2 = 2 - 2 xy for vectors of unit length
        library_scores = 1 - library_scores**2 / 2
    assert np.allclose(scores, library_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_a_distance_that_ranks_otherwise_is_refused(tmp_path, similarity):
    model_folders.KINDS["dot"](tmp_path / "model")
    file = tmp_path / "model" / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"similarity_fn_name": similarity}))
    with pytest.raises(ConfigError, match=f"the model compares vectors by {similarity} distance, and"):
        TextEmbedder(load_pretrained(str(tmp_path / "model")))


@pytest.mark.parametrize("kind", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder"])
def test_a_model_of_another_class_is_refused(tmp_path, kind):
    folder = model_folders.save(tmp_path / "model", model_folders._pooled(tmp_path / "model"), model_type=kind)
    with pytest.raises(ConfigError, match=f"is a {kind}, not an encoder of one vector for each text; write"):
        load_pretrained(str(folder))


@pytest.mark.parametrize("kind", ["dot", "truncated", "a default prompt", "lowercasing", "weighted layers"])
def test_a_trained_model_is_saved_as_it_was_trained(folders, kind, tmp_path):
    text = TextConfig(query_prefix="q ", passage_prefix="p ", max_query_tokens=9, max_passage_tokens=9)
    encoder = load_for_training(ModelConfig(), text, written(folders, kind))
    save_encoder(encoder, tmp_path / "saved")
    library = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert (library.similarity_fn_name, library.truncate_dim, library.default_prompt_name) == ("cosine", None, None)
    embedder = TextEmbedder(encoder)
    assert np.allclose(embedder.queries(TEXTS), library.encode_query(TEXTS), atol=1e-5)
    assert np.allclose(embedder.passages(TEXTS), library.encode_document(TEXTS), atol=1e-5)
    assert embedder.queries(TEXTS).shape == (len(TEXTS), model_folders.WIDTH)


def test_a_teacher_that_compares_by_dot_product_is_refused(folders, tmp_path):
    student = tiny_corpus.make_encoder(tmp_path / "student")
    with pytest.raises(ConfigError, match=r"compares by dot product or truncates .* by cosine; write another"):
        open_teacher(str(written(folders, "dot")), student, tiny_corpus.MODEL)
    with pytest.raises(ConfigError, match="has the module Router, which training does not support; write"):
        open_teacher(str(written(folders, "router")), student, tiny_corpus.MODEL)


def test_positions_of_the_roberta_family_begin_after_the_padding(tmp_path):
    model_folders.write_roberta(tmp_path / "model", positions=34)  # the first position is 2
    encoder = load_pretrained(str(tmp_path / "model"))
    assert encoder.max_seq_length == 32
    vectors = TextEmbedder(encoder).passages(["so " * 100, "so"])
    assert np.isfinite(vectors).all()
