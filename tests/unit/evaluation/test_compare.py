"""Runs are compared over their seeds and query by query, and false positives are as rare as the level says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import stats

from hbt_ray.cli import main
from hbt_ray.config import EvaluateConfig, build_config, dump_config
from hbt_ray.errors import UserError
from hbt_ray.evaluation.compare import (
    RunGroup,
    TestedDifference,
    TrackedRun,
    comparison_figure,
    comparison_table,
    differences,
    read_run_metrics,
    run_groups_in,
    run_groups_of,
    significance_tables,
    write_comparison_page,
)
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.method_difference import MethodDifference
from hbt_ray.evaluation.report import print_report, write_report
from hbt_ray.evaluation.significance import Difference, compare_queries, format_p, holm
from hbt_ray.tracking import Tracker
from hbt_ray.utils.storage import StoragePath
from hbt_ray.utils.terminal_table import print_tables
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages_and_earlier, malformed_cases
from tests.unit.evaluation.test_evaluator import parallel_benchmark, topic_embedder


def table(values: Sequence[float], groups: Sequence[str] | None = None, language: str = "en") -> pa.Table:
    names = [f"{language}:{n}" for n in range(len(values))]
    return pa.table(
        {
            "query_id": names,
            "group": list(groups or names),
            "language": [language] * len(values),
            "setting": ["mono"] * len(values),
            "passage_language": [language] * len(values),
            "ap": list(values),
        }
    )


def test_few_clusters_enumerate_all_sign_combinations():
    first, second = [0.2, 0.5, 0.1, 0.4, 0.3], [0.4, 0.6, 0.05, 0.9, 0.5]
    apart = np.subtract(second, first)
    turned = [abs(float(np.dot(signs, apart))) for signs in product((-1, 1), repeat=5)]
    expected = np.mean([total >= abs(apart.sum()) - 1e-12 for total in turned])
    found = compare_queries([table(first)], [table(second)], "mono/map")
    assert found.p_value == pytest.approx(expected)
    assert found.mean == pytest.approx(apart.mean())
    assert found.low <= found.mean <= found.high


def test_with_many_queries_it_agrees_with_the_paired_t_test():
    rng = np.random.default_rng(1)
    first = rng.random(400)
    second = first + rng.normal(0.01, 0.1, 400)
    found = compare_queries([table(first)], [table(second)], "mono/map")
    assert found.p_value == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=0.02)
    error = stats.sem(second - first)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.2 * error)


def test_translations_of_a_question_are_one_group():
    apart = np.tile([0.1, 0.2, -0.05, 0.3], 30)  # four questions, thirty translations of each
    groups = [f"q{n % 4}" for n in range(120)]
    ungrouped = compare_queries([table(np.zeros(120))], [table(apart)], "mono/map")
    grouped = compare_queries([table(np.zeros(120), groups)], [table(apart, groups)], "mono/map")
    assert ungrouped.p_value < 0.001
    assert grouped.p_value >= 2 / 2**4  # the minimum for four groups
    assert grouped.clusters == 4


def test_questions_on_one_paragraph_are_one_cluster():
    apart = np.tile([0.1, 0.2, -0.05, 0.3], 30)
    paragraphs = pa.array([f"p{n % 4}" for n in range(120)])
    one, other = (table(values).append_column("cluster", paragraphs) for values in (np.zeros(120), apart))
    found = compare_queries([one], [other], "mono/map")
    assert (found.clusters, found.is_grouped) == (4, False)
    assert found.p_value == 2 * 2 / 2**4  # of -0.05 either sign gives as much, or more
    half = stats.t.ppf(0.975, 3) * stats.sem(apart[:4])  # a cluster is a quarter of the questions
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    mixed = compare_queries([table(np.zeros(120))], [other], "mono/map")  # a table of an earlier version
    assert (mixed.clusters, mixed.is_grouped) == (120, True)


def test_p_value_at_the_floor_of_the_test_is_marked():
    zeros = table(np.zeros(30))
    assert compare_queries([zeros], [table(np.full(30, 0.1))], "mono/map").at_floor
    assert not compare_queries([zeros], [table(np.tile([0.1, -0.1, 0.1], 10))], "mono/map").at_floor
    assert format_p(0.0024, at_floor=True) == "≤ 0.0024"


def test_one_cluster_has_no_interval():
    found = compare_queries([table([0.0, 0.0], ["q", "q"])], [table([0.1, 0.2], ["q", "q"])], "mono/map")
    assert found.p_value == 1
    assert np.isnan([found.low, found.high]).all()


def test_languages_count_alike_however_many_queries_they_have():
    first = pa.concat_tables([table([0.0] * 8), table([0.0] * 2, language="sw")])
    second = pa.concat_tables([table([0.1] * 8), table([0.5] * 2, language="sw")])
    assert compare_queries([first], [second], "mono/map").mean == pytest.approx((0.1 + 0.5) / 2)


def test_the_seeds_of_a_run_are_averaged_query_by_query():
    found = compare_queries([table([0.0, 0.2]), table([0.2, 0.4])], [table([0.3, 0.3])], "mono/map")
    assert found.mean == pytest.approx(0.3 - 0.2)


def test_equal_runs_do_not_differ():
    found = compare_queries([table([0.5, 0.1])], [table([0.5, 0.1])], "mono/map")
    assert (found.mean, found.p_value) == (0, 1)


def test_other_queries_cannot_be_compared():
    with pytest.raises(UserError, match="not evaluated on the same queries"):
        compare_queries([table([0.5, 0.1])], [table([0.5])], "mono/map")


def test_per_query_table_without_a_column_is_an_error():
    with pytest.raises(UserError, match=r"no column 'group'; evaluate that model again"):
        compare_queries([table([0.5]).drop_columns(["group"])], [table([0.5])], "mono/map")


def test_false_positive_rate_keeps_its_level():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(100):
        first, second = rng.random((2, 12))  # exact: 4,096 ways
        alarms += compare_queries([table(first)], [table(second)], "mono/map").p_value < 0.05
    assert alarms <= 11  # the 99th percentile of 100 draws at 5%


def test_holm_on_paper():
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([]) == []


def written_run(folder: Path, seed: int, alpha: float, noise: float) -> str:
    """Write a run's folder with its configuration and a report."""
    benchmark = parallel_benchmark(30)
    report = evaluate_benchmark(topic_embedder(benchmark, noise=noise, bias=0.2 * seed), benchmark, EvaluateConfig())
    place = folder / "evaluation" / "tiny"
    place.mkdir(parents=True)
    pq.write_table(report.per_query, place / "per_query.parquet")
    (place / "report.json").write_text(json.dumps({"benchmark": "tiny", "metrics": report.metrics}))
    config = build_config({"name": folder.name, "seed": seed, "mix": {"alpha": alpha}})
    (folder / "run.yaml").write_text(dump_config(config))
    return str(folder)


