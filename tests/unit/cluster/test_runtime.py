import re

from tests.helpers.paths import PACKAGE

PRIVATE = re.compile(r"\bray\.(_|[\w.]*\._|train\.v2)\w*|from ray\.[\w.]*_internal")


def test_runtime_is_the_only_user_of_ray_s_private_modules():
    users = {str(f.relative_to(PACKAGE)) for f in PACKAGE.rglob("*.py") if PRIVATE.search(f.read_text("utf-8"))}
    assert users == {"cluster/runtime.py"}
