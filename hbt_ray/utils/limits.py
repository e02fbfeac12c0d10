"""Limits of what is read, so that a small file cannot fill the memory; each is set by an environment variable.

A megabyte of gzip can hold a line of a gigabyte, and a kilobyte of YAML a billion values. The limits are far above what
corpora and settings need; they are no settings of a run, because the settings themselves are read under them.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from hbt_ray.errors import ConfigError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MAX_LINE_BYTES = "HBT_MAX_LINE_BYTES"
MAX_GROWTH = "HBT_MAX_GROWTH"
MAX_CONFIG_BYTES = "HBT_MAX_CONFIG_BYTES"
MAX_CONFIG_VALUES = "HBT_MAX_CONFIG_VALUES"

DEFAULTS = MappingProxyType(
    {
        MAX_LINE_BYTES: 1 << 26,  # of a text file, decompressed
        MAX_GROWTH: 200,  # bytes that a compressed file may hold, for each of its bytes; text grows by 3 to 30
        MAX_CONFIG_BYTES: 500_000,  # of a file of settings
        MAX_CONFIG_VALUES: 100_000,  # in a file of settings, with every repetition by an alias
    }
)
FREE_GROWTH_BYTES = 1 << 24  # to which any compressed file may grow, since small files of one repeated line grow most


def limit(variable: str) -> int:
    """Return a limit. Raises ConfigError if its environment variable is no positive whole number."""
    text = os.environ.get(variable) or str(DEFAULTS[variable])
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{variable}={text} is no positive whole number; write {variable}={DEFAULTS[variable]}")
    return int(text)


def under_these_limits(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return a function for other processes, which sets this process's limits there before it calls the given one."""
    values = {variable: os.environ.get(variable, "") for variable in DEFAULTS}

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        os.environ.update(values)
        return function(*arguments, **options)

    return call


def load_json(text: str | bytes) -> Any:
    """Parse JSON that another may have written: any file or answer.

    Raises:
        ValueError: it is no JSON, or is nested so deeply that the parser's recursion ends.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def max_decompressed_bytes(compressed_bytes: int) -> int:
    """Return the number of bytes that a compressed file may hold."""
    return max(FREE_GROWTH_BYTES, compressed_bytes * limit(MAX_GROWTH))


def check_growth(left: int) -> None:
    """Raise OSError if a file has fewer than 0 bytes left of what it may hold when it is decompressed."""
    if left < 0:
        raise OSError(f"it grows more than its size allows when it is decompressed; raise {MAX_GROWTH}")
