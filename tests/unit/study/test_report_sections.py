from __future__ import annotations

from dataclasses import replace

import pytest

from hbt_ray.config import replace_in
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import read_report
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import TrainingTokens
from hbt_ray.study.report_sections import (
    StudyInputs,
    answer,
    comparison_section,
    data_section,
    format_metric,
    limits_section,
    published_section,
    results_section,
    setup_section,
)
from hbt_ray.study.results import StudyResults
from tests.unit.study.example_study import MANIFEST, SETTINGS


def test_values_are_formatted_by_their_unit_and_sign():
    assert format_metric("x/multi/map", 0.12345) == "0.1235"
    assert format_metric("drop/x/multi/map", 0.1, sign=True) == "+0.1000"
    assert format_metric("worst_drop/x/multi/rank_distance", -1234.56, sign=True) == "-1,234.6"


def test_drop_is_displayed_with_its_metric_and_part():
    assert display_name("worst_drop/beir-scifact/mono/ndcg@10/de") == "worst drop of beir-scifact mono nDCG@10, de"


def test_with_one_cluster_nothing_is_known_of_methods_and_the_report_says_why(results: StudyResults):
    found = results.comparisons(results.config.measures)
    comparisons = [replace(comparison, methods=None, p_of_methods=None) for comparison in found]
    assert "against untrained it is not known, with one cluster of questions, whether" in answer(results, comparisons)
    assert "Where all questions are one cluster the methods are not known" in "".join(
        comparison_section(results, comparisons).lines
    )
    assert "one cluster the methods" not in "".join(comparison_section(results, found).lines)


def test_data_name_the_split_of_a_benchmark(results: StudyResults, monkeypatch: pytest.MonkeyPatch):
    inputs = StudyInputs({"store": MANIFEST})
    assert any(line.startswith("| tiny | ") for line in data_section(results, inputs).lines)
    monkeypatch.setattr("hbt_ray.study.results.read_report", lambda folder: read_report(folder) | {"split": "small"})
    read_again = StudyResults(results.config, results.folder)
    assert any(line.startswith("| tiny (small) | ") for line in data_section(read_again, inputs).lines)


def test_best_method_of_each_metric_is_bold(results: StudyResults):
    rows = {line.split(" | ")[0].strip("| "): line for line in results_section(results).lines if line.startswith("| ")}
    assert rows["hybrid"].split(" | ")[1].startswith("**")
    assert "**" not in rows["untrained"].split(" | ")[1]


def test_answer_compares_the_reference_with_every_other_method(results: StudyResults):
    comparisons = results.comparisons(results.config.measures)
    text = answer(results, comparisons)
    assert text.startswith("In tiny multi mAP hybrid has 0.")
    assert "against untrained no difference is shown (+" in text  # three seeds, and Holm over eight comparisons
    assert "3 of 3 seeds" in text
    clear = [replace(comparison, p_of_methods=0.01) for comparison in comparisons]
    assert "against untrained hybrid is better (+" in answer(results, clear)
    [row] = [line for line in comparison_section(results, clear).lines if line.startswith("| untrained | tiny multi")]
    assert row.split(" | ")[4:7] == ["0.0100", "worse", "3 of 3"]


def test_with_one_seed_nothing_is_known_of_methods(results: StudyResults):
    of_one = StudyResults(replace_in(results.config, "seeds", (0,)), results.folder)
    comparisons = of_one.comparisons(of_one.config.measures)
    assert {comparison.p_of_methods for comparison in comparisons} == {None}
    assert "against untrained it is not known, with one seed, whether" in answer(of_one, comparisons)
    lines = comparison_section(of_one, comparisons).lines
    assert "not known, because another seed gives another difference" in lines[0]
    [row] = [line for line in lines if line.startswith("| untrained | tiny multi")]
    assert row.split(" | ")[3:6] == ["not known"] * 3
    assert float(row.split(" | ")[8].strip("≤ |")) < 0.01


