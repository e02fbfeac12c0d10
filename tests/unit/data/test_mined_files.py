"""A corpus in a folder of mined negatives has the files that mining wrote, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.data.corpora import list_shards
from hbt_ray.data.mined_files import MINED
from hbt_ray.errors import CorpusError
from hbt_ray.utils.digests import file_checksums, with_checksum
from tests.helpers.corpus_files import corpus, read
from tests.helpers.damage import flip_bit


@pytest.fixture
def mined(tmp_path: Path) -> Path:
    """Return the folder of a source in a mined folder, with a file of which the summary knows nothing."""
    folder = tmp_path / "mined" / "source"
    folder.mkdir(parents=True)
    for language in ("de", "en", "fr"):
        row = {"id": "1", "question": f"question {language}", "context": "passage", "negatives": ["other"]}
        (folder / f"{language}.jsonl").write_text(json.dumps(row) + "\n")
    files = file_checksums(folder.parent, ["source/de.jsonl", "source/en.jsonl"])
    (folder.parent / MINED).write_text(with_checksum({"files": files}))
    return folder


def test_unchanged_files_and_those_the_summary_does_not_name_are_read(mined: Path):
    assert len(read(corpus("jsonl", mined))) == 3
    flip_bit(mined / "fr.jsonl", 30)
    (mined.parent / "other").mkdir()
    assert len(list_shards(corpus("jsonl", mined / "en.jsonl", language="en"))) == 1


def test_changed_file_is_refused_by_name_with_two_ways_out(mined: Path):
    flip_bit(mined / "en.jsonl", 30)
    for path in (mined, mined / "en.jsonl"):
        with pytest.raises(CorpusError, match=r"en\.jsonl', which is not as `hbt mine` wrote it; delete '.*/mined' to"):
            list_shards(corpus("jsonl", path, language="en" if path.is_file() else None))
    (mined.parent / MINED).unlink()
    assert len(read(corpus("jsonl", mined))) == 3


def test_damaged_summary_is_refused_by_name(mined: Path):
    for content in ("", "[" * 100_000, '{"files": {}, "sha256": "0"}'):
        (mined.parent / MINED).write_text(content)
        with pytest.raises(CorpusError, match=r"a mined folder whose '.*/mined\.json' is not as it was written \("):
            list_shards(corpus("jsonl", mined))
