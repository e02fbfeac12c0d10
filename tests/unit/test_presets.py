"""The README's row of the untrained encoder is what evaluating it gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.store_maker import prepare_here
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.models.encoder import load_pretrained
from hbt_ray.presets import BENCHMARK, STRATEGIES, UNTRAINED, quickstart_config
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.run_dir import run_dir_of
from tests.helpers.paths import REPOSITORY
from tests.helpers.slow import slow


def stated_row() -> list[float]:
    """Return mono, cross and multi mAP and the rank distance of the untrained encoder in the README."""
    text = (REPOSITORY / "hbt_ray/evaluation/README.md").read_text(encoding="utf-8")
    table = text.partition("(`hbt quickstart`:")[2]
    [row] = re.findall(rf"^\| {UNTRAINED} \| (.+) \|$", table, re.M)
    return [float(value.replace(",", "").strip("*")) for value in row.split(" | ")]


@slow
def test_untrained_row_of_quickstart_is_that_of_the_readme(tmp_path: Path):
    config = quickstart_config(STRATEGIES[0])
    folder = run_dir_of(config, tmp_path / UNTRAINED)
    store = prepare_here(config.prepare_inputs, folder.stores)
    model = prepare_initial_model(config, store_tokenizer(store, config.prepare_inputs), folder)
    metrics = benchmark_metrics(load_pretrained(str(model), config.model.pooling, "cpu"), config)
    names = ("mono/map", "cross/map", "multi/map", "multi/rank_distance")
    *maps, distance = (metrics[f"{BENCHMARK}/{name}"] for name in names)
    *stated_maps, stated_distance = stated_row()
    assert maps == pytest.approx(stated_maps, abs=0.001)
    assert distance == pytest.approx(stated_distance, abs=2)


def test_the_readme_has_the_row_with_four_values():
    assert len(stated_row()) == 4
