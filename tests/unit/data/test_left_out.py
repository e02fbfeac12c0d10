"""Items that are left out do not depend on the order in which rows are read."""

from __future__ import annotations

from itertools import permutations

import pyarrow as pa

from hbt_ray.data import left_out
from hbt_ray.data.engine import TablesHere
from hbt_ray.data.left_out import _last_of_items, find_duplicates


def test_found_text_of_a_contaminated_item_is_that_of_its_last_language():
    columns = ["source", "item_id", "language", "occurs_in_evaluation"]
    rows = [("s", "1", "en", "b"), ("s", "2", "de", "x"), ("s", "1", "de", "c"), ("r", "1", "de", "y")]
    for order in permutations(rows):
        found = _last_of_items(pa.table(dict(zip(columns, map(list, zip(*order, strict=True)), strict=True))))
        assert [tuple(row.values()) for row in found.to_pylist()] == [rows[3], rows[0], rows[1]]


class WithoutEmptyTables(TablesHere):
    """Tables of which the empty ones are dropped, as Ray Data does."""

    def map(self, function):
        return WithoutEmptyTables(table for table in map(function, self) if table.num_rows)

    def map_groups(self, column, function, groups):
        return WithoutEmptyTables(table for table in super().map_groups(column, function, groups) if table.num_rows)


def test_many_rows_without_a_repeated_item_have_no_duplicates(monkeypatch):
    monkeypatch.setattr(left_out, "KEYS_PER_BUCKET", 2)
    none = pa.nulls(5, pa.string())
    items = [str(number) for number in range(5)]
    rows = pa.table({"pair_key": range(5), "source": ["s"] * 5, "item_id": items, "rejected": none})
    assert find_duplicates(WithoutEmptyTables([rows])).num_rows == 0
    repeated = rows.set_column(0, "pair_key", pa.array([0, 1, 2, 3, 1]))
    found = find_duplicates(WithoutEmptyTables([repeated]))
    assert found.to_pylist() == [{"source": "s", "item_id": "4"}]
