"""Evaluation with passages embedded by actors and searched in shards, compared with one process."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from hbt_ray.cluster.evaluation.evaluate import evaluate_in_shards
from hbt_ray.cluster.evaluation.sharded_search import sharded_index
from hbt_ray.config import CorpusConfig, EvaluateConfig
from hbt_ray.debiasing.debias import debias_model
from hbt_ray.evaluation.run_evaluation import evaluate_model
from hbt_ray.retrieval.embedding_cache import write_cache_manifest, write_embedding_shard
from hbt_ray.retrieval.passage_windows import WindowedPassages
from tests.helpers import tiny_corpus
from tests.helpers.benchmark_files import write, write_objects
from tests.integration.conftest import NUM_CPUS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def settings(corpus) -> EvaluateConfig:
    return EvaluateConfig(benchmarks={"pairs": str(corpus)}, precision="fp32", run_depth=20)


@pytest.mark.parametrize(("window_chars", "with_means"), [(None, False), (40, False), (40, True)])
def test_actors_write_the_report_of_one_process_and_reuse_vectors(
    cluster, settings, tmp_path, window_chars, with_means, corpus
):
    model = tmp_path / "model"
    tiny_corpus.make_encoder(model)
    if with_means:
        debias_model(model, [CorpusConfig(format="jsonl", path=str(corpus))], tmp_path / "means", method="mean")
        model = tmp_path / "means"
    local = settings.model_copy(update={"window_chars": window_chars})
    three = local.model_copy(update={"shards": 3})
    [report] = evaluate_in_shards(str(model), three, tmp_path / "actors")
    [folder] = (tmp_path / "vectors").iterdir()
    made = folder.stat().st_mtime_ns

    [expected] = evaluate_model(str(model), local, tmp_path / "local")
    assert report.metrics == expected.metrics
    equal = ("per_query.parquet", "questions.parquet", "passages.parquet", "matrix.csv", "run.trec", "qrels.trec")
    for file in (*equal, "report.md", "projection.png"):
        assert (tmp_path / "local" / file).read_bytes() == (tmp_path / "actors" / file).read_bytes(), file

    [again] = evaluate_in_shards(str(model), three, tmp_path / "again")
    assert again.metrics == report.metrics
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "vectors").iterdir()] == [(folder, made)]


def test_passages_read_in_tasks_give_the_report_of_one_process(cluster, tmp_path, monkeypatch):
    lines = [
        json.dumps({"_id": f"p{n * 7 % 60:02}", "title": "T" * (n % 2), "text": f"so is {n % 50}"}) for n in range(60)
    ]
    lines[20:20] = ["no JSON", "", lines[3], '{"_id": "p99", "text": " "}', '{"_id": "q5", "text": "So is 5!"}']
    write(tmp_path / "set" / "corpus.jsonl", "\n".join(lines))
    write_objects(tmp_path / "set" / "queries.jsonl", *({"_id": f"q{n}", "text": f"so is {n}"} for n in range(8)))
    write(tmp_path / "set" / "qrels" / "test.tsv", "".join(f"q{n}\tp{n * 7:02}\t1\n" for n in range(8)))
    model = tmp_path / "model"
    tiny_corpus.make_encoder(model)
    settings = EvaluateConfig(
        benchmarks={"beir/set": str(tmp_path / "set")}, precision="fp32", run_depth=20, perturbations=["case"]
    )
    monkeypatch.setattr("hbt_ray.cluster.evaluation.passage_tasks._PART_BYTES", 300)
    monkeypatch.setattr("hbt_ray.cluster.evaluation.passage_tasks._PASSAGES_PER_TASK", 13)
    list(evaluate_in_shards(str(model), settings.model_copy(update={"shards": NUM_CPUS}), tmp_path / "actors"))
    assert len(list((tmp_path / "vectors").iterdir())) == 1  # the texts are deleted
    list(evaluate_model(str(model), settings, tmp_path / "local"))
    for name in ("beir-set", "beir-set-case"):
        one, other = (tmp_path / folder / name for folder in ("actors", "local"))
        described = [json.loads((folder / "report.json").read_text()) for folder in (one, other)]
        assert described[0].pop("seconds") != described[1].pop("seconds")
        for report in described:
            assert report.pop("settings").keys() == settings.model_dump(exclude={"benchmarks"}).keys()
            del report["sha256"], report["files"]
        assert described[0] == described[1]
        assert described[0]["rejects"] == {
            **{"broken JSON": 1, "passage without text": 1, "repeated passage id": 1, "passage is the query itself": 1}
        }
        files = sorted(path.name for path in other.iterdir() if path.suffix not in {".json", ".html"})
        assert {"rejects.jsonl", "run.trec", "per_query.parquet", "questions.parquet"} <= set(files)
        assert [name for name in files if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_approximate_index_reports_its_depth_and_its_recall(cluster, settings, tmp_path):
    model = tmp_path / "model"
    tiny_corpus.make_encoder(model)
    approximate = settings.model_copy(update={"shards": NUM_CPUS + 1, "index": "hnsw", "index_depth": 100})
    [report] = evaluate_in_shards(str(model), approximate, tmp_path / "deep" / "out")
    assert {"pairs/mono/map@100", "pairs/multi/rank_distance@100", "pairs/multi/ndcg@10"} <= report.metrics.keys()
    assert "pairs/mono/map" not in report.metrics
    described = json.loads((tmp_path / "deep" / "out" / "report.json").read_text())
    assert described["index_recall@10"] == dict.fromkeys(["all", *report.languages], 1)  # so small that it is exact
    assert pq.read_table(tmp_path / "deep" / "out" / "per_query.parquet").num_rows > 0


def test_shard_process_loads_only_its_vectors(cluster, tmp_path, monkeypatch):
    width, size = 256, 80_000
    rng = np.random.default_rng(0)
    files = [
        write_embedding_shard(tmp_path, n, rng.standard_normal((size // 4, width), dtype=np.float32)) for n in range(4)
    ]
    write_cache_manifest(tmp_path, files, width)
    vectors = size * width * 4
    monkeypatch.setattr("hbt_ray.cluster.evaluation.sharded_search._BYTES_ON_DEMAND", vectors // 8)
    queries = rng.standard_normal((4, width), dtype=np.float32)
    peaks, found = {}, {}
    for shards, memory_fraction in ((1, 0.5), (4, 0.5), (1, 0)):
        monkeypatch.setattr("hbt_ray.cluster.evaluation.sharded_search._MAX_MEMORY_FRACTION", memory_fraction)
        with sharded_index(tmp_path, WindowedPassages([], np.arange(size), None), EvaluateConfig(shards=shards)) as (
            pool,
            actors,
        ):
            assert pool.size() == size
            found[shards, memory_fraction] = [array.tobytes() for array in pool.top_k(queries, 10)]
            peaks[shards, memory_fraction] = max(ray.get([actor.peak_memory.remote() for actor in actors]))
    assert peaks[1, 0.5] - peaks[4, 0.5] > vectors / 2  # three quarters of the vectors
    assert peaks[1, 0.5] - peaks[1, 0] > vectors / 2  # seven eighths; pages of the file count where they are mapped
    assert found[1, 0.5] == found[4, 0.5] == found[1, 0]
