"""Report files agree with the report, and other tools read them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import AP, RR, R, nDCG
from PIL import Image
from rich.console import Console

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, Passage, Query, RejectedRow
from hbt_ray.errors import StorageError, UserError
from hbt_ray.evaluation.compare import differences, read_run_metrics, run_groups_in
from hbt_ray.evaluation.evaluator import EmbeddingSample, EvalReport, evaluate_benchmark
from hbt_ray.evaluation.judgement_arrays import language_spans
from hbt_ray.evaluation.report import (
    markdown_table,
    print_report,
    projection_figure,
    read_per_query,
    read_question_results,
    read_report,
    report_fault,
    write_report,
)
from hbt_ray.evaluation.report.markdown import markdown_lines
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages_and_earlier, flip_bit, malformed_cases
from tests.helpers.full_disk import no_file_above

LANGUAGES = ("de", "en", "tr")


class WholeNumbers:
    """Vectors of small whole numbers, so that scores are exact and often equal."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(-3, 4, (len(texts), 5)).astype(np.float32)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return np.random.default_rng(self.seed + 1).integers(-3, 4, (len(texts), 5)).astype(np.float32)


def _benchmark(items: int = 20) -> Benchmark:
    rng = np.random.default_rng(4)
    return Benchmark(
        "tiny",
        [Query(f"{language}:{n}", language, f"{language} {n}?") for language in LANGUAGES for n in range(items)],
        [Passage(f"{language}:{n:02}", language, f"{language} {n}.") for language in LANGUAGES for n in range(items)],
        {
            f"{language}:{n}": {f"{other}:{n:02}": int(rng.integers(1, 3)) for other in LANGUAGES}
            for language in LANGUAGES
            for n in range(items)
        },
    )


@pytest.fixture(scope="module")
def report() -> EvalReport:
    return evaluate_benchmark(WholeNumbers(), _benchmark(), EvaluateConfig(run_depth=100))


@pytest.fixture(scope="module")
def folder(report: EvalReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("report") / "made" / "here", model="whole numbers")


def test_a_gap_without_an_interval_says_that_it_is_not_known(report: EvalReport):
    name = "tiny/gap/map"
    assert f"| mAP | {report.metrics[name]:.4f} | not known |" in markdown_lines(replace(report, intervals={}))


def test_written_run_and_qrels_give_ir_measures_equal_metrics(report: EvalReport, folder: Path):
    run = list(ir_measures.read_trec_run(str(folder / "run.trec")))
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.trec")))
    assert len(run) == 60 * 60
    table = report.per_query.to_pandas()
    table = table[table.setting == "multi"].set_index("query_id")
    columns = {AP: "ap", RR: "rr", nDCG @ 10: "ndcg@10", R @ 1: "recall@1", R @ 10: "recall@10", R @ 100: "recall@100"}
    found = list(ir_measures.iter_calc(list(columns), qrels, run))
    assert len(found) == len(columns) * 60
    for one in found:
        assert table.loc[one.query_id, columns[one.measure]] == pytest.approx(one.value, abs=1e-6), one


def test_written_scores_come_back_bit_for_bit(tmp_path: Path):
    class Reals(WholeNumbers):
        def queries(self, texts: Sequence[str]) -> np.ndarray:
            return np.random.default_rng(len(texts)).standard_normal((len(texts), 7), dtype=np.float32)

        passages = queries

    report = evaluate_benchmark(Reals(), _benchmark(), EvaluateConfig(run_depth=9))
    write_report(report, tmp_path, settings=EvaluateConfig(figures=False))
    lines = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert (np.array([line[4] for line in lines]).astype(np.float32) == report.run.scores.ravel()).all()
    assert [line[3] for line in lines[:10]] == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "1"]


def test_summary_table_and_matrix_come_back(report: EvalReport, folder: Path):
    summary = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert summary["metrics"] == report.metrics == read_run_metrics(folder)
    assert (summary["benchmark"], summary["model"]) == ("tiny", "whole numbers")
    assert summary["counts"]["passages"] == 60
    assert set(summary["seconds"]) == {"embed", "rank"}
    assert pq.read_table(folder / "per_query.parquet").equals(report.per_query)
    lines = [line.split(",") for line in (folder / "matrix.csv").read_text().splitlines()]
    assert lines[0][1:] == [line[0] for line in lines[1:]] == list(LANGUAGES)
    assert np.array([line[1:] for line in lines[1:]], float).tolist() == report.matrix.tolist()


