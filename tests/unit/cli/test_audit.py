"""`hbt verify` and `hbt replay` print what a model was trained on."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hbt_ray.cli import main
from hbt_ray.data.token_store import TokenStore
from hbt_ray.training.training_record import TrainingRecord
from tests.helpers.model_folders import write_with_code
from tests.helpers.tiny_corpus import make_encoder, make_store, question
from tests.helpers.tiny_runs import tiny_config


@pytest.fixture
def model(tmp_path):
    manifest = make_store(tmp_path / "stores/one")
    make_encoder(tmp_path / "run/model")
    TrainingRecord.of(tiny_config(tmp_path), manifest, 20).write(tmp_path / "run/model")
    TokenStore.open(tmp_path / "stores/one")
    return tmp_path / "run/model"


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=True)


def test_verify_counts_the_texts_that_were_trained_on(model, tmp_path):
    (tmp_path / "texts").write_text(f"{question('en', 7)}\nanother question\n\n", encoding="utf-8")
    result = call("verify", model, "--text", tmp_path / "texts")
    assert result.exit_code == 0, result.output
    assert "trained on  1 of 2 texts, in 20 steps" in result.output
    assert "not found" in result.output


def test_verify_runs_a_models_code_only_with_the_option(model, tmp_path):
    with_code = write_with_code(tmp_path / "run/with-code")
    (model / "training.json").rename(with_code / "training.json")
    (tmp_path / "texts").write_text(f"{question('en', 7)}\n", encoding="utf-8")
    refused = call("verify", with_code, "--text", tmp_path / "texts")
    assert (refused.exit_code, "--trust-remote-code" in refused.output) == (2, True)
    accepted = call("verify", with_code, "--text", tmp_path / "texts", "--trust-remote-code")
    assert accepted.exit_code == 0, accepted.output


def test_verify_refuses_what_it_cannot_answer(model, tmp_path):
    (tmp_path / "texts").write_text("a\n")
    (tmp_path / "empty").write_text("\n")
    for arguments, message in (
        ((tmp_path, "--text", tmp_path / "texts"), "has no record of its training"),
        ((model, "--text", tmp_path / "empty"), "has no text"),
        ((model, "--text", tmp_path / "missing"), "cannot be read"),
        ((tmp_path, "--step", "1"), "holds no run.yaml"),
    ):
        result = call("replay" if "--step" in arguments else "verify", *arguments)
        assert (result.exit_code, message in result.output) == (2, True), result.output
