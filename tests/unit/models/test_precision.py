import platform
import subprocess

import pytest
import torch

from hbt_ray.models.precision import has_bf16_arithmetic, resolve_bf16

CPU = torch.device("cpu")


def test_what_is_asked_for_is_done():
    assert resolve_bf16("bf16", CPU)
    assert not resolve_bf16("fp32", CPU)


@pytest.mark.skipif(platform.system() != "Linux", reason="asks lscpu")
def test_auto_is_bf16_where_the_processor_says_that_it_computes_in_it():
    words = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.split()
    says = any(word in words for word in ("avx512_bf16", "amx_bf16", "bf16"))
    assert has_bf16_arithmetic("cpu") == resolve_bf16("auto", CPU) == says
