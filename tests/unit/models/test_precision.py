import platform
import subprocess

import pytest
import torch

from hbt_ray.models.precision import has_bf16_arithmetic, resolve_bf16

CPU = torch.device("cpu")


def test_explicit_precision_is_used():
    assert resolve_bf16("bf16", CPU)
    assert not resolve_bf16("fp32", CPU)


@pytest.mark.skipif(platform.system() != "Linux", reason="asks lscpu")
def test_auto_is_bf16_if_the_processor_has_its_flags():
    words = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.split()
    says = any(word in words for word in ("avx512_bf16", "amx_bf16", "bf16"))
    assert has_bf16_arithmetic("cpu") == resolve_bf16("auto", CPU) == says
