"""Strings of Arrow arrays and files as a sequence."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hbt_ray.utils.string_column import StringColumn, write_strings

WORDS = ["one", "zwei", "três", "四", "five"]


@pytest.fixture(params=["arrays", "files"])
def column(request: pytest.FixtureRequest, tmp_path: Path) -> StringColumn:
    arrays = [pa.array(WORDS[:2], pa.large_string()), pa.array(WORDS[2:], pa.large_string())]
    if request.param == "arrays":
        return StringColumn(arrays, np.array([4, 0, 2, 3]))
    write_strings(tmp_path / "0.arrow", arrays[:1])
    write_strings(tmp_path / "1.arrow", [arrays[1][:1], arrays[1][1:], arrays[1][:0]])
    return StringColumn([tmp_path / "0.arrow", tmp_path / "1.arrow"], np.array([4, 0, 2, 3]))


def test_rows_are_in_the_given_order(column: StringColumn):
    assert list(column) == [column[row] for row in range(len(column))] == ["five", "one", "três", "四"]
    assert list(column[1:3]) == ["one", "três"]
    assert list(pickle.loads(pickle.dumps(column[::2]))) == ["five", "três"]


def test_all_rows_are_in_order_without_rows_given():
    column = StringColumn([pa.array(WORDS[:3]), pa.array(WORDS[3:])])
    assert [list(column), list(column[3:]), column[-1]] == [WORDS, WORDS[3:], "five"]
    coded = StringColumn([pa.array(["de", "de", "en"]).dictionary_encode()])
    assert (list(coded), coded[2]) == (["de", "de", "en"], "en")


def test_pickle_has_the_paths_of_files_and_not_their_texts(tmp_path: Path):
    write_strings(tmp_path / "0.arrow", [pa.array(["x" * 100_000], pa.large_string())])
    column = StringColumn([tmp_path / "0.arrow"], np.array([0]))
    assert len(pickle.dumps(column)) < 1000
    assert len(pickle.loads(pickle.dumps(column))[0]) == 100_000
