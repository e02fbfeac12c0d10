"""CPUs, GPUs and memory, found in files as a container has them; and whether a server answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hbt_ray.utils import machine
from hbt_ray.utils.machine import Cpus, answers, count_cpus, host_and_port, list_gpus, memory_limit


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_container_is_read_from_its_cgroup(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert count_cpus(tmp_path).quota == quota


def test_usable_cpus_are_the_least_of_machine_affinity_and_quota():
    assert (Cpus(8, 8, None).usable, Cpus(8, 4, None).usable, Cpus(8, 4, 1.5).usable) == (8, 4, 1)
    assert Cpus(8, 4, 0.5).usable == Cpus(8, 4, 0.5).ray == 1
    assert Cpus(8, 4, None).ray == 8  # Ray does not consider the affinity


def test_memory_is_limited_by_the_cgroup(tmp_path):
    machine_memory = memory_limit(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine_memory
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_limit(tmp_path) == 1_000_000


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_gpus_are_those_that_are_visible(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA H200, 143771 MiB'; echo 'NVIDIA H200, 143771 MiB'")
    assert list_gpus() == ["NVIDIA H200, 143771 MiB"] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert list_gpus() == ["NVIDIA H200, 143771 MiB"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list_gpus() == []


@pytest.mark.parametrize(("devices", "gpus"), [(("/nonexistent",), []), (("/",), None)])
def test_gpus_that_cannot_be_listed_are_unknown(tmp_path, monkeypatch, devices, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_nvidia_smi(tmp_path, monkeypatch, "exit 9")
    monkeypatch.setattr(machine, "_GPU_DEVICES", devices)
    assert list_gpus() == gpus


def test_server_answers_while_it_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers("127.0.0.1", port)
    assert not answers("127.0.0.1", port)
    assert not answers("no.such.host.invalid", 1)


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("127.0.0.1:6379", ("127.0.0.1", 6379)),
        ("ray://head", ("head", 10001)),
        ("ray://head:7", ("head", 7)),
        ("[::1]:6379", ("::1", 6379)),
        ("auto", None),
        ("local", None),
        ("host:port", None),
        ("", None),
    ],
)
def test_address_is_a_host_and_a_port(address, server):
    assert host_and_port(address, {"ray": 10001}) == server
