"""The rules of the package's structure and of its language, each as a test."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.paths import PACKAGE, REPOSITORY

# Packages and modules in the order of the data flow. Each imports only from itself and from earlier groups.
LAYERS = (
    {"errors"},
    {"utils"},
    {"config"},
    {"data"},
    {"sampling"},
    {"models"},
    {"losses"},
    {"training"},
    {"pretraining"},
    {"retrieval"},
    {"debiasing"},
    {"evaluation"},
    {"export"},
    {"mining"},
    {"tracking"},
    {"search"},
    {"study"},
    {"presets"},
    {"bench"},
    {"cluster"},
    {"api"},
    {"cli"},
)
INNER_LAYERS = {
    "data": (
        {
            "arrow_growth",
            "components",
            "containment",
            "engine",
            "language_resources",
            "manifest",
            "mined_files",
            "minhash",
            "model_files",
            "text_files",
            "text_normalization",
            "types",
        },
        {"corpora"},
        {"benchmarks"},
        {"decontamination", "inspection", "token_store"},
        {"row_tables", "tokenizer"},
        {"left_out", "prepare", "store_inputs", "zero_shot"},
        {"item_order", "store_maker", "text_search"},
        {"hybrid_dataset"},
    ),
    "cluster": (
        {"errors", "runtime", "worker_counts"},
        {"preflight", "resources", "task_pool", "tracked_run"},
        {"diagnosis"},
        {"prepare"},
        {"training"},
        {"evaluation"},
        {"mining"},
        {"search"},
        {"pipelines"},
        {"bench"},
    ),
}
TOP_LEVEL_MODULES = {"__init__", "api", "errors", "presets"}

# Library -> files that may import it, as patterns below the package.
LIBRARY_OWNERS = {
    "ray": ("cluster/**/*.py", "cluster/*.py"),
    "mlflow": ("tracking/*.py",),
    "faiss": ("retrieval/faiss_index.py",),
    "matplotlib": ("utils/plotting.py", "**/figures.py", "**/inspect.py"),
    "optuna": ("cluster/search/**/*.py", "cluster/search/*.py"),
    "peft": ("models/lora.py",),
    "datasketch": ("data/minhash.py",),
    "onnxruntime": ("export/conversion.py",),
    "openvino": ("export/conversion.py",),
}
PRIVATE_RAY = re.compile(r"\bray\.(\w+\.)*(_private|_common|_internal)\b|\bray\.train\.v2\b")

# Ray Train's controller and the driver import these. The workers wait for both, so they must start without the
# libraries that take seconds to import; the driver searches with faiss.
CONTROLLER_LIGHT = (
    "hbt_ray.training.task",
    "hbt_ray.training.checkpoint_metrics",
    "hbt_ray.pretraining.task",
    "hbt_ray.search.dev_set",
    "hbt_ray.cluster.training.messages",
    "hbt_ray.cluster.training.metrics_channel",
    "hbt_ray.cluster.training.restart_reporter",
    "hbt_ray.cluster.training.async_evaluation",
    "hbt_ray.cluster.training.process_group",
    "hbt_ray.cluster.training.train_run",
)
DRIVER_LIGHT = (
    "hbt_ray.cluster.mining",
    "hbt_ray.cluster.pipelines.train",
    "hbt_ray.cluster.pipelines.pretrain",
    "hbt_ray.cluster.search.run_search",
)
SLOW_LIBRARIES = ("torch", "transformers", "sentence_transformers", "mlflow", "faiss")

AMBIGUOUS_CLASSES = {"Figure", "Kind", "Measured", "Outcome", "Run", "Shard", "Trainer"}

BANNED_IN_NAMES = {
    *("alone", "asked", "beside", "company", "lies", "likewise", "own", "room", "stands", "stood", "tell", "told"),
}
BANNED_IN_PROSE = re.compile(
    r"\b(tells?|told|asked|alone|beside|company|room|stands|stood|lies|likewise|so many|goes on|gone on)\b", re.I
)

MIN_LINES, MAX_LINES = 30, 500
MAX_USES_OF_ANY = 60

# Tests of something else than a module of their package.
OTHER_TESTS = {
    *("test_architecture", "test_docs", "test_golden", "test_kuberay", "test_security"),
    "test_notebooks",  # jobs/notebooks
    "test_nested_json",  # every reader of JSON
    "cli/test_commands",  # every command
    "data/corpora/test_malformed_files",  # every reader
    *("data/benchmarks/test_registry", "data/corpora/test_registry"),  # the packages' `__init__`
}

# Rule -> what does not keep it yet: packages, or files below the package.
NOT_YET: dict[str, set[str]] = {
    "length": {"config/base.py", "cluster/pipelines/preload.py"},
    "tests": {"evaluation/test_truncated_embeddings", "mining/test_mine"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """Return the path below the package: data/corpora/squad.py."""
    return file.relative_to(PACKAGE).as_posix()


def package_of(file: Path) -> str:
    """Return the top-level package or module of a file: data, cli."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def exempt(rule: str, file: Path) -> bool:
    """Return True if NOT_YET lists the file or its package under the rule."""
    return bool({name_of(file), package_of(file)} & NOT_YET.get(rule, set()))


