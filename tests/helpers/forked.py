"""Processes that are forks of a server which has imported the slow libraries."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

# Not Ray, which one of the tests does without.
PRELOADED = [
    "hbt_ray.evaluation.run_evaluation",
    "hbt_ray.pretraining.mlm_trainer",
    "hbt_ray.training.contrastive_trainer",
    "tests.helpers.tiny_corpus",
]


def forked_process(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Return a process to start: `target(*arguments)` with the imports of a server that runs from the first one on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context.Process(target=target, args=arguments)
