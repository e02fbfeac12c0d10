"""An LRU cache for methods that keeps one cache per instance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def lru_cached_method(
    maxsize: int | None,
) -> Callable[[Callable[Concatenate[Any, P], R]], cached_property[Callable[P, R]]]:
    """Cache the results of a method, with a separate cache for each instance.

    `functools.lru_cache` on a method keeps one cache for the whole class: it holds every instance alive, and the
    instances evict each other's results. Here the cache belongs to the instance and is freed with it.

    Args:
        maxsize: results that each instance keeps; None: all.
    """

    def decorate(method: Callable[Concatenate[Any, P], R]) -> cached_property[Callable[P, R]]:
        def bind(instance: Any) -> Callable[P, R]:
            return cast(Callable[P, R], lru_cache(maxsize)(partial(method, instance)))

        return cached_property(bind)

    return decorate