@cache
def source_of(file: Path) -> str:
    """Read a file once."""
    return file.read_text(encoding="utf-8")


@cache
def tree_of(file: Path) -> ast.Module:
    """Parse a file once."""
    return ast.parse(source_of(file))


def imports_of(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names that a file imports, anywhere in it; `from hbt_ray import data` gives hbt_ray.data.

    Of `from hbt_ray.data import prepare`, hbt_ray.data.prepare and hbt_ray.data are both given.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: 1 - node.level or None]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            if module != "hbt_ray":
                yield module
            if module.startswith("hbt_ray"):
                yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def imported(file: Path) -> frozenset[str]:
    """Return the full names that a file imports."""
    package = ".".join(("hbt_ray", *file.relative_to(PACKAGE).parts[:-1]))
    return frozenset(imports_of(tree_of(file), package))


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
        "hbt_ray.data.corpora.squad.read",
        "hbt_ray.data.corpora",
        "hbt_ray.data.corpora.file_discovery",
        "hbt_ray.data.corpora.base",
        "hbt_ray.data.corpora.base.CorpusShard",
        "hbt_ray.data.token_store",
        "hbt_ray.data.token_store.TokenStore",
        "faiss",
    }


# 1. Imports point one way


def upward_imports(file: Path, layers: tuple[set[str], ...], parents: tuple[str, ...]) -> list[str]:
    """Return imports of later layers: of `hbt_ray.<parents>.<layer>` by a file in a layer of the same parents."""
    level = {name: number for number, group in enumerate(layers) for name in group}
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    layer = parts[len(parents)]
    if layer == "__init__":
        return []
    assert layer in level, f"put {layer!r} into the layers of {'.'.join(('hbt_ray', *parents))}, after what it imports"
    found = []
    for name in imported(file):
        words = tuple(name.split("."))
        if words[: len(parents) + 1] == ("hbt_ray", *parents) and len(words) > len(parents) + 1:
            other = words[len(parents) + 1]
            if level.get(other, -1) > level[layer]:
                found.append(f"{name_of(file)}: {layer} imports {other}")
    return found


def test_packages_import_only_from_earlier_ones():
    assert not [line for file in FILES for line in upward_imports(file, LAYERS, ())]


@pytest.mark.parametrize("package", sorted(INNER_LAYERS))
def test_layered_packages_import_only_from_earlier_modules(package: str):
    files = [file for file in FILES if package_of(file) == package and not exempt("layers", file)]
    assert not [line for file in files for line in upward_imports(file, INNER_LAYERS[package], (package,))]


# 2. to 4. Every module and library has its place


def test_only_four_modules_are_outside_of_packages():
    assert {file.stem for file in PACKAGE.glob("*.py")} == TOP_LEVEL_MODULES


@pytest.mark.parametrize("library", sorted(LIBRARY_OWNERS))
def test_library_is_imported_only_by_its_owner(library: str):
    owners = {file for pattern in LIBRARY_OWNERS[library] for file in PACKAGE.glob(pattern)}
    importers = {file for file in FILES if any(name.partition(".")[0] == library for name in imported(file))}
    assert not sorted(name_of(file) for file in importers - owners if not exempt("libraries", file))


def test_private_modules_of_ray_are_used_only_in_runtime():
    mentions = [file for file in FILES if PRIVATE_RAY.search(source_of(file)) and not exempt("private Ray", file)]
    users = {name_of(file) for file in mentions if PRIVATE_RAY.search(code_of(file))}
    assert users <= {"cluster/runtime.py"}