def test_runs_that_differ_only_in_their_seed_are_one_group(tmp_path: Path):
    folders = [
        written_run(tmp_path / f"run-{alpha}-{seed}", seed, alpha, noise)
        for alpha, noise in ((0.5, 0.9), (1.0, 0.3))
        for seed in (0, 1)
    ]
    contenders = run_groups_in(folders)
    assert [len(contender.metrics) for contender in contenders] == [2, 2]
    assert contenders[0].label == f"{Path(folders[0]).name} and 1 more seeds"
    shown = comparison_table(contenders)
    assert all("±" in cell for column in shown.columns[1:] for cell in column.cells)
    tested = differences(contenders)
    found = {one.metric: one for one in tested}["tiny/mono/map"]
    mean = [contender.mean("tiny/mono/map") for contender in contenders]
    assert found.models.mean == pytest.approx(mean[1] - mean[0])
    assert found.models.clusters == 90
    assert found.methods is not None
    by_seed = [other - one for one, other in zip(*(one.values("tiny/mono/map") for one in contenders), strict=True)]
    assert found.methods.by_seed == pytest.approx(by_seed)
    assert found.p_of_methods is not None
    assert found.p_of_methods > found.p_of_models  # two seeds show little
    text = printed(significance_tables(contenders, tested))
    assert "better" in text
    assert "by the 2 seeds that both have" in text


def test_methods_of_a_study_with_equal_settings_are_not_one_group(tmp_path: Path):
    """An encoder before and after training has the same run.yaml."""
    cells = [("untrained", 0), ("hybrid", 0), ("hybrid", 1)]
    folders = [written_run(tmp_path / f"cells/{method}/seed-{seed}", seed, 0.5, 0.9) for method, seed in cells]
    assert [len(group.metrics) for group in run_groups_in(folders)] == [1, 2]
    copies = [written_run(tmp_path / f"copy-{number}", 0, 0.5, 0.9) for number in range(2)]
    assert [len(group.metrics) for group in run_groups_in(copies)] == [1, 1]  # of one seed


