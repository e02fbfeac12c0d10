"""Trials that are evaluated on the dev set while they train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hbt_ray.config import EvaluateConfig, RunConfig, build_config
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.run_evaluation import load_benchmarks
from hbt_ray.models.text_embedder import TextEmbedder
from hbt_ray.search.config import OBJECTIVES, DevConfig
from hbt_ray.search.dev_set import check_objectives, dev_metrics, dev_set
from hbt_ray.training.checkpoint import CheckpointManager, step_name
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers import tiny_corpus
from tests.helpers.benchmark_files import squad_paragraph
from tests.unit.search.searches import search_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return tiny_corpus.make_held_out_store(tmp_path_factory.mktemp("store"))


TRAIN = {"steps": 8, "global_batch_pairs": 16, "chunk_pairs": 4, "learning_rate": 1e-3, "precision": "fp32"}


class Killed(Exception):
    """Ends a trial as the end of its process would."""


def train_trial(store: TokenStore, out: Path, killed_at: int | None = None) -> list[int]:
    """Run a trial over the tiny store and return the steps that it reported."""
    config = build_config(
        {"text": tiny_corpus.TEXT.model_dump(), "model": tiny_corpus.MODEL.model_dump(), "train": TRAIN}
    )
    initial = out.parent / "initial"
    if not initial.exists():
        tiny_corpus.make_encoder(initial)
    search = search_of(dev={"items": 4})
    dev = dev_set(search.dev, store.folder, config)
    reported: list[int] = []

    def report(step: int, metrics: dict[str, float]) -> None:
        assert {"held-out/mono/map", "held-out/cross/map/de-en", "held-out/multi/rank_distance"} <= metrics.keys()
        reported.append(step)
        if step == killed_at:
            raise Killed

    folder = run_dir_of(config, out)
    config = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every": 2})})
    task = ContrastiveTask(config, str(initial), lambda encoder, config: dev_metrics(encoder, dev, search.dev, config))
    train_locally(task, store.folder, folder, every=2, on_metrics=report)
    return reported


def test_killed_trial_resumes_to_the_same_metrics_and_weights(store: TokenStore, tmp_path: Path):
    assert train_trial(store, tmp_path / "uninterrupted") == [2, 4, 6, 8]
    for step in (2, 6):
        with pytest.raises(Killed):
            train_trial(store, tmp_path / "killed", step)
    (tmp_path / "killed" / "measured" / "6.json").unlink()  # killed after the checkpoint, before it was evaluated
    assert train_trial(store, tmp_path / "killed") == [2, 4, 6, 8]
    one, other = (run_dir_of(RunConfig(), tmp_path / name) for name in ("uninterrupted", "killed"))
    without_loss = [
        [
            (step, {k: v for k, v in metrics.items() if k != "train/loss"})
            for step, metrics in load_checkpoint_metrics(run_dir.checkpoint_metrics)
        ]
        for run_dir in (one, other)
    ]
    assert without_loss[0] == without_loss[1]
    assert load_checkpoint_metrics(one.checkpoint_metrics)[3] == load_checkpoint_metrics(other.checkpoint_metrics)[3]
    weights = [
        load_file(Path(str(run_dir.checkpoints)) / step_name(8) / "weights.safetensors") for run_dir in (one, other)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert CheckpointManager(one.checkpoints).steps() == [6, 8]
    assert train_trial(store, tmp_path / "killed") == [2, 4, 6, 8]  # finished: it only reports again


@pytest.mark.parametrize(
    ("languages", "objectives", "missing"),
    [
        (None, OBJECTIVES, None),
        (None, ["multi/rank_distance/de", "gap/map"], None),
        (["en"], OBJECTIVES, "cross/map or multi/rank_distance"),
        (None, ["mono/mpa", "multi/map"], "mono/mpa"),
        (None, ["mono/rank_distance"], "mono/rank_distance"),
        (None, ["multi/map@10"], "multi/map@10"),
    ],
)
def test_objectives_that_the_dev_set_has_not_are_refused_with_those_that_it_has(
    store: TokenStore, languages: list[str] | None, objectives: list[str], missing: str | None
):
    dev = dev_set(search_of(dev={"items": 4}).dev, store.folder, build_config({"languages": languages}))
    if missing is None:
        check_objectives(objectives, dev)
    else:
        with pytest.raises(ConfigError, match=f"the dev set held-out has no {missing}; write .* it has: mono/<map, .*"):
            check_objectives(objectives, dev)


@pytest.mark.parametrize("evaluate", [{"window_chars": 20}, {"with_paragraph": True}])
def test_named_dev_set_has_the_metrics_of_a_test_benchmark_with_these_settings(
    tmp_path: Path, evaluate: dict[str, object]
):
    for language in ("de", "en"):
        for_items = (
            (f"{tiny_corpus.passage(language, n)} first and more.", f" {tiny_corpus.passage(language, n + 20)} then.")
            for n in range(8)
        )
        paragraphs = [
            squad_paragraph(
                one + other,
                [[0, len(one)], [len(one), len(one + other)]],
                (f"q{n}", tiny_corpus.question(language, n), 0),
            )
            for n, (one, other) in enumerate(for_items)
        ]
        document = {"data": [{"title": "t", "paragraphs": paragraphs}]}
        (tmp_path / f"{language}.json").write_text(json.dumps(document))
    encoder = tiny_corpus.make_encoder(tmp_path / "encoder")
    dev = DevConfig(benchmarks={"squad": str(tmp_path)})

    def on_dev_set(**evaluate: object) -> dict[str, float]:
        config = build_config({"evaluate": evaluate})
        return dev_metrics(encoder, dev_set(dev, "", config), dev, config)

    settings = EvaluateConfig.model_validate({"benchmarks": dev.benchmarks, **evaluate})
    [benchmark] = load_benchmarks(settings)
    report = evaluate_benchmark(TextEmbedder(encoder), benchmark, settings)
    assert on_dev_set(**evaluate).items() <= report.metrics.items()
    assert on_dev_set() != on_dev_set(**evaluate)


def test_a_trial_whose_model_collapsed_is_warned_of(store: TokenStore, tmp_path: Path, caplog):
    encoder = tiny_corpus.make_encoder(tmp_path / "made")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    config, search = build_config({}), search_of(dev={"items": 4})
    dev_metrics(encoder, dev_set(search.dev, store.folder, config), search.dev, config)
    assert "held-out: the vector of all passages is 0: the model does not distinguish texts" in caplog.text
