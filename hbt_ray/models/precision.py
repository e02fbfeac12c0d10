"""Whether to compute in bfloat16."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from hbt_ray.config import Precision

_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86's two, and ARM's


def resolve_bf16(precision: Precision, device: torch.device) -> bool:
    """What a setting means on a device; "auto" is bfloat16 where that is arithmetic of the device's own.

    Elsewhere libraries work bfloat16 out step by step: on a CPU with AVX2 alone, a hundred times slower than float32.
    """
    if precision == "auto":
        return has_bf16_arithmetic(device.type)
    return precision == "bf16"


@functools.cache
def has_bf16_arithmetic(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # another system than Linux
        return False
    return device_type == "cpu" and not _CPU_FLAGS.isdisjoint(flags.split())
