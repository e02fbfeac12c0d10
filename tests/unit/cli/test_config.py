"""`hbt config`: show, check, explain and init."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hbt_ray.cli import main
from hbt_ray.config import build_config, load_config


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def test_show_prints_all_settings_as_they_are_resolved():
    shown = run("show", "smoke", "alpha=0.6")
    assert build_config(yaml.safe_load(shown.stdout)) == load_config("smoke", ["alpha=0.6"])


def test_show_changed_prints_what_differs_from_the_defaults():
    Path("run.yaml").write_text("name: faq\ntrain: {steps: 600, workers: 2}\n")
    assert run("show", "run.yaml", "alpha=0.25", "--changed").stdout.splitlines() == [
        "name: faq",
        "mix.alpha: 0.25",
        "train.workers: 2",
    ]


def test_show_changed_prints_no_default_of_an_entry_of_a_list_or_mapping():
    Path("study.yaml").write_text(
        """
        {name: short, title: Short, question: Which, reference: hybrid, measures: [embedded/multi/map],
        methods: {untrained: {trained: false}, hybrid: {}},
        run: {corpora: [{format: csv, path: faq.csv, columns: {question: Title}}],
        mix: {phases: [{first_batch: 8, alpha: 0.2}]}, train: {validation_every: 5, early_stopping: {patience: 3}}}}
        """
    )
    shown = run("show", "study.yaml", "--changed").stdout.splitlines()
    assert shown[shown.index("methods.untrained.trained: False") :] == [
        "methods.untrained.trained: False",
        "methods.hybrid: {}",
        "measures: ['embedded/multi/map']",
        "run.name: short",
        "run.corpora.faq.csv.format: csv",
        "run.corpora.faq.csv.name: faq.csv",
        "run.corpora.faq.csv.path: faq.csv",
        "run.corpora.faq.csv.columns.question: Title",
        "run.mix.phases.0.first_batch: 8",
        "run.mix.phases.0.alpha: 0.2",
        "run.train.validation_every: 5",
        "run.train.early_stopping: {}",
    ]


@pytest.mark.parametrize(
    ("file", "of"), [("low-resource", "methods"), ("search_alpha", "space"), ("pretraining.yaml", "pretrain")]
)
def test_show_knows_studies_searches_and_pretrainings(file, of):
    Path("pretraining.yaml").write_text("pretrain: {steps: 7}\n")
    assert of in yaml.safe_load(run("show", file).stdout)


def test_check_names_the_mistake_or_says_that_there_is_none():
    assert run("check", "smoke").stdout.startswith("smoke is valid; ")
    failed = run("check", "smoke", "model.path=./absent")
    assert (failed.exit_code, failed.stderr.partition(";")[0]) == (
        2, "hbt: model.path: there is no folder './absent'"
    )  # fmt: skip
    absent = run("check", "smoke", "corpora=[{format: jsonl, path: absent}]")
    assert (absent.exit_code, absent.stderr.partition(" at ")[0]) == (2, "hbt: 'absent' has nothing")
    assert "name the file first, such as hbt config show smoke alpha=1" in run("check", "alpha=1").stderr


def test_explain_takes_shortened_keys_of_runs_and_pretrainings():
    lines = run("explain", "alpha", "mask_share").stdout.splitlines()
    assert (lines[0], lines[lines.index("") + 1]) == ("mix.alpha", "pretrain.mask_share")
    assert "did you mean 'mix.alpha'?" in run("explain", "alhpa").stderr


def test_explain_of_a_section_names_the_command_that_explains_each_section_in_it():
    lines = run("explain", "corpora", "model").stdout.splitlines()
    commands = [line.partition("; hbt config explain ")[2].rstrip(")") for line in lines if "; hbt config" in line]
    assert commands == ["corpora.columns", "model.small"]
    assert "  - question (text; default question)" in run("explain", commands[0]).stdout.splitlines()
    assert not [line for line in lines if "see below" in line]


def test_explain_takes_settings_of_a_lists_entries():
    assert run("explain", "mix.phases.first_batch").stdout.startswith("mix.phases.first_batch\n  Number of a batch")
    assert "corpora is a list" in run("explain", "corpora.nothing").stderr


def test_explain_without_a_key_lists_all_sections():
    assert {"mix", "train", "evaluate"} <= set(run("explain").stdout.splitlines())


def test_init_writes_a_new_file_that_is_valid():
    written = run("init", "faq.yaml")
    assert written.stdout.splitlines() == ["settings  faq.yaml", "next      hbt config check faq.yaml"]
    assert load_config("faq.yaml") == load_config(None)
    assert "faq.yaml exists; name a new file" in run("init", "faq.yaml").stderr
    result = run("init", "nofolder/faq.yaml")
    refusal = "hbt: nofolder/faq.yaml cannot be written (No such file or directory); write another path"
    assert (result.exit_code, result.stderr.strip()) == (2, refusal)
    assert run("init").stdout == Path("faq.yaml").read_text()
