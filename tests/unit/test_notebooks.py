from __future__ import annotations

import ast
import importlib

import pytest

import hbt_ray
from tests.helpers.notebooks import code_cells, read_notebook, run_cells
from tests.helpers.paths import REPOSITORY
from tests.helpers.slow import slow

NOTEBOOKS = sorted((REPOSITORY / "jobs/notebooks").glob("*.ipynb"))
MAX_BYTES = 40_000
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_notebook_is_small_executed_in_order_and_names_what_exists(path):
    cells = code_cells(read_notebook(path))
    assert path.stat().st_size < MAX_BYTES
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} == {"stream"}
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(importlib.import_module(str(node.module)), alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hbt":
            assert node.attr in hbt_ray.__all__


@slow
@every_notebook
def test_notebook_runs(path, tmp_path):
    printed = run_cells(read_notebook(path), tmp_path)
    assert "cross" in printed[-1]
