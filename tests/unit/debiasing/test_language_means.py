"""Means are subtracted by the language of a text; what a folder says of them is read back or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.model_files import DEBIASING, LANGUAGE_MEANS, check_needs_no_language, describe_debiasing
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.debiasing.erasure import means_by_language
from hbt_ray.debiasing.language_means import LanguageMeans, mean_rows_of_windows, means_notes, read_language_means
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.embedding_cache import vectors_fingerprint
from hbt_ray.retrieval.passage_windows import window_passages
from hbt_ray.utils.digests import with_checksum
from tests.helpers.damage import Damage, check_damaged, damages, malformed_cases

MEANS = LanguageMeans(
    ("de", "pt-BR", "zh"),
    np.array([[1, 0], [0, 1], [2, 2]], np.float32),
    np.array([[3, 0], [0, 3], [6, 6]], np.float32),
)
BENCHMARK = Benchmark(
    "b",
    [Query("1", "de", "Wo?"), Query("2", "th", "?")],
    [Passage("1", "de", "ab cd"), Passage("2", "th", "x"), Passage("3", "zh", "y")],
    {"1": {"1": 1}},
)


def write(folder: Path, written: LanguageMeans = MEANS, **changed: object) -> Path:
    """Write the two files of a model whose means are to be subtracted."""
    folder.mkdir()
    record = {"method": "mean", "languages": list(written.languages), "corpora": [{"name": "faq"}]}
    (folder / DEBIASING).write_text(with_checksum({**record, "means": written.save(folder), **changed}))
    return folder


def test_planted_offsets_are_removed_exactly():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 50)
    offsets = rng.normal(size=(3, 8))[labels]
    vectors = (rng.normal(size=(150, 8)) + 3 * offsets).astype(np.float32)
    of_each = means_by_language(vectors, labels)
    means = LanguageMeans(("de", "en", "fr"), of_each.astype(np.float32), np.zeros((3, 8), np.float32))
    rows = means.rows_of(["de"] * 50 + ["en"] * 50 + ["fr"] * 50)
    subtracted = vectors - of_each[labels]
    assert np.abs(means_by_language(subtracted, labels)).max() < 1e-6
    expected = subtracted / np.linalg.norm(subtracted, axis=1, keepdims=True)
    assert np.allclose(means.subtract(vectors, rows, "queries"), expected, atol=1e-6)


def test_each_side_has_its_means_and_other_languages_the_mean_of_all():
    vectors = np.array([[4, 0], [1, 4]], np.float32)
    rows = MEANS.rows_of(["de", "th"])
    assert rows.tolist() == [0, 3]
    # (4, 0) - (1, 0), (1, 4) - (1, 1); and of passages - (3, 0), - (3, 3)
    assert MEANS.subtract(vectors, rows, "queries").tolist() == [[1, 0], [0, 1]]
    fifth = 1 / np.sqrt(5)
    assert MEANS.subtract(vectors, rows, "passages") == pytest.approx(np.array([[1, 0], [-2 * fifth, fifth]]))


def test_a_language_written_otherwise_has_its_mean():
    assert MEANS.rows_of(["pt", "zh-CN", "deu", "pt-PT"]).tolist() == [1, 2, 0, 3]


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ConfigError, match="the vectors have 3 values, and the means of their languages 2; evaluate"):
        MEANS.subtract(np.zeros((1, 3), np.float32), np.array([0]), "queries")


def test_windows_have_the_language_of_their_passage():
    windows = window_passages([passage.text for passage in BENCHMARK.passages], 2)
    assert windows.texts == ["ab", "b", "cd", "x", "y"]
    assert mean_rows_of_windows(MEANS, BENCHMARK, windows).tolist() == [0, 0, 0, 3, 2]
    whole = window_passages([passage.text for passage in BENCHMARK.passages], None)
    assert mean_rows_of_windows(MEANS, BENCHMARK, whole).tolist() == [0, 3, 2]


def test_report_says_which_languages_have_no_mean_and_how_many_texts():
    [note], [warning] = means_notes(BENCHMARK, MEANS)
    assert note.endswith("so the model was given the languages of b")
    assert "no mean vector of th (1 queries, 1 passages)" in warning
    known = Benchmark("b", BENCHMARK.queries[:1], BENCHMARK.passages[:1], {})
    assert means_notes(known, MEANS)[1] == ()


def test_means_are_read_as_they_were_written(tmp_path):
    found = read_language_means(str(write(tmp_path / "model")))
    assert found is not None
    assert found.languages == MEANS.languages
    assert np.array_equal(found.queries, MEANS.queries)
    assert np.array_equal(found.passages, MEANS.passages)
    assert describe_debiasing(str(tmp_path / "model")) == "mean of 3 languages, fitted on faq"
    with pytest.raises(ConfigError, match=r"needs the language of each text, .* --method projection"):
        check_needs_no_language(str(tmp_path / "model"))


def test_cached_vectors_are_named_by_the_means(tmp_path):
    other = LanguageMeans(MEANS.languages, MEANS.queries + 1, MEANS.passages)
    folders = [write(tmp_path / "one"), write(tmp_path / "same"), write(tmp_path / "other", other)]
    names = [vectors_fingerprint(str(folder), "texts") for folder in folders]
    assert names[0] == names[1] != names[2]


def test_other_folders_need_no_language(tmp_path):
    (tmp_path / "plain").mkdir()
    others = [tmp_path / "plain", write(tmp_path / "leace", method="leace")]
    for folder in map(str, others):
        check_needs_no_language(folder)
        assert read_language_means(folder) is None
    assert describe_debiasing(str(tmp_path / "plain")) is None


@pytest.mark.parametrize(
    ("means", "changed", "reason"),
    [
        (MEANS, {"languages": ["de"]}, "it has not one vector for each language"),
        (MEANS, {"languages": "de"}, "it names no method or no languages"),
        (MEANS, {"method": "means"}, "it names no method or no languages"),
        (MEANS, {"means": None}, "it has no checksum of the means"),
        (MEANS, {"means": "0"}, "its checksum does not match"),
        (MEANS, {"corpora": ["faq"]}, "string indices"),
        (LanguageMeans(("de",), np.full((1, 2), np.nan, np.float32), MEANS.passages[:1]), {}, "other than finite"),
        (LanguageMeans(("de",), np.zeros((1, 2)), np.zeros((1, 2))), {}, "other than finite float32 numbers"),
        (LanguageMeans(("de",), MEANS.queries[:1], MEANS.passages[0]), {}, "not one vector for each language"),
    ],
)
def test_malformed_means_are_refused_by_name(tmp_path, means, changed, reason):
    folder = write(tmp_path / "model", means, **changed)
    with pytest.raises(ConfigError, match=f"(debiasing.json|language_means.safetensors) is not as .*{reason}.*again"):
        read_language_means(str(folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("means") / "model")


@malformed_cases(damage=damages)
def test_damaged_means_are_read_equal_or_refused_by_name(model: Path, damage: Damage):
    def read(folder: Path) -> object:
        means = read_language_means(str(folder))
        return means and (means.languages, means.queries.tolist(), means.passages.tolist())

    check_damaged(model, damage, read)


def test_a_folder_without_its_record_is_refused(model: Path):
    content = (model / DEBIASING).read_bytes()
    (model / DEBIASING).unlink()
    assert (model / LANGUAGE_MEANS).exists()
    try:
        with pytest.raises(ConfigError, match=r"debiasing\.json is not as .* \(there is no such file\)"):
            check_needs_no_language(str(model))
    finally:
        (model / DEBIASING).write_bytes(content)
