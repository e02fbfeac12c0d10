"""Whole pretrainings in this process: learning, resuming, evaluating."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from hbt_ray.config import ModelConfig
from hbt_ray.data.tokenizer import load_tokenizer
from hbt_ray.models.encoder import load_for_training
from hbt_ray.models.packed_attention import is_packed
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.training.checkpoint import OPTIMIZER, STATE, WEIGHTS, CheckpointManager, step_name
from hbt_ray.training.run_dir import RunDir, run_dir_of
from tests.helpers import tiny_corpus
from tests.unit.pretraining.conftest import OBJECTIVES

pytestmark = pytest.mark.usefixtures("one_thread")


class Stopped(Exception):
    """Raised by a report to interrupt a run."""


def checkpoint_content(folder: RunDir, step: int) -> tuple[dict[str, bytes], str]:
    """Return the bytes of the tensors of a checkpoint, and its training state.

    The files' bytes may differ: safetensors has no fixed order for tensors that share memory.
    """
    checkpoint = (folder.checkpoints / step_name(step)).local
    tensors = load_file(checkpoint / WEIGHTS) | load_file(checkpoint / OPTIMIZER)
    return {name: values.numpy().tobytes() for name, values in tensors.items()}, (checkpoint / STATE).read_text()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretraining_improves_every_language_and_saves_an_encoder(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective, steps=40, learning_rate=1e-2)
    folder = run_dir_of(config, tmp_path / "run")
    reported: dict[int, dict[str, float]] = {}
    found = pretrain_locally(
        config, stores[objective], folder, on_metrics=lambda step, m: reported.setdefault(step, {}).update(m)
    )
    assert found.keys() == set(tiny_corpus.LANGUAGES)
    assert all(values["after"] < 0.8 * values["before"] for values in found.values())
    name = "held_out_loss" if objective == "contrastive" else "perplexity"
    assert json.loads((folder.path / f"{name}.json").read_text()) == found
    for moment, step in (("before", 0), ("after", 40)):
        assert {f"{name}/{language}": found[language][moment] for language in found}.items() <= reported[step].items()
    if objective != "contrastive":  # the head starts with the frequencies of the 300 tokens
        assert all(values["before"] < 300 for values in found.values())
    assert sorted(step for step in reported if "train/loss" in reported[step]) == list(range(1, 41))

    model = SentenceTransformer(str(folder.model), device="cpu")
    assert model.encode(["de what is a1"]).shape == (1, 16)
    trained = load_for_training(ModelConfig(path=str(folder.model)), tiny_corpus.TEXT, folder.model)
    assert is_packed(trained)
    tokenizer = load_tokenizer(ModelConfig(path=str(folder.model)))
    assert tokenizer.get_vocab() == tiny_corpus.tokenizer().get_vocab()
    assert tokenizer.model_max_length == 32  # the length of pretraining, above that of text.*


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resumed_pretraining_ends_with_the_same_bytes(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective, steps=8, checkpoint_every=3)
    whole, stopped = (run_dir_of(config, tmp_path / name) for name in ("whole", "stopped"))
    expected = pretrain_locally(config, stores[objective], whole)

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        pretrain_locally(config, stores[objective], stopped, on_metrics=stop)
    assert CheckpointManager(stopped.checkpoints).steps() == [3]
    torch.manual_seed(999)  # the state of torch's generator has no influence
    assert pretrain_locally(config, stores[objective], stopped) == expected
    assert checkpoint_content(whole, 8) == checkpoint_content(stopped, 8)
    assert (whole.model / "model.safetensors").read_bytes() == (stopped.model / "model.safetensors").read_bytes()
    assert pretrain_locally(config, stores[objective], stopped) == expected  # it is finished: nothing changes


def test_checkpoints_are_evaluated_at_the_configured_steps(stores, tmp_path):
    config = tiny_corpus.pretrain_config(steps=6, evaluate_every=2, validation_every=3)
    measured: dict[int, set[str]] = {}
    pretrain_locally(
        config,
        stores["mlm"],
        run_dir_of(config, tmp_path),
        on_metrics=lambda step, m: measured.setdefault(step, set()).update(m),
    )
    assert [step for step in sorted(measured) if "perplexity/de" in measured[step]] == [0, 2, 4, 6]
    assert [step for step in sorted(measured) if "validation/loss" in measured[step]] == [3, 6]
