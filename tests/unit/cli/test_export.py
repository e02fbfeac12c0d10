"""`hbt export`, with a file in place of the traced encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sentence_transformers import SentenceTransformer

from hbt_ray.cli import main
from hbt_ray.export import Exported
from tests.helpers import model_folders, tiny_corpus
from tests.helpers.benchmark_files import mlqa, mlqa_paragraph


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the tiny encoder; its exported file is a text."""

    def export_encoder(encoder, folder, formats, precisions):
        (folder / "onnx").mkdir(exist_ok=True)
        (folder / "onnx/model.onnx").write_text("traced")
        return {("onnx", "fp32"): folder / "onnx/model.onnx"}

    monkeypatch.setattr("hbt_ray.export.check_libraries", lambda formats, precisions: None)
    monkeypatch.setattr("hbt_ray.export.export_encoder", export_encoder)
    monkeypatch.setattr(
        "hbt_ray.export.check_exports",
        lambda encoder, files, texts, benchmarks: [
            Exported(file, 1.0, 0.0, 1.0, {one.name: {"all": (1.0, 1.0)} for one in benchmarks}) for file in files
        ],
    )
    tiny_corpus.make_encoder(tmp_path / "model")
    return tmp_path / "model"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_exported_copy_has_the_pooling_and_prefixes_that_were_given(model: Path, tmp_path: Path):
    transformer = model_folders.write_with_code(tmp_path / "transformer")
    options = ["--pooling", "cls", "--query-prefix", "q: "]
    refused = run(transformer, "--out", tmp_path / "out", *options)
    assert (refused.exit_code, "--trust-remote-code" in refused.stderr) == (2, True)
    result = run(transformer, "--out", tmp_path / "out", *options, "--trust-remote-code")
    assert result.exit_code == 0, result.output
    copied = SentenceTransformer(str(tmp_path / "out"), device="cpu", trust_remote_code=True)
    assert (copied[1].pooling_mode, copied.prompts) == ("cls", {"query": "q: ", "document": ""})
    assert run(transformer, "--out", transformer, *options, "--trust-remote-code").exit_code == 2


def test_split_of_the_embedded_benchmark_is_not_that_of_others(model: Path, tmp_path: Path):
    mlqa(tmp_path / "mlqa", "test", "en", "en", mlqa_paragraph("It is a dog. It barks.", ("1", "What is it?", "dog")))
    benchmarks = ("--benchmark", "embedded", "--benchmark", f"mlqa-r={tmp_path / 'mlqa'}")
    result = run(model, "--out", tmp_path / "out", *benchmarks)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert all(f"{name}: mAP within a language" in shown for name in ("embedded", "mlqa-r (test)"))


def test_benchmark_is_that_of_an_evaluation_and_its_split_is_named(model: Path, tmp_path: Path):
    command = (model, "--out", tmp_path / "out", "--benchmark", "embedded")
    default, small = run(*command), run(*command, "--split", "small")
    assert "embedded: mAP within a language" in default.stdout
    assert "embedded (small): mAP within a language" in " ".join(small.stdout.split())


def test_benchmarks_of_one_folder_name_are_refused_in_one_sentence(model: Path, tmp_path: Path):
    named = [f"--benchmark=pairs{sign}x={tmp_path}" for sign in "/-"]
    result = run(model, "--out", tmp_path / "out", *named)
    assert (result.exit_code, "unexpected" in result.output) == (2, False)


@pytest.mark.parametrize("names", [("README.md", "onnx/notes.txt", "openvino/y"), ("modules.json", "onnx/model.onnx")])
def test_export_refuses_a_folder_with_other_files(model: Path, tmp_path: Path, names: tuple[str, ...]):
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    result = run(model, "--out", tmp_path / "out")
    assert (result.exit_code, content(tmp_path / "out")) == (2, dict.fromkeys(names, b"mine"))
    assert "holds something other than an earlier export; write another --out" in result.stderr


def test_export_replaces_an_earlier_one_of_another_model(model: Path, tmp_path: Path):
    tiny_corpus.make_encoder(tmp_path / "other", seed=2)
    (tmp_path / "other/README.md").write_text("card")
    assert run(tmp_path / "other", "--out", tmp_path / "out").exit_code == 0
    (tmp_path / "out/onnx/model_qint8.onnx").touch()
    assert run(model, "--out", tmp_path / "out").exit_code == 0
    assert run(model, "--out", tmp_path / "new").exit_code == 0
    assert content(tmp_path / "out") == content(tmp_path / "new")


def test_export_to_the_models_own_folder_keeps_its_files(model: Path):
    (model / "notes.txt").write_text("mine")
    before = content(model)
    assert run(model, "--out", model).exit_code == 0
    assert content(model) == {**before, "onnx/model.onnx": b"traced"}