def printed(tables: Sequence[Table]) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(*tables)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    return text


def test_one_seed_says_nothing_of_the_methods(tmp_path: Path):
    contenders = run_groups_in([written_run(tmp_path / "a", 0, 0.5, 0.9), written_run(tmp_path / "b", 0, 1.0, 0.3)])
    tested = differences(contenders)
    assert {(one.methods, one.p_of_methods) for one in tested} == {(None, None)}
    tests, shown = printed(significance_tables(contenders, tested)), printed([comparison_table(contenders, tested)])
    for text in (tests, shown):
        assert "the probability of such a difference by chance" in text
        assert "To test how they were trained takes two or more seeds of each" in " ".join(text.split())
    assert "unclear: p is 0.05 or more" in tests
    assert "p: against a," in shown
    assert "p≤.0008" in shown  # four times the floor of 9,999 draws


@pytest.mark.parametrize("has_methods", [False, True])
def test_verdicts_stay_with_their_numbers_at_80_columns(has_methods: bool):
    methods = MethodDifference((-2300.0, -2473.2), 1e4, 1e5, 90) if has_methods else None
    tested = [
        TestedDifference("b", f"{name}/multi/rank_distance", f"{name} rank distance", models, p, methods, 0.04)
        for name in ("embedded", "courses")
        for models, p in [(Difference(1055.8, -1370.7, 2490.2, 0.7456, 90), 0.7456)]
    ]
    groups = [RunGroup("a", ()), RunGroup("b", ())]
    file = StringIO()
    print_tables(significance_tables(groups, tested), Console(file=file, width=80))
    text = file.getvalue()
    assert text.count("95% interval") == 1
    assert len(re.findall(r"\+1,055\.8 +−1,370\.7 to \+2,490\.2 +0\.7456 +unclear", text)) == 2
    assert len(re.findall(r"methods +−2,386\.6 +−3,804\.1 to −969\.1 +0\.0400 +better", text)) == 2 * has_methods


def test_runs_are_paired_by_seed_and_with_a_fixed_model_but_not_a_trained_one(tmp_path: Path):
    folders = [
        written_run(tmp_path / f"{alpha}-{seed}", seed, alpha, 0.5)
        for alpha, seeds in ((0.5, (0, 1, 2)), (1.0, (2, 1, 7)))
        for seed in seeds
    ]
    first, second = run_groups_in(folders)
    shift = dict(zip(first.seeds, first.values("tiny/mono/map"), strict=True))
    of_second = dict(zip(second.seeds, second.values("tiny/mono/map"), strict=True))
    [found] = [one.methods for one in differences([first, second]) if one.metric == "tiny/mono/map"]
    assert found is not None
    assert found.by_seed == pytest.approx([of_second[seed] - shift[seed] for seed in (1, 2)])
    fixed = RunGroup("fixed", second.metrics[:1], second.reports[:1])
    [found] = [one.methods for one in differences([first, fixed]) if one.metric == "tiny/mono/map"]
    assert found is not None
    assert len(found.by_seed) == 3
    file = fixed.reports[0]["tiny"] / "report.json"
    for key, seeds in (("revision", 3), ("path", 0)):  # of the hub, and trained here
        model = {"base_model": "some/encoder", key: "abc"}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model": model}))
        for pair in ([first, fixed], [fixed, first]):
            found = differences(pair)[0].methods
            assert len(found.by_seed if found else ()) == seeds
    unshared = RunGroup("others", second.metrics[2:], second.reports[2:], second.seeds[2:])
    assert differences([first, unshared])[0].methods is None


def test_a_difference_of_rank_distance_is_the_metrics_difference(tmp_path: Path):
    contenders = run_groups_in([written_run(tmp_path / "a", 0, 0.5, 0.9), written_run(tmp_path / "b", 1, 0.6, 0.9)])
    for one in differences(contenders):
        expected = contenders[1].mean(one.metric) - contenders[0].mean(one.metric)
        assert one.models.mean == pytest.approx(expected)
        assert one.p_of_models >= one.models.p_value


