import numpy as np

from hbt_ray.batches import build_batch
from hbt_ray.cluster.beside import benchmark_metrics
from hbt_ray.cluster.feed import feed
from hbt_ray.cluster.prepare import prepare
from hbt_ray.experiment import training_plan
from hbt_ray.job import TrainingJob
from hbt_ray.records import Batch
from hbt_ray.store import TokenStore
from tests.cluster.conftest import tiny_config


def test_the_feed_hands_each_rank_the_plan_s_batches_in_order_from_any_step(cluster, corpus, tmp_path):
    config = tiny_config(corpus)
    job = TrainingJob(config, "", benchmark_metrics)
    folder = prepare(config, tmp_path / "stores")
    store = TokenStore.open(folder)
    plan = training_plan(config, store.manifest)
    for rank in range(2):
        fed = list(feed(job, folder, rank=rank, num_ranks=2, first_step=50, last_step=190))
        assert [batch.step for batch in fed] == list(range(50, 190))
        for batch in fed[::23]:
            expected = build_batch(plan.batch(batch.step), store, rank, 2)
            for name in Batch.__dataclass_fields__:
                assert np.array_equal(getattr(batch, name), getattr(expected, name)), name


def test_a_feed_of_no_steps_ends_at_once(cluster, corpus, tmp_path):
    assert (
        list(
            feed(
                TrainingJob(tiny_config(corpus), "", benchmark_metrics),
                tmp_path,
                rank=0,
                num_ranks=1,
                first_step=5,
                last_step=5,
            )
        )
        == []
    )
