"""The Kubernetes files of jobs/kuberay have the fields that Kubernetes and KubeRay know, and fit the package."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_ray.cli import main
from tests.helpers.paths import REPOSITORY

FOLDER = REPOSITORY / "jobs" / "kuberay"
# KubeRay 1.7.0's helm-chart/kuberay-operator/crds, which HBT_TEST_KUBERAY names.
CRDS = {
    "RayCluster": ("ray.io_rayclusters.yaml", "c44704442eef0c6721ad40c1d66782c8bd3fdab9d3344306a5820910a679baa1"),
    "RayJob": ("ray.io_rayjobs.yaml", "01a5cf3b17c1769fda44af7e82debcd98722f0c27b9ab84d084681c6649121f5"),
}


def documents() -> list[dict[str, Any]]:
    texts = [file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text)]


OF_RAY = [one for one in documents() if one["apiVersion"].startswith("ray.io")]
OTHERS = [one for one in documents() if not one["apiVersion"].startswith("ray.io")]


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec.get("rayClusterSpec", spec)


def strict(schema: Any) -> Any:
    """Return a CRD's schema as JSON schema that refuses unknown fields, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    if out.pop("x-kubernetes-int-or-string", False):
        out.pop("type", None)
        out["type"] = ["integer", "string"]
    if isinstance(out.get("properties"), dict) and not out.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


@pytest.fixture(scope="module")
def crd_folder() -> Path:
    folder = os.environ.get("HBT_TEST_KUBERAY")
    if not folder:
        pytest.skip("HBT_TEST_KUBERAY names no folder with KubeRay 1.7.0's CRDs")
    for name, digest in CRDS.values():
        assert hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() == digest, name
    return Path(folder)


def schema_of(kind: str, folder: Path) -> dict[str, Any]:
    crd = yaml.load((folder / CRDS[kind][0]).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    [schema] = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == "v1"]
    schema["properties"]["metadata"] = {"properties": {"name": {"type": "string"}}}
    return strict(schema)  # type: ignore[no-any-return]


@pytest.mark.parametrize("document", OF_RAY, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_ray_file_has_the_fields_of_kuberays_schema(document: dict[str, Any], crd_folder: Path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = schema_of(document["kind"], crd_folder)
    jsonschema.validate(document, schema)
    cluster_spec(document)["headGroupSpec"]["unknown"] = 1
    try:
        with pytest.raises(jsonschema.ValidationError, match="unknown"):
            jsonschema.validate(document, schema)
    finally:
        del cluster_spec(document)["headGroupSpec"]["unknown"]


@pytest.mark.parametrize("document", OTHERS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_file_has_the_fields_of_kubernetes_schema(document: dict[str, Any]):
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(document, validate.latest_version(), strict=True)


def test_all_ray_files_describe_the_same_cluster():
    first, *others = [cluster_spec(one) for one in OF_RAY]
    assert others
    assert all(other == first for other in others)


def test_clusters_have_a_gpu_from_the_start():
    """Without one, evaluation and mining use the CPUs of the head."""
    groups = [group for one in OF_RAY for group in cluster_spec(one)["workerGroupSpecs"]]
    assert all(group["replicas"] == group["minReplicas"] >= 1 for group in groups)


def test_versions_are_those_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [ray] = re.findall(r"ray\[.*?\]==(.*?)'", str(project["dependencies"]))
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f"rayproject/ray:{ray}-py311" in dockerfile
    assert f"hbt_ray:{project['version']}" in dockerfile
    assert {cluster_spec(one)["rayVersion"] for one in OF_RAY} == {ray}


def test_clusters_require_a_token_that_no_file_has():
    assert all(cluster_spec(one)["authOptions"] == {"mode": "token", "secretName": "hbt-auth"} for one in OF_RAY)
    assert not [one for one in documents() if one["kind"] == "Secret"]


@pytest.mark.parametrize(
    "document", [one for one in OF_RAY if one["kind"] == "RayJob"], ids=lambda one: one["metadata"]["name"]
)
def test_entrypoint_is_a_command_of_the_package(document: dict[str, Any]):
    assert document["spec"]["backoffLimit"] > 0
    program, name, *arguments = shlex.split(document["spec"]["entrypoint"])
    assert program == "hbt"
    main.commands[name].make_context(name, arguments)


def test_what_is_to_be_filled_in_is_marked_and_counted():
    found = {value for file in FOLDER.glob("*.yaml") for value in re.findall(r"REPLACE[\w-]*", file.read_text("utf-8"))}
    assert found == {
        "REPLACE-WITH-A-CLASS-THAT-SEVERAL-NODES-MOUNT",
        "REPLACE-WITH-THE-IMAGE",
        "REPLACE-WITH-A-BUCKET",
    }
