"""Items that are left out do not depend on the order in which rows are read."""

from __future__ import annotations

from itertools import permutations

import pyarrow as pa

from hbt_ray.data.left_out import _last_of_items


def test_found_text_of_a_contaminated_item_is_that_of_its_last_language():
    columns = ["source", "item_id", "language", "occurs_in_evaluation"]
    rows = [("s", "1", "en", "b"), ("s", "2", "de", "x"), ("s", "1", "de", "c"), ("r", "1", "de", "y")]
    for order in permutations(rows):
        found = _last_of_items(pa.table(dict(zip(columns, map(list, zip(*order, strict=True)), strict=True))))
        assert [tuple(row.values()) for row in found.to_pylist()] == [rows[3], rows[0], rows[1]]
