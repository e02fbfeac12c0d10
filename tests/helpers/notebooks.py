"""Run the cells of a notebook as a script; as a module, run it and store what its cells print.

python -m tests.helpers.notebooks jobs/notebooks/quick_start.ipynb
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

COLUMNS = "100"  # of a terminal, to which tables are fitted


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook of nbformat 4."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return its code cells in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(notebook: dict[str, Any], folder: Path) -> list[str]:
    """Run all code cells in one namespace, with `folder` as the working directory; return what each prints."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.chdir(folder):
            for number, cell in enumerate(code_cells(notebook), start=1):
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
                printed.append(output.getvalue())
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return printed


def main(path: Path) -> None:
    """Run a notebook in a temporary folder and store what its cells print."""
    notebook = read_notebook(path)
    with tempfile.TemporaryDirectory() as folder:
        printed = run_cells(notebook, Path(folder))
    for number, (cell, text) in enumerate(zip(code_cells(notebook), printed, strict=True), start=1):
        cell["execution_count"] = number
        lines = [line.rstrip() + "\n" for line in text.splitlines()]
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
