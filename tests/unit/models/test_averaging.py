"""The average of two encoders has the means of their weights."""

from __future__ import annotations

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer

from hbt_ray.data.zero_shot import DECONTAMINATED, read_decontaminated
from hbt_ray.errors import ConfigError
from hbt_ray.models.averaging import average_encoders
from tests.helpers.model_folders import write_xlm_roberta
from tests.helpers.tiny_corpus import make_encoder


def test_weights_are_means(tmp_path):
    one, other = make_encoder(tmp_path / "one", seed=1), make_encoder(tmp_path / "other", seed=2)
    average_encoders(tmp_path / "one", tmp_path / "other", tmp_path / "average")
    of_other = other.state_dict()
    for name, weight in SentenceTransformer(str(tmp_path / "average"), device="cpu").state_dict().items():
        torch.testing.assert_close(weight, (one.state_dict()[name] + of_other[name]) / 2, rtol=0, atol=1e-8)


def test_average_with_itself_is_the_encoder(tmp_path):
    make_encoder(tmp_path / "one")
    average_encoders(tmp_path / "one", tmp_path / "one", tmp_path / "average")
    files = [tmp_path / name / "model.safetensors" for name in ("one", "average")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_architecture_is_refused(tmp_path):
    make_encoder(tmp_path / "one")
    write_xlm_roberta(tmp_path / "other", ["a b"])
    with pytest.raises(ConfigError, match="other architectures"):
        average_encoders(tmp_path / "one", tmp_path / "other", tmp_path / "average")


@pytest.mark.parametrize(
    ("file", "of_one", "of_other", "message"),
    [
        ("1_Pooling/config.json", '"mean"', '"cls"', "other poolings"),
        ("tokenizer.json", '"[MASK]"', '"[HIDE]"', "other vocabularies"),
    ],
)
def test_encoders_that_read_texts_in_other_ways_are_refused(tmp_path, file, of_one, of_other, message):
    for name in ("one", "other"):
        make_encoder(tmp_path / name)
    text = (tmp_path / "other" / file).read_text()
    assert of_one in text
    (tmp_path / "other" / file).write_text(text.replace(of_one, of_other))
    with pytest.raises(ConfigError, match=message):
        average_encoders(tmp_path / "one", tmp_path / "other", tmp_path / "average")


@pytest.mark.parametrize("of_other", [None, {"b": "xquad"}])
def test_average_was_decontaminated_against_the_benchmarks_of_both(tmp_path, of_other):
    for name, record in (("one", {"a": "mlqa", "b": "xquad"}), ("other", of_other)):
        make_encoder(tmp_path / name)
        if record is not None:
            (tmp_path / name / DECONTAMINATED).write_text(json.dumps(record))
    average_encoders(tmp_path / "one", tmp_path / "other", tmp_path / "average")
    assert read_decontaminated(tmp_path / "average") == (of_other or {"a": "mlqa", "b": "xquad"})