def test_figures_are_pictures(folder: Path):
    for name in ("matrix", "bias", "projection"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 20, f"{name} is blank"


@pytest.mark.parametrize("vectors", [np.ones((8, 3)), np.eye(4, 1), np.eye(90)])
def test_projection_of_vectors_that_hardly_differ(vectors: np.ndarray):
    half = len(vectors) // 2
    sample = EmbeddingSample(
        vectors.astype(np.float32), ("de",) * half + ("en",) * half, ("question", "passage") * half
    )
    figure = projection_figure("tiny", sample)
    points = np.concatenate([np.asarray(one.get_offsets()) for one in figure.axes[0].collections])
    assert np.isfinite(points).all()


def test_one_language_is_reported_too(tmp_path: Path):
    benchmark = Benchmark("mono", [Query("q", "en", "?")], [Passage("p", "en", ".")], {"q": {"p": 1}})
    report = evaluate_benchmark(WholeNumbers(), benchmark, EvaluateConfig())
    write_report(report, tmp_path)
    assert "model" not in json.loads((tmp_path / "report.json").read_text())
    console = Console(file=StringIO(), width=100)
    print_report(report, console)


def test_print_report_fits_a_terminal(report: EvalReport):
    console = Console(file=StringIO(), width=80)
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{report.metrics['tiny/cross/map']:.4f}" in text
    assert "rank distance ↓" in text
    assert "…" not in text


def test_mteb_and_markdown_agree_with_the_report(report: EvalReport, folder: Path):
    result = json.loads((folder / "mteb.json").read_text())
    [scores] = result["scores"].values()
    subsets = {subset["hf_subset"]: subset for subset in scores}
    assert len(subsets) == 3 + 6 + 3
    assert subsets["de-en"]["map"] == pytest.approx(report.metrics["tiny/cross/map/de-en"])
    assert subsets["tr-multi"]["main_score"] == pytest.approx(report.metrics["tiny/multi/ndcg@10/tr"])
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"| map | {report.metrics['tiny/mono/map']:.4f} |" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (folder / picture).exists()


def test_report_that_cannot_be_written_is_an_error(report: EvalReport, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written to .*file"):
        write_report(report, tmp_path / "file")


def test_report_interrupted_by_a_full_disk_leaves_the_earlier_one(report: EvalReport, tmp_path: Path):
    earlier = evaluate_benchmark(WholeNumbers(7), _benchmark(), EvaluateConfig(run_depth=100))
    folder = write_report(earlier, tmp_path / "report")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    sizes = sorted({len(content) for content in files.values()})
    for size in [0, *(size - 100 for size in sizes if size > 100)]:
        with no_file_above(size), pytest.raises(StorageError, match="the report cannot be written"):
            write_report(report, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files, size
    write_report(report, folder, settings=EvaluateConfig(figures=False))
    assert read_report(folder)["metrics"] == report.metrics
    assert not list(folder.glob("*.png"))  # of the earlier report
    assert report_fault(folder) is None


def test_files_that_are_not_of_the_report_are_refused(report: EvalReport, tmp_path: Path):
    other = evaluate_benchmark(WholeNumbers(7), _benchmark(), EvaluateConfig(run_depth=100))
    settings = EvaluateConfig(figures=False)
    one, two = (
        write_report(report, tmp_path / "one", settings=settings),
        write_report(other, tmp_path / "two", settings=settings),
    )
    assert len(run_groups_in([str(one), str(two)])) == 2
    (one / "per_query.parquet").write_bytes((two / "per_query.parquet").read_bytes())
    with pytest.raises(UserError, match=r"per_query\.parquet' is damaged \(its checksum does not match\)"):
        differences(run_groups_in([str(one), str(two)]))
    flip_bit(two / "report.json", (two / "report.json").read_text().index('"metrics"') + 20)
    with pytest.raises(UserError, match=r"report\.json' is not a report \(its checksum does not match\)"):
        run_groups_in([str(two)])


def test_metrics_of_an_approximate_index_are_named_by_depth(tmp_path: Path):
    benchmark = replace(_benchmark(), name="miracl-tiny")
    embedder = WholeNumbers()
    passages = embedder.passages([passage.text for passage in benchmark.passages])
    shards = [PassageIndexShard(passages[span], span.start) for span in language_spans(benchmark).values()]
    report = evaluate_benchmark(embedder, benchmark, EvaluateConfig(), PassageIndex.of(*shards, depth=11))
    write_report(report, tmp_path, settings=EvaluateConfig(index_depth=1000, figures=False))
    written = (tmp_path / "report.md").read_text()
    assert "| map@11 |" in written
    assert "mono nDCG@10" in written
    assert "100.0% of the exact first 10 among all passages" in written
    summary = json.loads((tmp_path / "report.json").read_text())
    assert summary["index_recall@10"]["all"] == 1
    assert summary["settings"]["window_chars"] is None


def test_rejects_are_counted_and_listed(tmp_path: Path):
    rejects = [RejectedRow("tiny", f"corpus.jsonl:{n}", "broken JSON", "{") for n in range(3)]
    report = evaluate_benchmark(WholeNumbers(), replace(_benchmark(), rejects=rejects), EvaluateConfig())
    write_report(report, tmp_path, settings=EvaluateConfig(figures=False))
    assert json.loads((tmp_path / "report.json").read_text())["rejects"] == {"broken JSON": 3}
    listed = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [entry["place"] for entry in listed] == ["corpus.jsonl:0", "corpus.jsonl:1", "corpus.jsonl:2"]
    console = Console(file=StringIO(), width=100)
    print_report(report, console)
    assert "3 times: broken JSON" in console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_escapes_html_in_a_benchmarks_name(report: EvalReport):
    named = replace(report, benchmark="<img src=x onerror=y>")
    assert next(markdown_lines(named)) == "# &lt;img src=x onerror=y&gt;"


def test_markdown_table_aligns_words_left_and_numbers_right():
    rows = [["de", "**0.51 ± 0.1**", "+3.1", "better", "-"], ["en", "0.49 ± 0.2", "-1,000", "worse", "12"]]
    lines = list(markdown_table(["method", "mAP", "change", "verdict", "often"], rows))
    assert lines[1] == "|---|---:|---:|---|---:|"
    assert lines[2] == "| de | **0.51 ± 0.1** | +3.1 | better | - |"


@pytest.fixture(scope="module")
def written(report: EvalReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("report"), settings=EvaluateConfig(figures=False))


def read_all(folder: Path) -> tuple[object, ...]:
    if fault := report_fault(folder):
        raise UserError(f"{folder / fault} is damaged")
    results = read_question_results(folder)
    return read_report(folder)["metrics"], read_per_query(folder), results.questions, results.passages


@malformed_cases(3 * EXAMPLES, damage=damages_and_earlier)
def test_damaged_report_is_read_equal_or_refused_by_name(written: Path, damage: Damage):
    check_damaged(written, damage, read_all)