def code_of(file: Path) -> str:
    """Return the source without comments and docstrings."""
    return ast.unparse(without_docstrings(ast.parse(source_of(file))))


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Replace every string that is a statement by `...`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value = ast.Constant(...)
    return tree


# 5. Import cost


CONTROLLER_IMPORTS = f"""
import importlib, sys
for module in {CONTROLLER_LIGHT!r}:
    importlib.import_module(module)
    slow = [name for name in {SLOW_LIBRARIES!r} if name in sys.modules]
    assert not slow, f"{{module}} imports {{slow}}"
for module in {DRIVER_LIGHT!r}:
    importlib.import_module(module)
    slow = [name for name in {SLOW_LIBRARIES!r} if name in sys.modules and name != "faiss"]
    assert not slow, f"{{module}} imports {{slow}}"
"""
PUBLIC_IMPORTS = """
import sys
import hbt_ray
assert not {"ray", "torch", "numpy", "datasets"} & sys.modules.keys()
hbt_ray.HybridBatchSampler, hbt_ray.HybridDataset
hbt_ray.load_config, hbt_ray.RunConfig, hbt_ray.evaluate, hbt_ray.compare, hbt_ray.EvalReport
assert "ray" not in sys.modules
assert set(hbt_ray.__all__) <= set(dir(hbt_ray))
"""


@pytest.fixture(scope="module", autouse=True)
def fresh_interpreters() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start interpreters that import for seconds, while the other rules are checked."""
    codes = (CONTROLLER_IMPORTS, PUBLIC_IMPORTS)
    command = [sys.executable, "-c"]
    started = {c: subprocess.Popen([*command, c], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY) for c in codes}
    yield started
    for interpreter in started.values():
        interpreter.kill()
        interpreter.wait()


def test_command_line_imports_the_cluster_only_inside_commands():
    for file in (PACKAGE / "cli").glob("*.py"):
        tree = ast.parse(source_of(file))
        tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert not [name for name in imports_of(tree, "hbt_ray.cli") if name.startswith("hbt_ray.cluster")]


# 6. Names of classes


def test_public_class_names_are_unique_and_specific():
    classes = [
        (node.name, name_of(file))
        for file in FILES
        for node in tree_of(file).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    counts = Counter(name for name, _ in classes)
    repeated = {name for name, count in counts.items() if count > 1}
    assert not (repeated | AMBIGUOUS_CLASSES & counts.keys()) - NOT_YET.get("class names", set())


def test_rays_run_config_is_written_qualified():
    unqualified = {
        f"{name_of(file)}: from {node.module}"
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray")
        for alias in node.names
        if alias.name == "RunConfig"
    }
    assert not unqualified


# 7. Words


def identifiers_of(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a file defines or uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.keyword(arg=str(name)):
                yield name


def words_of(identifier: str) -> set[str]:
    """Return the lower-case words of an identifier: train_alone and TrainAlone give train and alone."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


