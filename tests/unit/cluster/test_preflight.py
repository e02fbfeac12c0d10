"""What is refused before anything is started, in this process and as a command."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from hbt_ray.cluster import preflight
from hbt_ray.cluster.preflight import check_before_start, check_cluster_address
from hbt_ray.config import build_config
from hbt_ray.errors import ClusterError, ConfigError, HbtError
from hbt_ray.utils.machine import Cpus

CORPORA = "corpora=[{format: embedded}]"


@pytest.fixture(autouse=True)
def two_cpus_and_no_gpu(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(preflight, "count_cpus", lambda: Cpus(2, 2, None))
    monkeypatch.setattr(preflight, "list_gpus", list)
    monkeypatch.setattr(preflight, "torch_without_gpu", lambda: None)


def refusal(**sections: object) -> str:
    with pytest.raises(HbtError) as raised:
        check_before_start(build_config(sections))
    return str(raised.value)


def test_more_workers_than_cpus_are_refused():
    check_before_start(build_config({"train": {"workers": 2}}))
    assert (
        "8 workers with 1 CPU each do not fit this machine, which holds at most 2 of them; write train.workers=2"
        in (refusal(train={"workers": 8, "chunk_pairs": 8}))
    )
    assert "write train.threads_per_worker=2" in refusal(train={"threads_per_worker": 4})


def test_gpu_is_refused_where_there_is_none(monkeypatch):
    assert "1 workers with 1 GPU each do not fit this machine" in refusal(train={"gpu": True})
    monkeypatch.setattr(preflight, "torch_without_gpu", lambda: "2.13.0+cpu")
    assert refusal(train={"gpu": True}) == (
        "train.gpu=true, and torch 2.13.0+cpu computes on CPUs only; install torch with CUDA, or write train.gpu=false"
    )


@pytest.mark.parametrize("gpus", [None, ["NVIDIA H200"]])
def test_gpu_is_accepted_where_there_is_one_or_none_is_known(monkeypatch, gpus):
    monkeypatch.setattr(preflight, "list_gpus", lambda: gpus)
    check_before_start(build_config({"train": {"gpu": True}}))


def test_cluster_that_does_not_answer_is_refused_and_its_machines_are_not_judged(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{server.getsockname()[1]}")
        check_before_start(build_config({"train": {"workers": 8, "chunk_pairs": 8, "gpu": True}}))
    with pytest.raises(
        ClusterError, match=f"no Ray cluster answers at RAY_ADDRESS={address}; start one with `ray start"
    ):
        check_cluster_address()


def test_address_of_a_dashboard_is_no_cluster_to_join(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ClusterError, match="is a dashboard, which takes jobs: `ray job submit"):
        check_cluster_address()


def test_teacher_that_does_not_exist_is_refused():
    message = refusal(loss={"distillation": {"teacher": "./absent"}})
    assert message.startswith("loss.distillation.teacher: there is no folder './absent'; write the folder of a saved")


@pytest.mark.parametrize("corpus", [{"format": "jsonl", "path": "faq"}, {"format": "huggingface", "path": "./faq"}])
def test_corpus_that_does_not_exist_is_refused(corpus):
    assert "'faq' has nothing at " in refusal(corpora=[{"format": "embedded"}, corpus])


def test_name_of_a_data_set_on_the_hub_is_not_looked_for():
    check_before_start(build_config({"corpora": [{"format": "huggingface", "path": "absent/faq", "language": "de"}]}))


MISTAKES = [
    (("train", "corpora=[{format: jsonl, path: absent}]"), "'absent' has nothing at "),
    (("train", CORPORA, "workers=512", "chunk_pairs=1", "global_batch_pairs=512"), "512 workers with 1 CPU each"),
    (
        ("train", CORPORA, "tracking.uri=http://127.0.0.1:1"),
        "no MLflow server answers at http://127.0.0.1:1 (Connection",
    ),
    (("search", "--config", "search_alpha", "objectives={mono/mpa: 1}"), "did you mean 'mono/map'?"),
    (("pretrain", CORPORA, "model.path=./absent"), "model.path: there is no folder './absent'"),
    (("evaluate", "--model", "./absent", "--benchmark", "embedded", "--out", "o"), "there is no folder './absent'"),
    (("mine", CORPORA, "--model", "./absent"), "--model: there is no folder './absent'"),
    (("search", "--config", "search_alpha", "run.model.path=./absent"), "there is no folder './absent'"),
    (("study", "low-resource", "run.model.path=./absent"), "there is no folder './absent'"),
]


def test_commands_refuse_mistakes_without_loading_torch_or_ray(tmp_path):
    code = (
        "import sys\nfrom hbt_ray.cli import main\n"
        f"codes = [main(arguments, standalone_mode=False) for arguments in {[list(one) for one, _ in MISTAKES]}]\n"
        "loaded = sorted({'torch', 'ray', 'mlflow'} & sys.modules.keys())\n"
        "sys.exit(f'{loaded} {codes}')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    *messages, last = result.stderr.splitlines()
    assert [
        expected for message, (_, expected) in zip(messages, MISTAKES, strict=True) if expected not in message
    ] == []
    assert last == f"[] {[2] * len(MISTAKES)}"
    assert not list(tmp_path.iterdir())


def test_error_is_a_mistake_of_the_user():
    with pytest.raises(ConfigError):
        check_before_start(build_config({"model": {"path": "./absent"}}))
