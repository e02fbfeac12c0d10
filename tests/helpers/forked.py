"""Processes that are forks of a server which has imported the slow libraries."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

# Not Ray, which one of the tests does without.
PRELOADED = [
    "hbt_ray.evaluation.run_evaluation",
    "hbt_ray.pretraining.mlm_trainer",
    "hbt_ray.training.contrastive_trainer",
    "tests.helpers.tiny_corpus",
]


def fork_server() -> ForkServerContext:
    """Return the server, which runs from the first process on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def forked_process(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Return a process to start: `target(*arguments)` with the imports of the server."""
    return fork_server().Process(target=target, args=arguments)
