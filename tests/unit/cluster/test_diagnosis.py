"""What `hbt doctor` finds, on machines that are made up."""

from __future__ import annotations

import re
import socket

import pytest
from click.testing import CliRunner, Result

from hbt_ray.cli import main
from hbt_ray.cluster import diagnosis
from hbt_ray.utils.machine import Cpus


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Make up a machine of 8 cores, of which a container has 2, with one GPU and a torch for GPUs."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(diagnosis, "count_cpus", lambda: Cpus(8, 8, 2.0))
    monkeypatch.setattr(diagnosis, "cpu_features", lambda: frozenset({"avx512_bf16", "amx_bf16", "avx2"}))
    monkeypatch.setattr(diagnosis, "list_gpus", lambda: ["NVIDIA H200, 143771 MiB"])
    monkeypatch.setattr(diagnosis, "torch_without_gpu", lambda: None)
    monkeypatch.setattr(diagnosis, "_MIN_FREE", 0)


def doctor(tmp_path) -> tuple[Result, dict[str, str]]:
    """Return the result, and the lines by their names."""
    result = CliRunner().invoke(main, ["doctor", "--out", str(tmp_path)])
    lines = result.stdout.splitlines()
    return result, {line[6:16].strip(): f"{line[:6].strip()}: {line[16:]}" for line in lines if line[6:16].strip()}


def test_healthy_machine_is_one_screen_and_exit_code_0(tmp_path):
    result, found = doctor(tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) < 80
    assert found["CPU"] == "ok: 2 of 8 cores (container 2)"
    assert found["bf16"] == "ok: fast on the CPU (AVX512-BF16, AMX)"
    assert found["GPU"] == "ok: 1 x NVIDIA H200, 143771 MiB"
    assert found["hbt_ray"].startswith("ok: 0.1.0, Python 3.")


def test_gpu_that_torch_cannot_use_is_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "torch_without_gpu", lambda: "2.13.0+cpu")
    result, found = doctor(tmp_path)
    assert found["GPU"].startswith("note: NVIDIA H200, 143771 MiB, not used: torch 2.13.0+cpu is for")
    assert result.exit_code == 0


def test_cores_that_ray_counts_and_this_process_may_not_use_are_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "count_cpus", lambda: Cpus(8, 4, None))
    _, found = doctor(tmp_path)
    assert found["CPU"].startswith("note: 4 of 8 cores (affinity 4); Ray counts 8: write")


@pytest.mark.parametrize(
    ("variable", "address", "name"),
    [
        ("RAY_ADDRESS", "127.0.0.1:{port}", "Ray"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:{port}", "MLflow"),
        ("MLFLOW_TRACKING_URI", "postgresql+psycopg2://user:secret@127.0.0.1:{port}/db", "MLflow"),
    ],
)
def test_server_that_does_not_answer_is_wrong(monkeypatch, tmp_path, variable, address, name):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(variable, address.format(port=server.getsockname()[1]))
        result, found = doctor(tmp_path)
        assert result.exit_code == 0
        assert "answers" in result.stdout
    result, found = doctor(tmp_path)
    assert result.exit_code == 1
    assert found[name].startswith("wrong: no ")
    assert "secret" not in result.stdout


def test_address_of_mlflow_that_cannot_be_read_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:pa#ss@host:5432/db")
    result, found = doctor(tmp_path)
    assert result.exit_code == 1
    assert found["MLflow"].startswith("wrong: the host or port")
    assert "ss@host" not in result.stdout


def test_missing_library_and_folder_that_cannot_be_written_are_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "LIBRARIES", (*diagnosis.LIBRARIES[:5], "no-such-library"))
    monkeypatch.setattr(diagnosis, "_is_writable", lambda folder: False)
    result, found = doctor(tmp_path)
    assert result.exit_code == 1
    assert "no-such-library is missing; pip install no-such-library" in " ".join(result.stdout.split())
    assert found["results"].startswith("wrong: ")


def test_full_disk_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "_MIN_FREE", 2**62)
    result, found = doctor(tmp_path)
    assert (result.exit_code, found["results"].partition(":")[0]) == (1, "wrong")
    assert "; free space, or write --out or HBT_RUNS" in " ".join(result.stdout.split())


def test_library_that_is_missing_is_installed_in_the_version_that_the_package_requires(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "_version_of", lambda name: None if name == "mlflow" else "1.0")
    result, _ = doctor(tmp_path)
    assert re.search(r"mlflow is missing, .*; pip install mlflow==\d", " ".join(result.stdout.split()))
