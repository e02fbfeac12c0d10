"""The choice between bfloat16 and float32."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from hbt_ray.config import Precision

_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # two of x86, one of ARM


def resolve_bf16(precision: Precision, device: torch.device) -> bool:
    """Return True if a setting means bfloat16 on a device; "auto" does where the device computes in it.

    On other devices libraries emulate bfloat16: on a CPU with AVX2 only, a hundred times slower than float32.
    """
    if precision == "auto":
        return has_bf16_arithmetic(device.type)
    return precision == "bf16"


@functools.cache
def has_bf16_arithmetic(device_type: str) -> bool:
    """Return True if devices of a type ("cpu", "cuda") have instructions for bfloat16.

    `torch.cpu.get_capabilities` has the same flags on Linux. It is not used: it also reports them on macOS, where torch
    has no fast kernels for them, and the oldest supported torch may lack it.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False
    return device_type == "cpu" and not _CPU_FLAGS.isdisjoint(flags.split())
