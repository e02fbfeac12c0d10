"""The files of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.corpora import list_shards
from hbt_ray.data.corpora.file_discovery import language_files, name_unread_files
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import GOOD, corpus, read, write_lines


def test_each_language_file_is_one_shard_and_others_are_ignored(tmp_path: Path):
    for name in ("zh-HK.jsonl", "pt-BR.jsonl.gz", "pcm.jsonl", "es-419.jsonl", "en-questions.jsonl.gz", "SOURCE.md"):
        write_lines(tmp_path / name, GOOD)
    shards = list_shards(corpus("jsonl", tmp_path))
    assert [shard.language for shard in shards] == ["es-419", "pcm", "pt-BR", "zh-HK"]
    assert {shard.source for shard in shards} == {"source"}


def test_folder_of_folders_with_such_files_is_an_error_that_names_them(tmp_path: Path):
    for folder in ("other", "xquad-r", "notes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ("notes.txt" if folder == "notes" else "de.json")).write_text("{}")
    listed = f"a folder that has some: {tmp_path / 'xquad-r'}, {tmp_path / 'other'}$"
    with pytest.raises(CorpusError, match=rf"^'xquad-r' finds no <language>\.json .*{listed}"):
        language_files("xquad-r", str(tmp_path), (".json",), None)
    with pytest.raises(CorpusError, match=r"name each file by its language, such as de\.json$"):
        language_files("xquad-r", str(tmp_path / "notes"), (".json",), None)


def test_codes_in_any_usual_spelling_name_files(tmp_path: Path):
    for name in ("en", "zh_CN", "pt-br", "zh-Hant-TW", "sr-latn"):
        write_lines(tmp_path / f"{name}.jsonl", GOOD)
    found = [shard.language for shard in list_shards(corpus("jsonl", tmp_path))]
    assert found == ["en", "pt-BR", "sr-Latn", "zh-CN", "zh-Hant-TW"]
    chosen = list_shards(corpus("jsonl", tmp_path, languages=["zh-cn", "pt_BR"]))
    assert [Path(shard.location).name for shard in chosen] == ["pt-br.jsonl", "zh_CN.jsonl"]
    write_lines(tmp_path / "zh-CN.jsonl", GOOD)
    with pytest.raises(CorpusError, match=r"zh-CN\.jsonl and zh_CN\.jsonl .* both hold zh-CN; keep one"):
        list_shards(corpus("jsonl", tmp_path))


def test_splits_whose_rows_name_their_language_are_all_read(tmp_path: Path):
    for number, split in enumerate(("train", "dev", "test")):
        rows = ({**GOOD, "id": f"{number}", "language": language} for language in ("de", "pt_br"))
        write_lines(tmp_path / f"{split}.jsonl", *rows)
    rows = read(corpus("jsonl", tmp_path))
    assert sorted(row.language for row in rows if isinstance(row, CorpusRow)) == ["de"] * 3 + ["pt-BR"] * 3


def test_row_in_another_language_than_its_file_is_rejected(tmp_path: Path):
    languages = ["de", "deu", "de-AT", None, "fr", "German"]
    write_lines(tmp_path / "de.jsonl", *({**GOOD, "language": language} for language in languages))
    rows = read(corpus("jsonl", tmp_path))
    assert [isinstance(row, CorpusRow) for row in rows] == [True] * 4 + [False] * 2
    assert {row.reason for row in rows if isinstance(row, RejectedRow)} == {"language differs from the file's"}


def test_what_is_not_read_in_a_folder_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("de.jsonl", "dev.jsonl", "fr.txt", "README.md", ".hidden"):
        write_lines(tmp_path / name, GOOD)
    (tmp_path / "more").mkdir()
    for _ in range(2):
        list_shards(corpus("jsonl", tmp_path))
    assert [record.message for record in caplog.records] == [
        f"'source' does not read README.md, dev.jsonl, fr.txt, more in {str(tmp_path)!r}"
    ]


def test_files_of_languages_not_asked_for_and_of_this_package_are_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("de.jsonl", "ar.jsonl", "pt-br.jsonl.gz", "en.txt", "dev.ar.jsonl", "finished.json", "notes.txt"):
        write_lines(tmp_path / name, GOOD)
    list_shards(corpus("jsonl", tmp_path, languages=["de"]))
    assert [record.message for record in caplog.records] == [f"'source' does not read notes.txt in {str(tmp_path)!r}"]
    name_unread_files("read", tmp_path, [tmp_path / "de.jsonl"], ["de", "en"])
    assert f"'read' does not read en.txt, notes.txt in {str(tmp_path)!r}" in caplog.text


def test_many_files_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for number in range(12):
        write_lines(tmp_path / f"part-{number:02}.json", GOOD)
    write_lines(tmp_path / "de.jsonl", GOOD)
    list_shards(corpus("jsonl", tmp_path))
    assert "part-07.json and 4 more in" in caplog.text


def test_file_of_the_hubs_cache_is_read_through_its_link(tmp_path: Path):
    repository = tmp_path / "datasets--a--b"
    blob, folder = repository / "blobs" / "0123", repository / "snapshots" / "abcd"
    for parent in (blob.parent, folder):
        parent.mkdir(parents=True)
    write_lines(blob, GOOD)
    (folder / "de.jsonl").symlink_to("../../blobs/0123")
    assert [shard.language for shard in list_shards(corpus("jsonl", folder))] == ["de"]
    (folder / "fr.jsonl").symlink_to("../../../secret")
    (tmp_path / "secret").write_text("{}")
    with pytest.raises(CorpusError, match="leads out of its folder"):
        list_shards(corpus("jsonl", folder))


def test_missing_language_is_named_with_the_available_ones(tmp_path: Path):
    for language in ("de", "en"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    with pytest.raises(CorpusError, match="has no sw; choose languages among de, en"):
        list_shards(corpus("jsonl", tmp_path, languages=["de", "sw"]))


@pytest.mark.parametrize("format", ["squad", "jsonl", "parquet", "huggingface"])
def test_missing_folder_is_named(format: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=r"nothing at '.*absent'; correct its path"):
        list_shards(corpus(format, tmp_path / "absent"))


def test_missing_relative_path_is_named_with_the_folder_in_which_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError) as raised:
        list_shards(corpus("jsonl", Path("faq")))
    assert str(raised.value) == (
        f"'source' has nothing at '{tmp_path}/faq'; correct its path: a relative one begins at the current folder"
    )


@pytest.mark.parametrize(("format", "suffix"), [("squad", "json"), ("jsonl", "jsonl"), ("parquet", "parquet")])
def test_folder_without_files_of_the_format_is_refused(format: str, suffix: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=rf"name each file by its language, such as de\.{suffix}"):
        list_shards(corpus(format, tmp_path))


def test_two_files_of_one_language_are_refused(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    write_lines(tmp_path / "de.jsonl.gz", GOOD)
    with pytest.raises(CorpusError, match=r"de\.jsonl and de\.jsonl\.gz .* both hold de; keep one"):
        list_shards(corpus("jsonl", tmp_path))


def test_link_is_read_only_if_it_stays_in_the_folder(tmp_path: Path):
    outside, folder = tmp_path / "outside.jsonl", tmp_path / "corpus"
    folder.mkdir()
    write_lines(outside, GOOD)
    write_lines(folder / "de.jsonl", GOOD)
    (folder / "af.jsonl").symlink_to("de.jsonl")
    assert [shard.language for shard in list_shards(corpus("jsonl", folder))] == ["af", "de"]
    (folder / "fr.jsonl").symlink_to(outside)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        list_shards(corpus("jsonl", folder))
