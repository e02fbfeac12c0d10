"""JSON that is nested more deeply than Python's parser can follow ends in a sentence, whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from hbt_ray.bench.result import write_results
from hbt_ray.config import ModelConfig
from hbt_ray.data.benchmarks import hub_download
from hbt_ray.data.manifest import MANIFEST, read_manifest
from hbt_ray.data.model_files import DEBIASING, read_debiasing, read_model_file
from hbt_ray.data.tokenizer import load_tokenizer
from hbt_ray.data.types import RejectedRow
from hbt_ray.data.zero_shot import DECONTAMINATED, was_decontaminated
from hbt_ray.errors import HbtError
from hbt_ray.models.encoder import load_pretrained
from hbt_ray.utils.digests import without_checksum
from hbt_ray.utils.limits import load_json
from tests.helpers import tiny_corpus
from tests.helpers.corpus_files import corpus, read, table

NESTED = "[" * 100_000


def data_set(folder: Path) -> None:
    datasets.Dataset(table(["de", "en", "fr"])).save_to_disk(str(folder))


def model(folder: Path) -> None:
    tiny_corpus.make_encoder(folder)


def nothing(folder: Path) -> None:
    folder.mkdir()


def load(folder: Path) -> Any:
    return load_pretrained(str(folder), "mean", "cpu")


def read_data_set(folder: Path) -> Any:
    return read(corpus("huggingface", folder))


# File that is nested, what else is in its folder, its reader.
READERS: list[tuple[str, Callable[[Path], None], Callable[[Path], Any]]] = [
    ("state.json", data_set, read_data_set),
    ("dataset_info.json", data_set, read_data_set),
    ("dataset_dict.json", nothing, read_data_set),
    (DECONTAMINATED, nothing, lambda folder: was_decontaminated(str(folder), None)),
    (hub_download.CHECKSUMS, nothing, hub_download._verify_checksums),
    (MANIFEST, nothing, read_manifest),
    ("bench.json", nothing, lambda folder: write_results({}, folder)),
    ("config.json", nothing, lambda folder: read_model_file(str(folder), "config.json")),
    (DEBIASING, nothing, lambda folder: read_debiasing(str(folder))),
    ("config.json", model, load),
    ("modules.json", model, load),
    ("config_sentence_transformers.json", model, load),
    ("sentence_bert_config.json", model, load),
    ("tokenizer.json", model, load),
    ("tokenizer_config.json", model, load),
    ("tokenizer_config.json", model, lambda folder: load_tokenizer(ModelConfig(path=str(folder)))),
]


@pytest.mark.parametrize(("name", "fill", "read_folder"), READERS, ids=lambda value: getattr(value, "__name__", value))
def test_nested_file_is_refused_by_name(tmp_path: Path, name: str, fill, read_folder):
    folder = tmp_path / "folder"
    fill(folder)
    (folder / name).write_text(NESTED)
    with pytest.raises(HbtError) as raised:
        read_folder(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("format", "name"), [("jsonl", "en.jsonl"), ("json", "en.json"), ("squad", "en.json")])
def test_nested_line_or_document_is_a_reject(tmp_path: Path, format: str, name: str):
    (tmp_path / name).write_text(NESTED)
    [reject] = read(corpus(format, tmp_path))
    assert isinstance(reject, RejectedRow)
    assert "nested too deeply" in reject.detail


def test_every_depth_around_the_limit_is_read_or_refused():
    for depth in range(500, 1100):
        text = json.dumps({"sha256": "0"}).replace('"0"', '"0", "a": ' + "[" * depth + "]" * depth)
        with pytest.raises(ValueError, match=r"nested too deeply|checksum does not match"):
            without_checksum(text)
    with pytest.raises(ValueError, match="nested too deeply"):
        load_json(NESTED)