def test_exact_metrics_are_not_tested_against_those_of_an_approximate_index(tmp_path: Path):
    runs = [written_run(tmp_path / name, 0, alpha, 0.5) for name, alpha in (("exact", 0.5), ("hnsw", 1.0))]
    file = Path(runs[1]) / "evaluation" / "tiny" / "report.json"
    file.write_text(file.read_text().replace('/map"', '/map@1000"'))
    assert [one.metric for one in differences(run_groups_in(runs))] == ["tiny/multi/rank_distance"]


def test_tracked_runs_are_grouped_by_their_parameters():
    runs = {
        "a 1": TrackedRun({"seed": "0", "mix.alpha": "0.5", "name": "a"}, {"t/mono/map": 0.2}),
        "a 2": TrackedRun({"seed": "1", "mix.alpha": "0.5", "name": "b"}, {"t/mono/map": 0.4}),
        "b 1": TrackedRun({"seed": "0", "mix.alpha": "0.7", "name": "a"}, {"t/mono/map": 0.5}),
    }
    first, second = run_groups_of(runs)
    assert (first.label, first.mean("t/mono/map"), second.label) == ("a 1 and 1 more seeds", pytest.approx(0.3), "b 1")
    assert differences([first, second]) == []
    assert significance_tables([first, second], []) == []
    assert comparison_table([]).row_count == 0


def test_tracked_runs_are_selected_by_tag_and_tested_by_query(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for name, alpha, noise in (("one", 0.5, 0.9), ("other", 1.0, 0.3), ("third", 0.7, 0.3)):
        folder = Path(written_run(tmp_path / name, 0, alpha, noise))
        config = build_config({"name": name, "mix": {"alpha": alpha}})
        tags = {"group": "wanted" if name != "third" else "left out"}
        tracker = Tracker.start(uri, "exp", name, config, StoragePath.of(folder / "id"), tags=tags)
        tracker.log_artifacts(folder / "evaluation" / "tiny", "evaluation/tiny")
        tracker.finish()
    command = ["compare", "--experiment", "exp", "--uri", uri, "--tag", "group=wanted", "--out", str(tmp_path / "out")]
    printed = CliRunner().invoke(main, command, env={"COLUMNS": "200"})
    assert printed.exit_code == 0, printed.output
    assert "other" in printed.output
    assert "third" not in printed.output
    assert "better" in printed.output
    assert "Downloading" not in printed.output
    assert re.search("baseline one [0-9a-f]{8}, the oldest run; for another, name runs, the", printed.output)
    named = CliRunner().invoke(main, [*command, "other", "one"], env={"COLUMNS": "200"})
    assert re.search("one [0-9a-f]{8} against other [0-9a-f]{8}", named.output)
    assert "baseline" not in named.output
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.width > 600
    wrong = CliRunner().invoke(main, [*command, "--tag", "group=none"])
    assert "has no run with group=wanted and group=none" in wrong.output


def test_comparison_marks_the_best_of_each_column():
    table = comparison_table(
        [
            RunGroup("x-y", ({"tiny/mono/map": 0.5, "tiny/multi/map": 0.30001, "tiny/multi/rank_distance": 1410.2},)),
            RunGroup("hybrid", ({"tiny/mono/map": 0.6, "tiny/multi/map": 0.30002, "tiny/multi/rank_distance": 286.6},)),
            RunGroup("half", ({"tiny/mono/map": 0.1, "train/loss": 3.0},)),
        ]
    )
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells == {
        "run": ["x-y", "hybrid", "half"],
        "mono mAP": ["0.5000", "[bold]0.6000[/bold]", "0.1000"],
        "multi mAP": ["[bold]0.3000[/bold]", "[bold]0.3000[/bold]", "–"],
        "rank distance": ["1,410.2", "[bold]286.6[/bold]", "–"],
    }
    assert table.title == "tiny"


def test_comparison_and_report_name_the_split(tmp_path: Path):
    benchmark = replace(parallel_benchmark(4, ("de", "en")), split="small")
    report = evaluate_benchmark(topic_embedder(benchmark, noise=0), benchmark, EvaluateConfig())
    write_report(report, tmp_path, settings=EvaluateConfig(figures=False))
    named = f"{benchmark.name} (small)"
    groups = run_groups_in([str(tmp_path)])
    assert comparison_table(groups).title == named
    pages = write_comparison_page(groups, tmp_path / "page"), tmp_path / "report.html", tmp_path / "report.md"
    assert all(named in page.read_text(encoding="utf-8") for page in pages)
    printed = Console(file=StringIO(), width=80)
    print_report(report, printed)
    assert named in printed.file.getvalue()


def test_figure_says_where_a_run_has_no_value():
    groups = [RunGroup("a", ({"t/mono/map": 0.5},)), RunGroup("b", ({"t/mono/map": 0.0, "t/multi/rank_distance": 7},))]
    figure = comparison_figure(groups)
    shown = [[text.get_text() for text in panel.texts] for panel in figure.axes]
    assert shown == [["0.500", "0.000"], ["none", "7"]]


def test_comparison_of_several_benchmarks_names_them():
    table = comparison_table([RunGroup("a", ({"one/mono/map": 0.5},)), RunGroup("b", ({"two/mono/map": 0.5},))])
    assert [column.header for column in table.columns] == ["run", "one mono mAP", "two mono mAP"]


def test_reports_of_a_run_are_read_together(tmp_path: Path):
    for name in ("one", "two"):
        folder = tmp_path / "evaluation" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"metrics": {f"{name}/mono/map": 0.5}}))
    expected = {"one/mono/map": 0.5, "two/mono/map": 0.5}
    assert read_run_metrics(tmp_path) == read_run_metrics(tmp_path / "evaluation") == expected


