"""What another could have written is never run, and nothing we start is open to others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbt_ray.config import RunConfig
from tests.helpers.paths import REPOSITORY

FILES = sorted([*(REPOSITORY / "hbt_ray").rglob("*.py"), *(REPOSITORY / "jobs").glob("*.py")])
# Calls that run what they read.
UNSAFE = {"pickle.load", "pickle.loads", "torch.load", "eval", "exec", "yaml.unsafe_load", "np.load", "numpy.load"}


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_nothing_read_is_run(file: Path):
    for name, call in calls(file):
        assert name not in UNSAFE, f"{name} in line {call.lineno}"
        if name == "yaml.load":
            [loader] = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "Loader"]
            assert set(re.findall(r"\w*Loader", loader)) <= {"BaseLoader", "CSafeLoader", "SafeLoader"}


def test_json_is_parsed_in_one_function():
    for file in FILES:
        for name, call in calls(file):
            if name in ("json.load", "json.loads") and file.name != "limits.py":
                written_here = ("json.dumps(", "manifest.to_json()", "(files(__package__)")
                assert ast.unparse(call.args[0]).startswith(written_here), f"use load_json in {file}:{call.lineno}"


def test_code_from_a_hub_runs_only_where_it_is_asked_for_by_name():
    assert RunConfig().model.trust_remote_code is False
    for file in FILES:
        for name, call in calls(file):
            for keyword in call.keywords:
                if keyword.arg == "trust_remote_code":
                    assert ast.unparse(keyword.value) in {"trust_remote_code", "model.trust_remote_code"}, name


def test_models_are_logged_with_the_trust_of_the_settings():
    logged = [call for file in FILES for name, call in calls(file) if name.endswith(".log_model")]
    assert logged
    assert all("trust_remote_code" in {keyword.arg for keyword in call.keywords} for call in logged)


def test_every_documented_cluster_asks_for_a_token_and_nothing_listens_to_the_world():
    documents = [REPOSITORY / "README.md", REPOSITORY / "cluster.yaml", *FILES]
    for document in documents:
        text = document.read_text(encoding="utf-8")
        assert "RAY_AUTH_MODE=disabled" not in text
        assert "0.0.0.0" not in text
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            if "ray start" in block:
                assert block.index("export RAY_AUTH_MODE=token") < block.index("ray start")
