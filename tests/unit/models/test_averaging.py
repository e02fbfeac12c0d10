"""The average of two encoders has the means of their weights."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers import SentenceTransformer

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
