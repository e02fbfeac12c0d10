"""Credentials and secrets are neither logged nor printed."""

from __future__ import annotations

import json
import re
from typing import Any

MASK = "***"
# A whole word of the key: `hf_token` is a secret, `max_query_tokens` is not.
_SECRET_KEY = re.compile(r"(?:^|[^a-z])(?:token|passwords?|passwd|secrets?|credentials?|(?:api|access)_?key)(?![a-z])")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/]+@")  # user:password@ in a URL
_SECRET_QUERY = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:token|password|secret|signature|key)[^=&\s]*=)[^&\s]+")


def masked(text: str) -> str:
    """The text without the credentials of the URLs in it.

    >>> masked("cannot reach http://ada:pass@tracking:5000")
    'cannot reach http://***@tracking:5000'
    """
    return _SECRET_QUERY.sub(rf"\g<1>{MASK}", _CREDENTIALS.sub(f"{MASK}@", text))


def masked_value(key: str, value: Any) -> str:
    """A value as text, without secrets."""
    if value and _SECRET_KEY.search(key.lower()):
        return MASK
    return masked(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
