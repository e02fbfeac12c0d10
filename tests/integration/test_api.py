"""The public functions on real stores: training in this process, batches of a store, the README's example."""

import pytest
import torch
from safetensors.torch import load_file

import hbt_ray
from hbt_ray.sampling.factory import training_sampler
from tests.helpers.slow import slow
from tests.integration.conftest import tiny_config
from tests.unit.test_docs import code_blocks


@pytest.fixture
def run_on_ray(cluster, work):
    """Return the folder in which a run was trained by a worker, as `ray`, and its settings."""
    return work.result("run_on_ray")


def test_training_in_this_process_gives_the_weights_of_a_worker(run_on_ray, one_thread):
    folder, config = run_on_ray
    hbt_ray.train(config, folder / "here", in_process=True)
    one, other = (load_file(folder / name / "model" / "model.safetensors") for name in ("ray", "here"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_of_a_stores_texts_are_those_of_its_tokens(cluster, corpus, tmp_path):
    config = tiny_config(corpus)
    store = hbt_ray.prepare(config, tmp_path / "stores")
    rows = hbt_ray.HybridDataset.from_store(store, config)
    sampler = hbt_ray.HybridBatchSampler(rows, config.train.global_batch_pairs, seed=config.seed, mix=config.mix)
    planned = training_sampler(config, rows.manifest)
    for step in range(20):
        spec = planned.batch(step)
        pairs = [rows[index] for index in sampler.batch(step)]
        assert [pair["anchor"][:2] for pair in pairs] == spec.query_languages.tolist()
        assert [pair["positive"][:2] for pair in pairs] == spec.passage_languages.tolist()


@pytest.mark.parametrize("train", [{"workers": 2}, {"evaluate_every": 5}])
def test_what_needs_ray_is_refused_in_this_process(corpus, tmp_path, train):
    with pytest.raises(hbt_ray.UserError, match="on Ray"):
        hbt_ray.train(tiny_config(corpus, train=train), tmp_path / "run", in_process=True)


@slow
def test_the_readmes_python_example_runs(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [block] = code_blocks("README.md", "python")
    exec(compile(block, "README.md", "exec"), {})
    assert "runs/python-comparison/report.html" in capsys.readouterr().out