def prose_of(file: Path) -> Iterator[str]:
    """Yield the docstrings and comments of a file."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source_of(file)).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_words_of_identifiers_are_found():
    assert words_of("train_alone") == words_of("TrainAlone") == {"train", "alone"}
    assert words_of("HTTPRoom2") == {"http", "room"}


def test_identifiers_are_made_of_standard_terms():
    found = {
        f"{name_of(file)}: {name}"
        for file in FILES
        if not exempt("words in names", file)
        for name in identifiers_of(tree_of(file))
        if words_of(name) & BANNED_IN_NAMES
    }
    assert not sorted(found)


def test_docstrings_and_comments_use_standard_terms():
    found = {
        f"{name_of(file)}: {match[0]!r} in {' '.join(text.split())[:80]!r}"
        for file in FILES
        if not exempt("words in prose", file)
        for text in prose_of(file)
        if (match := BANNED_IN_PROSE.search(text))
    }
    assert not sorted(found)


# 8. Docstrings: ruff's rules D, in pyproject.toml


def test_docstring_rules_are_switched_on_for_every_package():
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    ignored = set(re.findall(r'^"hbt_ray/(\w+)[^"]*" = \[.*"D', settings, re.M))
    assert ignored <= NOT_YET.get("docstrings", set())


# 9. Length of modules


def test_modules_are_neither_tiny_nor_huge():
    lengths = {
        name_of(file): source_of(file).count("\n")
        for file in FILES
        if not file.name.startswith("__") and not exempt("length", file)
    }
    assert not {name: lines for name, lines in lengths.items() if not MIN_LINES <= lines <= MAX_LINES}


# 10. Tests mirror the package


def test_any_is_an_exception_in_annotations():
    uses = sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
    )
    assert uses < MAX_USES_OF_ANY


def test_unit_tests_mirror_the_package():
    unit = REPOSITORY / "tests/unit"
    orphans = []
    for test in sorted(unit.rglob("test_*.py")):
        subject = PACKAGE / test.parent.relative_to(unit) / test.stem.removeprefix("test_")
        name = test.relative_to(unit).with_suffix("").as_posix()
        mirrored = subject.is_dir() or subject.with_suffix(".py").exists()
        if not mirrored and name not in OTHER_TESTS | NOT_YET.get("tests", set()):
            orphans.append(name)
    assert not orphans


@pytest.mark.parametrize("package", sorted({package_of(file) for file in FILES if file.parent != PACKAGE}))
def test_package_has_unit_tests(package: str):
    assert package == "cluster" or list((REPOSITORY / "tests/unit" / package).rglob("test_*.py"))


# 11. Documentation; tests/unit/test_docs.py checks what the documents say


@pytest.mark.parametrize("package", sorted({package_of(file) for file in FILES if file.parent != PACKAGE}))
def test_package_has_a_readme(package: str):
    assert (PACKAGE / package / "README.md").exists() or package in NOT_YET.get("readme", set())


# 12. Registries are complete


def registered_modules(package: str, helpers: set[str]) -> set[str]:
    """Return the modules of a package without its helpers and underscored ones."""
    folder = PACKAGE / package
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return {name for name in names if not name.startswith("_")} - helpers


def test_every_corpus_reader_is_registered_and_configurable():
    from typing import get_args

    from hbt_ray.config import CorpusConfig
    from hbt_ray.data.corpora import READERS

    helpers = {"base", "column_names", "detection", "file_discovery", "file_parts", "record_files", "record_parsing"}
    assert registered_modules("data/corpora", helpers) == {module.split(".")[3] for module in READERS.values()}
    assert set(get_args(CorpusConfig.model_fields["format"].annotation)) == set(READERS)


def test_every_benchmark_reader_is_registered():
    from hbt_ray.data.benchmarks import READERS

    helpers = {"base", "builder", "file_parsing", "hub_download", "passage_files", "writers"}
    assert registered_modules("data/benchmarks", helpers) == {module.split(".")[3] for module in READERS.values()}


def test_every_loss_is_registered_and_configurable():
    from hbt_ray.config import LossConfig
    from hbt_ray.losses import LOSSES

    assert registered_modules("losses", {"base", "combined", "gather", "score_tiles"}) == set(LOSSES)
    assert all(loss.__module__ == f"hbt_ray.losses.{name}" for name, loss in LOSSES.items())
    assert set(LOSSES) - {"info_nce"} == set(LossConfig.model_fields) - {"symmetric", "matryoshka"}


def test_every_search_algorithm_runs_on_ray_tune():
    from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
    from hbt_ray.search.algorithms import ALGORITHMS

    assert TUNE_ALGORITHMS.keys() == ALGORITHMS.keys()


def test_every_part_of_the_benchmark_exists():
    from hbt_ray.bench.registry import BENCHES

    for target in BENCHES.values():
        module, _, function = target.partition(":")
        tree = tree_of(REPOSITORY / f"{module.replace('.', '/')}.py")
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, target


# 5. Import cost; last, as the interpreters take seconds


def test_modules_of_rays_controller_do_not_import_slow_libraries(fresh_interpreters: dict[str, subprocess.Popen[str]]):
    check = fresh_interpreters[CONTROLLER_IMPORTS]
    errors = check.communicate()[1]
    assert check.returncode == 0, errors


def test_public_names_without_a_cluster_do_not_import_ray(fresh_interpreters: dict[str, subprocess.Popen[str]]):
    check = fresh_interpreters[PUBLIC_IMPORTS]
    errors = check.communicate()[1]
    assert check.returncode == 0, errors
