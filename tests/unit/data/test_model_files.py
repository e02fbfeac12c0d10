"""What the files of a model say is checked before its data are prepared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.data.model_files import base_model_of, check_trainable, max_positions, read_model_file
from hbt_ray.data.tokenizer import PairTokenizer, check_lengths, load_tokenizer
from hbt_ray.errors import ConfigError
from tests.helpers import model_folders

PREFIXES = ("Query: ", "Passage: ")


@pytest.mark.parametrize(("kind", "module"), [("router", "Router"), ("static embedding", "StaticEmbedding")])
def test_a_module_without_token_ids_is_refused(tmp_path, kind, module):
    model_folders.KINDS[kind](tmp_path / "model")
    with pytest.raises(ConfigError, match=f"model' has the module {module}, which training does not support; write"):
        check_trainable(str(tmp_path / "model"), PREFIXES)


def test_pooling_without_the_prompt_is_refused_with_a_prefix(tmp_path):
    folder = str(model_folders.KINDS["prompts outside of pooling"](tmp_path / "model"))
    with pytest.raises(ConfigError, match=r"excludes prompts .*; write text\.query_prefix='' and"):
        check_trainable(folder, PREFIXES)
    check_trainable(folder, ("", ""))


@pytest.mark.parametrize("kind", ["dot", "dense and layer norm", "weighted layers", "lowercasing", "truncated"])
def test_transformers_models_with_modules_are_trained(tmp_path, kind):
    check_trainable(str(model_folders.KINDS[kind](tmp_path / "model")), PREFIXES)


def test_a_file_that_is_no_json_is_refused_by_name(tmp_path):
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ConfigError, match=r"modules.json of the model .* cannot be read .*; save the model again"):
        check_trainable(str(tmp_path), PREFIXES)
    assert read_model_file(str(tmp_path), "none.json") is None


@pytest.mark.parametrize(
    ("family", "positions", "expected"),
    [("bert", 512, 512), ("roberta", 514, 512), ("mpnet", 514, 512), ("xlnet", -1, None), ("t5", None, None)],
)
def test_maximum_tokens_by_positions(family, positions, expected):
    config = SimpleNamespace(model_type=family, max_position_embeddings=positions, pad_token_id=1)
    assert max_positions(config) == expected


def test_texts_longer_than_the_positions_are_refused_before_preparing(tmp_path):
    model_folders.write_roberta(tmp_path, positions=66)
    tokenizer = load_tokenizer(ModelConfig(path=str(tmp_path)))
    check_lengths(tokenizer, TextConfig(max_query_tokens=64, max_passage_tokens=64))
    with pytest.raises(ConfigError, match=r"max_passage_tokens is 65, and the model takes 64 at most; write .*=64"):
        check_lengths(tokenizer, TextConfig(max_query_tokens=64, max_passage_tokens=65))


def test_training_lowercases_where_the_model_does(tmp_path):
    folder = model_folders.KINDS["lowercasing"](tmp_path / "model")
    tokenizer = PairTokenizer(load_tokenizer(ModelConfig(path=str(folder))), TextConfig())
    upper, lower = tokenizer.encode(["IT IS THE NUMBER", "it is the number"], "question")
    assert upper.tolist() == lower.tolist()


@pytest.mark.parametrize(
    ("files", "base"),
    [
        ({"../run.yaml": "model: {path: org/base}", "README.md": "---\nbase_model: org/card\n---\n"}, "org/base"),
        ({"../run.yaml": "model: {path: null}"}, "random weights"),
        ({"README.md": "---\nbase_model:\n- org/card\n---\nA model."}, "org/card"),
        ({"README.md": "base_model: org/card\n---\n", "config.json": '{"_name_or_path": "org/config"}'}, "org/config"),
        ({"README.md": "---\n: [\n---\n", "config.json": "{}"}, None),
        ({}, None),
    ],
)
def test_base_model_is_named_by_the_run_the_card_or_the_configuration(tmp_path, files, base):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    for name, text in files.items():
        (model / name).write_text(text)
    assert base_model_of(str(model)) == base


def test_base_model_of_a_hub_name_is_read_without_a_request(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a request was sent")

    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", refuse)
    assert base_model_of("somebody/never-downloaded") is None
