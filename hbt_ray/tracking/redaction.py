"""Remove credentials and secrets from what is logged or printed."""

from __future__ import annotations

import json
import re

MASK = "***"
# A whole word of the key: `hf_token` is a secret, `max_query_tokens` is not.
_SECRET_KEY = re.compile(r"(?:^|[^a-z])(?:token|passwords?|passwd|secrets?|credentials?|(?:api|access)_?key)(?![a-z])")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/]+@")  # user:password@ in a URL
_SECRET_QUERY = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:token|password|secret|signature|key)[^=&\s]*=)[^&\s]+")


def redact(text: str) -> str:
    """Replace the credentials and secret parameters of all URLs in a text.

    >>> redact("cannot reach http://ada:pass@tracking:5000")
    'cannot reach http://***@tracking:5000'
    """
    return _SECRET_QUERY.sub(rf"\g<1>{MASK}", _CREDENTIALS.sub(f"{MASK}@", text))


def redacted_value(key: str, value: object) -> str:
    """Return a setting's or tag's value as text: JSON unless it is a string, `***` if the key names a secret.

    >>> redacted_value("hf_token", "abc"), redacted_value("max_query_tokens", 64)
    ('***', '64')
    """
    if value and _SECRET_KEY.search(key.lower()):
        return MASK
    return redact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
