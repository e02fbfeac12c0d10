"""The layout: imports point one way, and Ray, MLflow and FAISS each have one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import PACKAGE

# Packages and modules in the order of the data flow. Each imports only from those before it.
LAYERS = (
    "errors",
    "utils",
    "config",
    "data",
    "sampling",
    "models",
    "losses",
    "training",
    "pretraining",
    "retrieval",
    "evaluation",
    "mining",
    "tracking",
    "search",
    "study",
    "presets",
    "bench",
    "cluster",
    "cli",
)
ONLY_IN = {"ray": "cluster", "mlflow": "tracking", "faiss": "retrieval"}

FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def stage_of(file: Path) -> str:
    """`data` for hbt_ray/data/corpora/squad.py, `cli` for hbt_ray/cli.py."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names a file imports, wherever in it; `from hbt_ray import sampling` is hbt_ray.sampling."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: 1 - node.level or None]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            if module == "hbt_ray":
                yield from (f"hbt_ray.{alias.name}" for alias in node.names)
            else:
                yield module


def package_of(file: Path) -> str:
    return ".".join(("hbt_ray", *file.relative_to(PACKAGE).parts[:-1]))


def imported(file: Path) -> set[str]:
    return set(imports_of(ast.parse(file.read_text(encoding="utf-8")), package_of(file)))


def test_imports_are_found_in_every_form():
    source = """
import ray.data as data, os
from hbt_ray import sampling, __version__
from hbt_ray.data.corpora.squad import read
from . import file_discovery
from .base import CorpusShard
from ..token_store import TokenStore
def lazily():
    import faiss
"""
    assert set(imports_of(ast.parse(source), "hbt_ray.data.corpora")) == {
        "ray.data",
        "os",
        "hbt_ray.sampling",
        "hbt_ray.__version__",
        "hbt_ray.data.corpora.squad",
        "hbt_ray.data.corpora",
        "hbt_ray.data.corpora.base",
        "hbt_ray.data.token_store",
        "faiss",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path):
    stage = stage_of(file)
    assert stage in LAYERS, f"put {stage!r} into LAYERS, after all that it imports"
    here = LAYERS.index(stage)
    for name in sorted(imported(file)):
        root, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if root != "hbt_ray" or not other or other.startswith("__") or other == stage:
            continue
        assert other in LAYERS, f"{file.name} imports {name}, which is no stage"
        assert LAYERS.index(other) < here, f"{stage} imports {other}, which comes after it in the flow"


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_in_one_place_only(library: str):
    places = {stage_of(file) for file in FILES if any(name.partition(".")[0] == library for name in imported(file))}
    assert places <= {ONLY_IN[library]}


def test_the_command_line_loads_ray_only_when_a_command_needs_it():
    file = PACKAGE / "cli.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert not [name for name in imports_of(tree, "hbt_ray") if name.startswith("hbt_ray.cluster")]
