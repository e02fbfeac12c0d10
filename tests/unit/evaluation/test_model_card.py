from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hbt_ray.config import build_config
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.model_card import write_model_card
from tests.helpers.fake_manifests import fake_manifest
from tests.unit.evaluation.report.by_hand import report_by_hand

CONFIG = {
    "name": "faq | model",
    "corpora": [{"format": "jsonl", "path": "/home/ada/s", "licence": "cc-by-4.0"}],
    "model": {"path": "/home/ada/encoders/base-model"},
    "text": {"query_prefix": "query: ", "passage_prefix": "passage: "},
}


def card_of(folder: Path, report: EvalReport, manifest: StoreManifest | None = None) -> str:
    write_model_card(folder, build_config(CONFIG), manifest or fake_manifest(), {report.benchmark: report})
    return (folder / "README.md").read_text()


@pytest.fixture
def report() -> EvalReport:
    return report_by_hand()


def test_metadata_has_languages_licence_base_and_results(tmp_path: Path, report: EvalReport):
    card_of(tmp_path, report)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.language == list(fake_manifest().languages)
    assert (data.license, data.base_model, data.library_name) == ("cc-by-4.0", "base-model", "sentence-transformers")
    [mono, *_] = data.eval_results
    assert (mono.metric_type, mono.metric_value) == ("mono/map", report.metrics[f"{report.benchmark}/mono/map"])


def test_card_names_prefixes_data_and_no_folder_of_its_author(tmp_path: Path, report: EvalReport):
    text = card_of(tmp_path, report)
    assert "`encode_query` begins texts with `query: `" in text
    assert "| s | 200 | 3 | cc-by-4.0 |" in text
    assert "/home/ada" not in text


def test_card_says_what_was_left_out_for_which_benchmark(tmp_path: Path, report: EvalReport):
    (tmp_path / "decontaminated.json").write_text('{"0123": "xquad-r"}')
    counts = {"s": {"items_dropped_for_evaluation": [{"item": "7", "found": "equal: x"}]}}
    text = card_of(tmp_path, report, dataclasses.replace(fake_manifest(), counts=counts))
    assert "Items that occur in xquad-r were left out (1)." in text


def test_equal_inputs_give_equal_cards(tmp_path: Path, report: EvalReport):
    assert card_of(tmp_path, report) == card_of(tmp_path, dataclasses.replace(report, date="2030-01-01"))
