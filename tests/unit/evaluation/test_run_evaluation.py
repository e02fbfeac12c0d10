"""Any model is evaluated as it was saved; its code runs only if that is requested."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sentence_transformers import SentenceTransformer

from hbt_ray.cli import main
from hbt_ray.config import EvaluateConfig, RunConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.types import Benchmark
from hbt_ray.data.zero_shot import write_decontaminated
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.run_evaluation import evaluate_model
from hbt_ray.mining import open_miner
from tests.helpers import model_folders
from tests.helpers.slow import slow


def _evaluated_by_numpy(queries: np.ndarray, passages: np.ndarray, benchmark: Benchmark) -> dict[str, float]:
    """Evaluate float64 vectors by sorting every pool: mono, cross and multi mAP, language bias and complete@k."""
    languages, language_of = np.unique([passage.language for passage in benchmark.passages], return_inverse=True)
    index_of = {passage.passage_id: index for index, passage in enumerate(benchmark.passages)}
    unit_queries, unit_passages = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, passages))
    found: dict[str, dict[tuple[str, str], list[float]]] = {}

    def precision(ranks: np.ndarray) -> float:
        return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))

    for query, vector in zip(benchmark.queries, unit_queries, strict=True):
        # Ids ascend, and of equal scores the greater id is first.
        order = np.argsort(unit_passages @ vector, kind="stable")[::-1]
        is_relevant = np.isin(order, [index_of[passage] for passage in benchmark.judgements[query.query_id]])
        for number, language in enumerate(languages):
            ranks = 1 + np.flatnonzero(is_relevant[language_of[order] == number])
            key = "mono/map" if language == query.language else "cross/map"
            found.setdefault(key, {}).setdefault((query.language, language), []).append(precision(ranks))
        ranks = 1 + np.flatnonzero(is_relevant)
        values = {"map": precision(ranks), "rank_distance": ranks[-1] - ranks[0], "max_rank": ranks[-1]}
        values |= {f"complete@{k}": float(ranks[-1] <= k) for k in (10, 20, 100) if len(ranks) <= k}
        for name, value in values.items():
            found.setdefault(f"multi/{name}", {}).setdefault((query.language, ""), []).append(value)
    return {name: float(np.mean([np.mean(of_pool) for of_pool in pools.values()])) for name, pools in found.items()}


def _independent_evaluation(model: str, benchmark: Benchmark) -> dict[str, float]:
    encoder = SentenceTransformer(model, device="cpu")
    queries = encoder.encode_query([query.text for query in benchmark.queries], normalize_embeddings=False)
    passages = encoder.encode_document([passage.text for passage in benchmark.passages], normalize_embeddings=False)
    return _evaluated_by_numpy(queries.astype(np.float64), passages.astype(np.float64), benchmark)


def test_metrics_equal_an_independent_evaluation(tmp_path):
    model = str(model_folders.KINDS["cosine without normalization"](tmp_path / "model"))
    pairs = model_folders.write_pairs(tmp_path / "pairs", items=40)
    settings = EvaluateConfig(benchmarks={"pairs": str(pairs)}, figures=False, precision="fp32")
    [report] = evaluate_model(model, settings, tmp_path / "report")
    expected = _independent_evaluation(model, load_benchmark("pairs", str(pairs)))
    assert {name: report.metrics[f"pairs/{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert expected["mono/map"] != expected["cross/map"] != expected["multi/map"]


@slow
@pytest.mark.skipif("HBT_TEST_ENCODER" not in os.environ, reason="set HBT_TEST_ENCODER to the folder of an encoder")
def test_metrics_of_an_encoder_equal_an_independent_evaluation(shared_data, tmp_path):
    model = os.environ["HBT_TEST_ENCODER"]
    settings = EvaluateConfig(benchmarks={"xquad-r": str(shared_data / "xquad-r")}, figures=False, precision="fp32")
    [report] = evaluate_model(model, settings, tmp_path)
    expected = _independent_evaluation(model, load_benchmark("xquad-r", str(shared_data / "xquad-r")))
    for name, value in expected.items():
        tolerance = {"abs": 5e-5} if value <= 1 else {"rel": 5e-5}
        assert report.metrics[f"xquad-r/{name}"] == pytest.approx(value, **tolerance), name


@pytest.mark.parametrize("kind", ["dot", "router", "static embedding"])
def test_mrr_is_that_of_sentence_transformers(tmp_path, kind):
    path = str(model_folders.KINDS[kind](tmp_path / "model"))
    pairs = model_folders.write_pairs(tmp_path / "pairs")
    settings = EvaluateConfig(benchmarks={"pairs": str(pairs)}, figures=False, precision="fp32")
    [report] = evaluate_model(path, settings, tmp_path / "report")

    benchmark = load_benchmark("pairs", str(pairs))
    library = SentenceTransformer(path, device="cpu")
    queries = library.encode_query([query.text for query in benchmark.queries])
    passages = library.encode_document([passage.text for passage in benchmark.passages])
    scores = library.similarity(queries, passages).numpy()
    reciprocal = []
    for query, of_query in zip(benchmark.queries, scores, strict=True):
        relevant = benchmark.judgements[query.query_id]
        ids = [passage.passage_id for passage in benchmark.passages if passage.language == query.language]
        of_pool = of_query[[passage.language == query.language for passage in benchmark.passages]]
        ranked = [ids[index] for index in np.lexsort((ids, of_pool))[::-1]]
        reciprocal.append(max(1 / (1 + ranked.index(one)) if one in ranked else 0 for one in relevant))
    assert report.metrics["pairs/mono/mrr"] == pytest.approx(np.mean(reciprocal), abs=1e-3)


@pytest.mark.parametrize("decontaminated", [True, False, None])
def test_report_says_if_training_data_were_not_decontaminated(tmp_path, caplog, decontaminated):
    model, pairs = model_folders.write_transformer(tmp_path / "model"), model_folders.write_pairs(tmp_path / "pairs")
    if decontaminated is not None:
        write_decontaminated(model, [load_benchmark("pairs", str(pairs))] if decontaminated else [])
    settings = EvaluateConfig(benchmarks={"pairs": str(pairs)}, figures=False)
    [report] = evaluate_model(str(model), settings, tmp_path / "report")
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report.decontaminated is written.get("decontaminated") is decontaminated
    sentence = "were not decontaminated against pairs and may contain its texts"
    in_report = (tmp_path / "report" / "report.md").read_text()
    assert (sentence in caplog.text) is (sentence in in_report) is (decontaminated is False)


@pytest.fixture(scope="module")
def with_code(tmp_path_factory) -> Path:
    """Return a model whose classes are in its folder."""
    return model_folders.write_with_code(tmp_path_factory.mktemp("code") / "model")


def evaluated(model: Path, out: Path, *options: str) -> Result:
    pairs = model_folders.write_pairs(out.with_name(f"{out.name}-pairs"), items=2)
    arguments = ["evaluate", "--model", str(model), "--benchmark", f"pairs={pairs}", "--out", str(out), *options]
    return CliRunner().invoke(main, arguments)


def test_a_models_code_runs_only_with_the_option(with_code, tmp_path):
    refused = evaluated(with_code, tmp_path / "refused")
    assert refused.exit_code == 2
    assert "trust_remote_code" in refused.output
    accepted = evaluated(with_code, tmp_path / "accepted", "--trust-remote-code")
    assert accepted.exit_code == 0, accepted.output


def test_mining_runs_a_models_code_only_with_the_setting(with_code):
    with pytest.raises(ConfigError, match="trust_remote_code"):
        open_miner(RunConfig(), str(with_code))
    settings = RunConfig.model_validate({"model": {"trust_remote_code": True}})
    assert len(open_miner(settings, str(with_code)).queries(["a"])) == 1
