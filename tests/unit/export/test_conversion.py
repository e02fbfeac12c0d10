from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from hbt_ray.errors import ConfigError
from hbt_ray.export import check_libraries, delete_exports, export_encoder, with_exported
from hbt_ray.models.encoder import load_pretrained
from tests.helpers import tiny_corpus
from tests.helpers.slow import SLOW_TESTS, slow

for _name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(_name)

FORMATS = ["onnx", pytest.param("openvino", marks=slow)]  # nncf alone takes seconds to import
TEXTS = ["en what is a1", "de what is b22 and so so so", "x"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_corpus.make_encoder(folder)
    return load_pretrained(str(folder), device="cpu", attention="sdpa")


@pytest.fixture(scope="module")
def files(encoder: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Export in ONNX, and in slow runs in OpenVINO."""
    formats = ["onnx", "openvino"] if SLOW_TESTS else ["onnx"]
    return export_encoder(encoder, tmp_path_factory.mktemp("exported"), formats, ["fp32", "int8"])


@pytest.mark.parametrize("format", FORMATS)
def test_exported_encoder_in_fp32_has_the_same_vectors(encoder, files, format):
    exported = with_exported(encoder, files[format, "fp32"])
    for texts in (TEXTS, TEXTS[:1], ["so " * 50]):  # other numbers of texts and tokens than were traced
        np.testing.assert_allclose(exported.encode(texts), encoder.encode(texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_exported_encoder_in_int8_is_smaller_and_close(encoder, files, format):
    exported = with_exported(encoder, files[format, "int8"])
    assert np.abs((exported.encode(TEXTS) * encoder.encode(TEXTS)).sum(axis=1)).min() > 0.95
    weights = ".onnx" if format == "onnx" else ".bin"
    assert (
        files[format, "int8"].with_suffix(weights).stat().st_size
        < files[format, "fp32"].with_suffix(weights).stat().st_size
    )


def test_files_have_the_names_of_sentence_transformers_backends(files):
    assert [str(Path(*file.parts[-2:])) for file in files.values()] == [
        "onnx/model.onnx",
        "onnx/model_qint8.onnx",
        *(["openvino/openvino_model.xml", "openvino/openvino_model_qint8_quantized.xml"] if SLOW_TESTS else ()),
    ]


def test_original_is_not_changed(encoder, files):
    before = encoder.encode(TEXTS)
    with_exported(encoder, files["onnx", "int8"]).encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)


def test_exports_of_an_earlier_model_are_deleted(tmp_path: Path):
    for name in ("onnx/model_qint8.onnx", "openvino/openvino_model.bin", "1_Pooling/config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    delete_exports(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1_Pooling"]


def test_temporary_files_are_deleted(files):
    names = {path.name for file in files.values() for path in file.parents[1].rglob("*") if path.is_file()}
    assert not {name for name in names if "partial" in name}


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    check_libraries(["onnx"], ["int8"])
    with pytest.raises(ConfigError, match=r"nncf is not installed; run pip install 'hbt_ray\[export\]'"):
        check_libraries(["openvino"], ["int8"])
