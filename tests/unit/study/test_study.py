"""A study's numbers come from its per-query files alone, and its report says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hbt_ray.config import CONFIGS, EvaluateConfig
from hbt_ray.data.manifest import Group, ShardInfo, Source, StoreManifest
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import write_report
from hbt_ray.study.config import StudyConfig, load_study, study_file
from hbt_ray.study.experiments import dependency_levels, folder_name
from hbt_ray.study.report import write_document
from hbt_ray.study.results import Results, higher_is_better
from tests.unit.evaluation.test_evaluator import TableEmbedder, parallel_benchmark, topic_embedder

LANGUAGES = ("de", "en", "sw")
STUDIES = sorted(file.stem for file in (CONFIGS / "studies").glob("*.yaml"))
SETTINGS = {
    "name": "small",
    "title": "A small study",
    "question": "Which is better?",
    "reference": "hybrid",
    "methods": {"untrained": {"trained": False}, "hybrid": {}, "x-y": {"settings": {"mix.strategy": "x-y"}}},
    "measures": ["tiny/multi/map", "tiny/mono/map/low-resource", "tiny/gap/map", "drop/tiny/multi/map"],
    "chapters": ["levels", "languages", "robustness", "alignment", "gap"],
    "licences": {"numbers": "made here"},
    "limits": ["It is made up."],
    "run": {"evaluate": {"benchmarks": {"tiny": "somewhere"}, "perturbations": ["case"]}},
}
NOISE: Mapping[str, float] = {"untrained": 1.2, "hybrid": 0.4, "x-y": 0.8}


def finished(folder: Path, benchmark: Benchmark) -> Results:
    """Return a study whose encoders are noisy tables of vectors: the perturbed queries are noisier."""
    results = Results(StudyConfig.model_validate(SETTINGS), folder)
    for (method, seed), cell in results.cells.items():
        for name, more in (("tiny", 1.0), ("tiny-case", 1.5)):
            table = topic_embedder(benchmark, noise=NOISE[method], bias=0.4)
            rng = np.random.default_rng(seed)
            moved = {
                text: vector + (more * 0.3 * rng.standard_normal(len(vector)) if text.startswith("q:") else 0)
                for text, vector in table.vectors.items()
            }
            asked = Benchmark(name, benchmark.queries, benchmark.passages, benchmark.judgements)
            report = evaluate_benchmark(TableEmbedder(moved), asked, EvaluateConfig())
            write_report(report, cell.folder(folder).evaluations / name, settings=EvaluateConfig(figures=False))
    return results


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    plain = parallel_benchmark(20, LANGUAGES)
    queries = [type(q)(q.query_id, q.language, q.text, q.text.split(":")[2]) for q in plain.queries]
    return Benchmark("tiny", queries, plain.passages, plain.judgements)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, benchmark: Benchmark) -> Results:
    return finished(tmp_path_factory.mktemp("study"), benchmark)


MANIFEST = StoreManifest(
    *("text", "uint16", {"numbers": Source((Group(LANGUAGES, 0),), {"train": (ShardInfo("f", 7, ((0, 7),), ""),)})}),
    {"numbers": {"items_dropped_for_evaluation": ["1", "2"], "items_dropped_as_repeated": []}},
)


def recomputed(folder: Path, method: str, seed: int) -> dict[str, float]:
    """Return the measures from a cell's per-query files, by loops."""

    def cells(name: str) -> dict[tuple[str, str, str], float]:
        file = folder / "cells" / method / f"seed-{seed}" / "evaluation" / name / "per_query.parquet"
        found: dict[tuple[str, str, str], list[float]] = {}
        for row in pq.read_table(file).to_pylist():
            key = (row["setting"], row["language"], row["passage_language"] or "")
            found.setdefault(key, []).append(row["ap"])
        return {key: sum(values) / len(values) for key, values in found.items()}

    own, changed = cells("tiny"), cells("tiny-case")
    multi = np.mean([own["multi", x, ""] for x in LANGUAGES])
    gaps = [own["mono", x, x] - np.mean([own["cross", x, y] for y in LANGUAGES if y != x]) for x in LANGUAGES]
    return {
        "tiny/multi/map": multi,
        "tiny/mono/map/low-resource": own["mono", "sw", "sw"],
        "tiny/gap/map": np.mean(gaps),
        "drop/tiny/multi/map": multi - np.mean([changed["multi", x, ""] for x in LANGUAGES]),
    }


def test_the_table_can_be_worked_out_from_the_per_query_files_alone(results: Results):
    write_document(results, {"store": MANIFEST}, "hbt study small")
    summary = json.loads((results.folder / "summary.json").read_text())
    for method in SETTINGS["methods"]:
        for place, seed in enumerate((0, 1, 2)):
            for measure, value in recomputed(results.folder, method, seed).items():
                assert summary["measures"][measure][method][place] == pytest.approx(value, abs=1e-12), measure


