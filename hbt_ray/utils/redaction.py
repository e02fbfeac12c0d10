"""Remove credentials and secrets from what is written, logged or printed."""

from __future__ import annotations

import json
import re

MASK = "***"
# A whole word of the key: `hf_token` is a secret, `max_query_tokens` is not.
_SECRET_KEY = re.compile(
    r"(?:^|[^a-z])(?:token|passwords?|passwd|passphrase|pwd|secrets?|sig|signature|credentials?|(?:api|access)_?key)"
    r"(?![a-z])"
)
_NAME = r"passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|account)[_-]?key|signature|credentials?"
_QUERY_NAME = rf"{_NAME}|passw|sig|key"
_PORT = r"(?!\d+(?:[/\s?#\"']|$))"
# In a URL, up to the last @ of the word; after user: also across blanks, because passwords may have them.
_CREDENTIALS = re.compile(rf"(?<=://)(?:[^\s/@:\"'<>|]*:{_PORT}[^\n\"'<>|]*|[^\s\"'<>|]+)@")


def _assignments(value: str) -> re.Pattern[str]:
    """Return the pattern of secret parameters of URLs and of NAME=VALUE elsewhere, with the values' pattern."""
    in_query = rf"(?<=[?&#;])[^=&#;\s]*(?:{_QUERY_NAME})[^=&#;\s]*="
    elsewhere = rf"(?<![\w])(?:[\w.-]*(?:{_NAME})|sig)="
    return re.compile(rf"(?i)({in_query}|{elsewhere}){value}")


_OF_TEXT = _assignments(r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^&#;\s\"'<>|]+)")
_OF_VALUE = _assignments(r"[^&#;]+")  # nothing follows a value, so it may have blanks


def redact(text: str) -> str:
    """Replace the credentials and secret parameters in a text.

    >>> redact("cannot reach http://ada:pass@tracking:5000")
    'cannot reach http://***@tracking:5000'
    """
    return _OF_TEXT.sub(rf"\g<1>{MASK}", _CREDENTIALS.sub(f"{MASK}@", text))


def redact_value(value: str) -> str:
    """Redact one setting, argument or URI, in which a secret may have blanks.

    >>> redact_value("postgresql://ada@h/runs?password=a b&sslmode=require")
    'postgresql://ada@h/runs?password=***&sslmode=require'
    """
    return _OF_VALUE.sub(rf"\g<1>{MASK}", _CREDENTIALS.sub(f"{MASK}@", value))


def is_secret(key: str) -> bool:
    """Return True if the name of a setting or tag says that its value is a secret."""
    return _SECRET_KEY.search(key.lower()) is not None


def redacted_value(key: str, value: object) -> str:
    """Return a setting's or tag's value as text: JSON unless it is a string, `***` if the key names a secret.

    >>> redacted_value("hf_token", "abc"), redacted_value("max_query_tokens", 64)
    ('***', '64')
    """
    if value and is_secret(key):
        return MASK
    return redact_value(value) if isinstance(value, str) else redact(json.dumps(value, ensure_ascii=False, default=str))
