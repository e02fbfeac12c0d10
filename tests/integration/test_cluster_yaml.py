"""`cluster.yaml`: valid for Ray's cluster launcher, with the pinned dependencies, and closed to the network."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from tests.helpers.paths import REPOSITORY

TEXT = (REPOSITORY / "cluster.yaml").read_text(encoding="utf-8")
CLUSTER: dict[str, Any] = yaml.safe_load(TEXT)
COMMANDS = [command for key, value in CLUSTER.items() if key.endswith("_commands") for command in value]


@pytest.fixture(scope="module")
def dependencies() -> set[str]:
    """Those that every run needs, and those that some settings do."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {*project["dependencies"], *project["optional-dependencies"]["lora"]}


def test_cluster_yaml_is_valid_for_ray():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(CLUSTER)
    validate_config(prepared)
    assert CLUSTER.keys() <= prepared.keys()


def test_setup_installs_the_dependencies_of_the_project(dependencies: set[str]):
    (command,) = (c for c in CLUSTER["setup_commands"] if "uv pip install" in c)
    installed = shlex.split(command.partition("--python")[2])[1:]
    assert set(installed) == dependencies
    pinned = {requirement.partition("==")[2] for requirement in dependencies if requirement.startswith("ray[")}
    assert set(re.findall(r"ray\[[a-z,]+\]==([\d.]+)", TEXT)) == pinned


def test_workers_start_only_on_demand():
    workers = {
        name: kind for name, kind in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]
    }
    assert set(workers) == {"cpu", "gpu", "gpu8"}
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) == CLUSTER["max_workers"]


def test_nodes_listen_on_localhost_and_restrict_their_network():
    assert "0.0.0.0" not in TEXT
    assert "::/0" not in TEXT
    # Without a security group, Ray gives a node one that admits SSH from everywhere.
    assert all(kind["node_config"]["SecurityGroupIds"] for kind in CLUSTER["available_node_types"].values())
    assert "security_group" not in CLUSTER["provider"]
    hosts = re.findall(r"--(?:dashboard-)?host[= ](\S+)", " ".join(COMMANDS))
    assert hosts == ["127.0.0.1", "127.0.0.1"]  # MLflow and the dashboard


@pytest.mark.parametrize("node", ["head", "worker"])
def test_nodes_start_ray_with_the_shared_token(node: str):
    (start,) = (c for c in CLUSTER[f"{node}_start_ray_commands"] if "ray start" in c)
    assert re.match(r"export RAY_AUTH_MODE=token\b", start)
    assert CLUSTER["file_mounts"] == {"/home/ubuntu/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_TOKEN" not in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid_shell(command: str):
    checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
