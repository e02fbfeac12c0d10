"""What the files of a model say is checked before its data are prepared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.data import model_files
from hbt_ray.data.model_files import (
    base_model_of,
    check_model_exists,
    check_trainable,
    max_positions,
    read_model_file,
)
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


# Whether there is a model


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Record the names that the hub is asked for; it has none of them."""
    names: list[str] = []

    def ask(model: str) -> str:
        names.append(model)
        return "the hub has no such model, or not for you"

    monkeypatch.setattr(model_files, "_hub_fault", ask)
    return names


def fault_of(model: str) -> str:
    with pytest.raises(ConfigError) as raised:
        check_model_exists(model, "model.path")
    return str(raised.value)


def test_folder_of_a_saved_model_exists(tmp_path, asked):
    folder = model_folders.KINDS["static embedding"](tmp_path / "model")
    check_model_exists(str(folder), "model.path")
    (tmp_path / "empty").mkdir()
    assert "holds no saved model, which has a config.json" in fault_of(str(tmp_path / "empty"))
    assert "is a file; write the folder that it is in" in fault_of(str(folder / "modules.json"))
    assert not asked


def test_path_with_a_typo_is_no_name_for_the_hub(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "e5-small").mkdir(parents=True)
    assert fault_of("models/e5-smal") == (
        "model.path: there is no folder 'models/e5-smal'; did you mean 'models/e5-small'?"
    )
    for path in ("./x", "../x", "~/no/x", "/no/x", "a/b/c", "x/", "models/x", "a b", "C:\\x", "ä/x"):
        assert fault_of(path).startswith(f"model.path: there is no folder {path!r}; ")
    assert not asked


@pytest.mark.parametrize("name", ["intfloat/multilingual-e5-small", "bert-base-uncased", "modles/e5"])
def test_other_names_are_asked_for_on_the_hub(tmp_path, monkeypatch, asked, name):
    monkeypatch.chdir(tmp_path)
    assert fault_of(name) == (
        f"model.path: there is no folder {name!r}, and the hub has no such model, or not for you; write the folder of "
        "a saved model, or the name of one on the hub"
    )
    assert asked == [name]


def test_hub_is_asked_only_for_models_that_were_not_downloaded(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: "/cache/file")
    assert model_files._hub_fault("a/b") is None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_files._hub_fault("a/b") == "it was not downloaded from the hub, which HF_HUB_OFFLINE excludes"


def test_answers_of_the_hub_are_told_apart(monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def answer(error: Exception | None) -> str | None:
        def ask(self: object, name: str, timeout: float) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", ask)
        return model_files._hub_fault("an-organization/of-no-model")

    assert answer(None) is None
    assert answer(TimeoutError("timed out")) == "the hub cannot be reached (timed out)"
    assert model_files._hub_fault("a--b") == "it is no name that the hub can have"


def test_model_whose_weights_cannot_be_read_is_refused(tmp_path, monkeypatch):
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).write_text("{}")
    check_model_exists(str(tmp_path), "model.path")
    monkeypatch.setattr("os.access", lambda file, mode: not str(file).endswith(".safetensors"))
    with pytest.raises(ConfigError, match=r"weights.safetensors cannot be read \(Permission denied\)"):
        check_model_exists(str(tmp_path), "model.path")
