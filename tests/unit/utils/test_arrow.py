"""Dataclasses as Arrow tables of one row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow


@dataclass(frozen=True, slots=True)
class Example:
    """Hold a number, a string and two arrays."""

    number: int
    text: str
    values: np.ndarray
    empty: np.ndarray


def test_dataclass_survives_arrow_with_types_and_empty_arrays():
    example = Example(7, "mixed", np.arange(3, dtype=np.int32), np.empty(0, np.int64))
    table = dataclass_to_arrow(example)
    assert (table.num_rows, table.column_names) == (1, ["number", "text", "values", "empty"])
    back = dataclass_from_arrow(table, Example)
    assert (back.number, back.text, back.values.tolist(), back.empty.tolist()) == (7, "mixed", [0, 1, 2], [])
    assert (back.values.dtype, back.empty.dtype) == (np.int32, np.int64)