def test_setup_lists_pretrainings_and_what_methods_take_from_others():
    methods = {
        "hybrid": {"pretrained": "two"},
        "mined": {"mined_with": "hybrid"},
        "taught": {"taught_by": "hybrid"},
        "mean": {"averaged_with": "hybrid"},
    }
    corpora = [{"format": "text", "name": "lines", "path": "x"}, {"format": "embedded"}]
    pretraining = {"one": {"settings": {"corpora": corpora}}, "two": {"after": "one"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "pretraining": pretraining})
    text = "\n".join(setup_section(config, StudyInputs()).lines)
    for words in (
        "| hybrid | starts from the pretraining “two” |",
        "| mined | hard negatives mined with hybrid |",
        "| taught | distilled from hybrid |",
        "| mean | weights averaged with those of hybrid |",
        "Pretraining “one”: corpora = lines, embedded.",
        "Pretraining “two”: continues from “one”.",
    ):
        assert words in text, words


def test_setup_lists_steps_and_encoded_tokens_over_the_seeds():
    methods = {"hybrid": {}, "x-y": {"tokens_of": "hybrid"}, "raw": {"trained": False, "encoder_of": "x-y"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "seeds": [0, 1]})
    sizes = {("hybrid", 0): (10, 5000), ("hybrid", 1): (10, 5002), ("x-y", 0): (7, 5100), ("x-y", 1): (8, 5100)}
    inputs = StudyInputs(training_tokens={key: TrainingTokens(*size) for key, size in sizes.items()})
    lines = setup_section(config, inputs).lines
    assert "| hybrid | the shared settings | 10 | 5,000 to 5,002 |" in lines
    assert "| x-y | as many encoded tokens as hybrid | 7 to 8 | 5,100 |" in lines
    assert "| raw | the encoder of x-y |  |  |" in lines


def test_setup_calls_no_setting_shared_that_a_method_changes():
    """It listed alpha, strategy and steps of the run as those of all methods."""
    methods = {
        "hybrid": {},
        "x-y": {"settings": {"mix.strategy": "x-y"}},
        "tokens": {"tokens_of": "hybrid"},
        "other": {"settings": {"model": {"path": "some-encoder"}}},
    }
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods})
    shared, _, others = "\n".join(setup_section(config, StudyInputs()).lines).partition("do not change them share:")
    others = others.partition("They differ in:")[0]
    for words in ("| mix.strategy |", "| train.steps |", "| encoder | random weights", "| model.small.layers |"):
        assert (words in shared, words in others) == (False, True), words
    assert "| mix.alpha |" in shared
    of_two = StudyConfig.model_validate(SETTINGS | {"methods": {"hybrid": {}, "raw": {"trained": False}}})
    assert "do not change them" not in "".join(setup_section(of_two, StudyInputs()).lines)


def test_setup_has_no_size_of_an_encoder_that_was_saved():
    run = SETTINGS["run"] | {"model": {"path": "some-encoder"}}
    texts = [
        "\n".join(setup_section(StudyConfig.model_validate(SETTINGS | changed), StudyInputs()).lines)
        for changed in ({}, {"run": run})
    ]
    assert ["model.small.width" in text for text in texts] == [True, False]


def test_published_values_are_cited_by_the_studys_metrics():
    row = {"tiny/multi/map": 0.5, "other/multi/map": 0.1}
    published = {"source": "A and B 2020", "encoder": "XLM-R", "values": {"hybrid": row}}
    other = published | {"encoder": "LaBSE", "values": {"hybrid": {"other/multi/map": 0.1}}}
    config = StudyConfig.model_validate(SETTINGS | {"published": [published, other]})
    text = "\n".join(published_section(config).lines)
    assert "XLM-R, A and B 2020:" in text
    assert "| hybrid | 0.5000 |" in text
    assert "LaBSE" not in text  # which has no value of this study's metrics


def test_limits_name_benchmarks_that_were_made():
    made = {"xm3600": {"corpus": {"format": "embedded", "name": "embedded"}}}
    text = "\n".join(limits_section(StudyConfig.model_validate(SETTINGS | {"made": made})).lines)
    assert "- It is made up." in text
    assert "xm3600 (from embedded): the files have the published format" in text