def test_reports_of_two_models_or_of_one_benchmark_in_a_folder_are_refused(tmp_path: Path):
    def write(folder: Path, benchmark: str, model: str) -> None:
        folder.mkdir(exist_ok=True)
        report = {"benchmark": benchmark, "model": {"path": model}, "metrics": {f"{benchmark}/mono/map": 0.5}}
        (folder / "report.json").write_text(json.dumps(report))

    write(tmp_path / "x", "x", "a")
    write(tmp_path / "y", "y", "a")
    assert len(read_run_metrics(tmp_path)) == 2
    write(tmp_path, "x", "a")
    with pytest.raises(UserError, match=rf"'{tmp_path}' and '{tmp_path / 'x'}' hold reports of one benchmark, x"):
        read_run_metrics(tmp_path)
    write(tmp_path, "z", "b")
    with pytest.raises(UserError, match=rf"'{tmp_path}' and '{tmp_path / 'x'}' hold reports of two models"):
        read_run_metrics(tmp_path)


def test_runs_on_other_texts_and_runs_named_twice_are_refused(tmp_path: Path):
    one, other = (written_run(tmp_path / name, 0, alpha, 0.5) for name, alpha in (("one", 0.5), ("other", 1.0)))
    with pytest.raises(UserError, match="is named twice"):
        run_groups_in([one, f"{other}/../one"])
    file = Path(other) / "evaluation" / "tiny" / "report.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "of others"}))
    with pytest.raises(UserError, match="were not evaluated on the same tiny"):
        differences(run_groups_in([one, other]))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"split": "small"}))
    with pytest.raises(UserError, match="the default one and small; evaluate one of them again with --split small"):
        differences(run_groups_in([one, other]))
    (file.parent / "per_query.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged"):
        differences(run_groups_in([one, other]))


def test_folder_without_a_report_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="evaluate a model into that folder"):
        read_run_metrics(tmp_path)
    for run in ("x-y", "hybrid"):
        (tmp_path / run / "evaluation/tiny").mkdir(parents=True)
        (tmp_path / run / "evaluation/tiny/report.json").write_text("{}")
    with pytest.raises(UserError, match=f"'{tmp_path}' holds the runs hybrid, x-y; name one, such as '{tmp_path}/hyb"):
        read_run_metrics(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="is not a report"):
        read_run_metrics(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    benchmark = parallel_benchmark(4, ("de", "en"))
    for seed in (0, 1):
        report = evaluate_benchmark(topic_embedder(benchmark, noise=seed), benchmark, EvaluateConfig())
        write_report(
            replace(report, benchmark=f"made-{seed}"), folder / f"{seed}", settings=EvaluateConfig(figures=False)
        )
    return folder


@malformed_cases(2 * EXAMPLES, damage=damages_and_earlier)
def test_damaged_run_is_compared_equal_or_refused_by_name(run: Path, damage: Damage):
    def compared(folder: Path) -> list[object]:
        [group] = run_groups_in([str(folder)])
        names = ("made-0", "made-1")
        return [group.metrics, *(group.per_query(name) for name in names), *(group.fingerprints(n) for n in names)]

    check_damaged(run, damage, compared)
