"""Which tests run only when HBT_SLOW_TESTS is set: most repeat what a faster test shows, at another size."""

import os

import pytest

SLOW_TESTS = "HBT_SLOW_TESTS" in os.environ
slow = pytest.mark.skipif(not SLOW_TESTS, reason="takes long: set HBT_SLOW_TESTS")
