import numpy as np
import pytest

from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.training.data_feed import feed
from hbt_ray.data.token_store import TokenStore
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch_with_global_ids
from hbt_ray.sampling.factory import training_sampler
from hbt_ray.training.task import ContrastiveTask
from tests.integration.conftest import tiny_config


@pytest.mark.parametrize("sections", [{}, {"mix": {"strategy": "one-to-k"}, "loss": {"consistency": 1.0}}], ids=str)
def test_feed_yields_each_ranks_batches_from_any_step(cluster, corpus, tmp_path, sections):
    config = tiny_config(corpus, **sections)
    job = ContrastiveTask(config, "", benchmark_metrics)
    folder = prepare(config.prepare_inputs, tmp_path / "stores")
    store = TokenStore.open(folder)
    plan = training_sampler(config, store.manifest)
    for rank in range(2):
        fed = list(feed(job, folder, rank=rank, num_ranks=2, first_step=50, last_step=190))
        assert [batch.step for batch in fed] == list(range(50, 190))
        for batch in fed[::23]:
            expected = build_batch_with_global_ids(plan.batch(batch.step), store, rank, 2, config.train.chunk_pairs)
            for name in PairBatch.__dataclass_fields__:
                assert np.array_equal(getattr(batch, name), getattr(expected, name)), name


def test_feed_of_no_steps_is_empty(cluster, corpus, tmp_path):
    assert (
        list(
            feed(
                ContrastiveTask(tiny_config(corpus), "", benchmark_metrics),
                tmp_path,
                rank=0,
                num_ranks=1,
                first_step=5,
                last_step=5,
            )
        )
        == []
    )