def test_two_studies_with_the_same_seeds_leave_the_same_numbers_and_the_same_report(
    results: Results, benchmark: Benchmark, tmp_path: Path
):
    for own in (results, finished(tmp_path, benchmark)):
        write_document(own, {"store": MANIFEST}, "hbt study small")
    for name in ("summary.json", "table.csv", "report.md", "report.html"):
        assert (results.folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_report_says_the_question_the_data_the_tests_the_limits_and_how_to_repeat_it(results: Results):
    page = write_document(results, {"store": MANIFEST}, "hbt study small --out here")
    text = (results.folder / "report.md").read_text()
    wanted = ["Which is better?", "numbers | 7 | 0 | 3 | 2 | 0 | made here", "mix.strategy = x-y", "not fine-tuned"]
    wanted += ["It is made up.", "hbt study small --out here", "95% confidence", "Holm", "worst-group drop"]
    for words in wanted:
        assert words in text, words
    shown = {line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert shown == {f"figures/{file.name}" for file in (results.folder / "figures").glob("*.png")}
    html = page.read_text()
    assert html.count("data:image/png;base64,") == len(shown)
    assert 'src="figures' not in html


def test_noise_that_is_laid_on_is_found_and_tested(results: Results):
    found = {(own.method, own.measure): own for own in results.comparisons(results.config.measures)}
    assert found["untrained", "tiny/multi/map"].difference.mean < -0.05
    assert found["untrained", "tiny/multi/map"].p_value < 0.05
    values = [results.estimate(method, "tiny/multi/map").values for method in ("untrained", "hybrid")]
    by_seed = [one - other for one, other in zip(*values, strict=True)]
    assert found["untrained", "tiny/multi/map"].by_seed == pytest.approx(by_seed)
    assert found["untrained", "tiny/multi/map"].seeds_agreeing == sum(own < 0 for own in by_seed) == 3
    assert len(found) == 2 * len(SETTINGS["measures"])
    drop = results.estimate("hybrid", "drop/tiny/multi/map")
    assert drop.mean > 0
    assert results.estimate("hybrid", "worst_drop/tiny/multi/map").values == drop.values  # of one perturbation


def test_an_interval_over_seeds_is_students():
    from hbt_ray.study.results import estimate

    own = estimate([0.1, 0.2, 0.3])
    assert (own.mean, own.half_width) == (pytest.approx(0.2), pytest.approx(4.302653 * 0.1 / 3**0.5))
    assert estimate([0.4]).half_width is None


def test_less_is_better_of_drops_gaps_and_distances():
    names = ["x/multi/map", "drop/x/multi/map", "x/gap/map", "x/multi/rank_distance", "worst_drop/x/mono/map"]
    assert [higher_is_better(name) for name in names] == [True, False, False, False, False]
    assert display_name("worst_drop/beir-scifact/mono/ndcg@10/de") == "worst drop of beir-scifact mono nDCG@10, de"


def test_methods_that_need_another_come_after_it():
    methods = {"mined": {"mined_with": "hybrid"}, "hybrid": {}, "taught": {"taught_by": "hybrid"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "seeds": [4]})
    first, second = dependency_levels(list(Results(config, Path("nowhere")).cells.values()))
    assert ([cell.name for cell in first], [cell.name for cell in second]) == (["hybrid"], ["mined", "taught"])


def test_a_benchmark_that_was_not_measured_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="hybrid, seed 0 was not measured on 'tiny'"):
        Results(StudyConfig.model_validate(SETTINGS), tmp_path).estimate("hybrid", "tiny/multi/map")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"reference": "none"}, "no method"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"methods": {"hybrid": {"pretrained": "x"}, "b": {}}}, "not in pretraining"),
        ({"methods": {"hybrid": {"mined_with": "hybrid"}, "b": {}}}, "another method that needs none itself"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changed, told):
    from hbt_ray.config import build

    with pytest.raises(ConfigError, match=told):
        build(StudyConfig, SETTINGS | changed)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_that_comes_with_the_project_can_be_read(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HBT_DATA", "/data")
    assert load_study(study_file(name), ["run.steps=3"]).run.train.steps == 3


def test_a_study_that_there_is_not_is_told_with_those_that_are():
    with pytest.raises(ConfigError, match=r"there is no study 'low'; there are .*low-resource"):
        study_file("low")


def test_a_folder_is_named_after_its_method():
    assert folder_name("X-X mono + mined") == "x-x-mono-mined"
