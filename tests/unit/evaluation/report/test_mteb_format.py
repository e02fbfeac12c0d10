from __future__ import annotations

import pytest

from hbt_ray.evaluation.report.mteb_format import MTEB_VERSION, mteb_model_meta, mteb_result
from tests.unit.evaluation.report.by_hand import report_by_hand

MODEL = {
    "path": "intfloat/multilingual-e5-small",
    "revision": "f00d",
    "max_tokens": 512,
    "query_prefix": "query: ",
    "passage_prefix": "passage: ",
}


def test_subsets_name_languages_as_mteb_does():
    result = mteb_result(report_by_hand(), MODEL)
    subsets = {subset["hf_subset"]: subset["languages"] for subset in result["scores"]["test"]}
    assert (subsets["de"], subsets["de-en"]) == (["deu-Latn"], ["deu-Latn", "eng-Latn"])
    assert subsets["en-multi"] == ["eng-Latn", "deu-Latn"]


@pytest.mark.parametrize(
    ("path", "name", "reference"),
    [
        ("intfloat/multilingual-e5-small", "intfloat/multilingual-e5-small", True),
        ("/home/ada/runs/faq", "local/faq", False),
        ("faq", "local/faq", False),
        ("${HBT_MODELS}/faq", "local/faq", False),
    ],
)
def test_models_of_folders_have_a_name_with_an_organization(path: str, name: str, reference: bool):
    meta = mteb_model_meta(report_by_hand(), MODEL | {"path": path})
    assert (meta["name"], meta["reference"] is not None) == (name, reference)


def test_mteb_accepts_results_and_metadata():
    results = pytest.importorskip("mteb.results.task_result")
    meta = pytest.importorskip("mteb.models.model_meta")
    report = report_by_hand()
    found = results.TaskResult.model_validate(mteb_result(report, MODEL))
    assert found.mteb_version == MTEB_VERSION
    assert meta.ModelMeta.model_validate(mteb_model_meta(report, MODEL)).name == MODEL["path"]
