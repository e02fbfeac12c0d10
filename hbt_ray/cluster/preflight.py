"""Checks before anything is started: corpora, models, this machine, and addresses. They take a second or two.

torch, Ray and MLflow are not imported. What needs the contents of a cluster or of data is checked later.
"""

from __future__ import annotations

import os
from pathlib import Path

from hbt_ray.cluster.worker_counts import check_workers
from hbt_ray.config import LoopConfig, PretrainRunConfig, RunConfig
from hbt_ray.data.corpora.file_discovery import check_exists
from hbt_ray.data.model_files import check_model_exists
from hbt_ray.errors import ClusterError
from hbt_ray.tracking.server import check_host, resolve_uri
from hbt_ray.utils.machine import answers, count_cpus, host_and_port, list_gpus, torch_without_gpu

ADDRESS = "RAY_ADDRESS"
_DEFAULT_PORTS = {"ray": 10001}


def check_before_start(config: RunConfig | PretrainRunConfig) -> None:
    """Check that a run's corpora and models exist, that its workers fit the machine, and that addresses answer.

    Raises:
        CorpusError: there is nothing at the path of a corpus.
        ConfigError: there is no such model.
        ClusterError: the cluster does not answer, or this machine has too few CPUs or GPUs.
        TrackingError: the MLflow server does not answer.
    """
    check_cluster_address()
    check_machine(config.train if isinstance(config, RunConfig) else config.pretrain)
    check_models(config)
    for corpus in config.corpora:
        check_exists(corpus)
    check_host(resolve_uri(config.tracking, Path()))


def check_models(config: RunConfig | PretrainRunConfig) -> None:
    """Check that the encoder to start from and the teacher exist. Raise ConfigError if one does not."""
    if config.model.path is not None:
        check_model_exists(config.model.path, "model.path")
    if isinstance(config, RunConfig) and config.loss.distillation is not None:
        check_model_exists(config.loss.distillation.teacher, "loss.distillation.teacher")


def check_cluster_address() -> None:
    """Check that the cluster that RAY_ADDRESS names accepts connections.

    Raises:
        ClusterError: it does not within 2 seconds, or the address is that of a dashboard.
    """
    address = os.environ.get(ADDRESS, "")
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{ADDRESS}={address} is a dashboard, which takes jobs: `ray job submit -- hbt ...`; unset {ADDRESS} to "
            "use only this machine, or write the cluster's HOST:6379"
        )
    server = host_and_port(address, _DEFAULT_PORTS)
    if server is not None and not answers(*server):
        raise ClusterError(
            f"no Ray cluster answers at {ADDRESS}={address}; start one with `ray start --head`, or unset {ADDRESS} to "
            "use only this machine"
        )


def check_machine(loop: LoopConfig) -> None:
    """Check that this machine holds the workers, unless a cluster is named, whose nodes do.

    Raises:
        ClusterError: it never can.
    """
    if os.environ.get(ADDRESS):
        return
    check_workers(
        loop.min_workers, loop.threads_per_worker or 1, "CPU", [count_cpus().ray], loop.section, "this machine"
    )
    if not loop.gpu:
        return
    if (cpu_version := torch_without_gpu()) is not None:
        raise ClusterError(
            f"{loop.section}.gpu=true, and torch {cpu_version} computes on CPUs only; install torch with CUDA, or "
            f"write {loop.section}.gpu=false"
        )
    gpus = list_gpus()
    if gpus is not None:
        check_workers(loop.min_workers, 1, "GPU", [len(gpus)], loop.section, "this machine")
