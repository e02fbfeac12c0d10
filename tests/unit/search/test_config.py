"""Which searches are accepted, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.config import dump_config
from hbt_ray.errors import ConfigError
from hbt_ray.search.algorithms import list_candidates
from hbt_ray.search.config import SearchConfig, load_search


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": {}}, "space"),
        ({"space": {"mix.alpha": {"uniform": [0, 1]}}}, "a grid needs values for mix.alpha"),
        ({"space": {"mix.alpha": {"uniform": [1, 0]}}, "algorithm": "random"}, r"\[1.0, 0.0\] must be \[min, max\]"),
        ({"space": {"mix.alpha": {}}}, "write a list of values, or one of"),
        ({"space": {"mix.alpha": [0.1, 2]}}, "alpha is 2"),
        ({"space": {"mix.language_weights": {"simplex": ["de", "de"]}}}, "has a name twice"),
        ({"space": {"mix.alpha": {"uniform": [0, 1], "concentration": 2}}}, "concentration is of a simplex"),
        (
            {"space": {"mix.language_weights": {"simplex": ["de", "en"]}}},
            "a grid needs values for mix.language_weights",
        ),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"space": {"seed": [1, 2, 3]}}, "write seeds instead of seed in space"),
        ({"space": {"mix.strategy": ["1", 1]}}, "the values of mix.strategy '\"1\"' and '1' have one file name, '1'"),
        (
            {"dev": {"benchmarks": {"pairs": "faq"}}, "run": {"evaluate": {"benchmarks": {"pairs": "faq"}}}},
            "pairs is a test benchmark, and must not be chosen by",
        ),
        ({"space": {"languages": [["en"], ["en", "de"]]}}, "languages changes which items are held out, .* as dev"),
        ({"space": {"prepare.validation_share": [0.1, 0.2]}}, "name a benchmark as dev"),
        ({"run": {"mix": {"strategy": "x-y"}}}, "mix.alpha has no effect without strategy: hybrid"),
        ({"space": {"positive_languages": [2, 3]}}, "mix.positive_languages has no effect without strategy: one-to-k"),
        ({"objectives": {"multi/map": 0}}, "one above 0"),
        ({"objectives": {"dev/mono/mpa": 1}}, "there is no metric 'dev/mono/mpa'; did you mean 'mono/map'"),
        ({"objectives": {"multi/map": 1, "mono/rank_distance": 1}}, "did you mean 'multi/rank_distance'"),
        ({"objectives": {"gap/map@10": 1}}, "did you mean 'gap/map'"),
        ({"objectives": {"accuracy": 1}}, "there is no metric 'accuracy'; there are mono/map, "),
        ({"stopping": "asha"}, "asha decides while trials run; write measure_every below the 600 steps"),
        (
            {"stopping": "asha", "measure_every": 5, "space": {"steps": [10, 900]}},
            "asha compares trials with the same number of steps; leave train.steps out of space",
        ),
        ({"algorithm": "branch"}, "branch decides while trials run"),
        (
            {"algorithm": "branch", "space": {"train.steps": [5, 6]}, "measure_every": 10},
            "branch finds a schedule of mix.alpha, .*; leave train.steps out of space",
        ),
        ({"algorithm": "branch", "seeds": [0, 1], "measure_every": 10}, "write one seed"),
        ({"algorithm": "branch", "measure_every": 10, "branch_every": 5}, "write branch_every=10 or more"),
        ({"branch_every": 5}, "branch_every has no effect with algorithm: grid"),
        ({"configurations": 5}, "configurations has no effect with algorithm: grid; leave it out"),
        ({"seed": 5}, "seed has no effect with algorithm: grid; leave it out"),
        ({"keep_share": 0.3}, "keep_share has no effect with stopping: none; leave it out"),
        ({"grace_steps": 50}, "grace_steps has no effect with stopping: none; leave it out"),
        ({"stopping": "asha", "measure_every": 50, "grace_steps": 600}, "write fewer than the 600 steps of a trial"),
        (
            {"register_as": "mine", "run": {"tracking": {"log_model": False}}},
            "register_as has no effect with tracking.log_model=false",
        ),
        (
            {"space": {"evaluate.precision": ["fp32", "bf16"]}},
            "evaluate.precision changes no training; leave it out of space",
        ),
        ({"dev": {"benchmarks": {"pairs": "faq"}, "items": 50}}, "items has no effect with benchmarks; leave one"),
        ({"algorithm": "pbt"}, "pbt was removed: algorithm: branch finds a schedule"),
        ({"algorithm": "nsga2"}, "nsga2 was removed: algorithm: random"),
        ({"stopping": "median"}, "median was removed: stopping: asha"),
        ({"algorithm": "tpe", "space": {"text.max_query_tokens": [32, 64]}}, "needs a store or encoder of its own"),
    ],
)
def test_invalid_search_is_refused_before_it_starts(tmp_path: Path, settings: dict[str, Any], message: str):
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps({"space": {"alpha": [0.0, 1.0]}} | settings))
    with pytest.raises(ConfigError, match=message):
        list_candidates(load_search(file))


@pytest.mark.parametrize(
    "settings",
    [
        {"run": {"train": {"validation_every": 50, "early_stopping": {"patience": 3}}}},
        {"run": {"train": {"validation_every": 50}}, "space": {"early_stopping.patience": [1, 3]}},
        {"run": {"train": {"validation_every": 50}}, "space": {"early_stopping": [None, {"patience": 3}]}},
    ],
)
def test_early_stopping_is_refused_because_trials_are_compared_by_their_last_weights(
    tmp_path: Path, settings: dict[str, Any]
):
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps({"space": {"alpha": [0.0, 1.0]}} | settings))
    with pytest.raises(ConfigError, match=r"early_stopping keeps other weights than those of the last step, .*: null"):
        load_search(file)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": "random", "configurations": 4, "seed": 5},
        {"dev": {"benchmarks": {"pairs": "faq"}}},
        {"objectives": {"gap/map": 1, "mono/map/low-resource": 1}},
    ],
)
def test_search_is_read_from_the_settings_that_it_writes(tmp_path: Path, settings: dict[str, Any]):
    search = SearchConfig.model_validate({"space": {"mix.alpha": [0.0, 1.0]}} | settings)
    (tmp_path / "search.yaml").write_text(dump_config(search))
    assert load_search(tmp_path / "search.yaml") == search


def test_keys_of_the_space_may_be_short_and_overrides_reach_the_run(tmp_path: Path):
    file = tmp_path / "search.yaml"
    file.write_text("space: {alpha: [0, 1]}\nrun: {train: {steps: 9}}\n")
    search = load_search(file, ["seeds=[4, 5]", "run.global_batch_pairs=32", "dev.items=7"])
    assert list(search.space) == ["mix.alpha"]
    assert (search.seeds, search.dev.items) == ((4, 5), 7)
    assert (search.run.train.steps, search.run.train.global_batch_pairs) == (9, 32)
    with pytest.raises(ConfigError, match="there is no setting 'alhpa'"):
        load_search(file, ["run.alhpa=1"])
    with pytest.raises(ConfigError, match="there is no setting 'seedz'; did you mean 'seed'"):
        load_search(file, ["seedz=[1]"])
