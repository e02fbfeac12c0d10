"""Secrets in texts and settings."""

from __future__ import annotations

import pytest

from hbt_ray.utils.redaction import redact, redact_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:s@crt@bucket/x", "s3://***@bucket/x"),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("mail ada@example.org about a://b", "mail ada@example.org about a://b"),
        ("http://h:8080/x by ada@example.org", "http://h:8080/x by ada@example.org"),
        ("postgresql://u:p/w d@h/db", "postgresql://***@h/db"),
        ("postgresql://u:12/34@h/db", "postgresql://***@h/db"),
        ("mysql://h/d?passwd=x", "mysql://h/d?passwd=***"),
        ("https://h?sv=1&sig=ab%2F&x=2", "https://h?sv=1&sig=***&x=2"),
        ("https://h/x#token=abc", "https://h/x#token=***"),
        ("Server=h;PWD=abc;", "Server=h;PWD=***;"),
        (
            "hbt study run.tracking.uri=mysql://h?password=a run.name=b",
            "hbt study run.tracking.uri=mysql://h?password=*** run.name=b",
        ),
        ("hf_token=abc max_query_tokens=64 sigma=3", "hf_token=*** max_query_tokens=64 sigma=3"),
        ("http://***@h", "http://***@h"),
    ],
)
def test_secrets_are_redacted_from_texts(text, expected):
    assert redact(text) == redact(expected) == expected


def test_a_secret_with_blanks_is_redacted_from_a_setting():
    assert redact_value("tracking.uri=mysql://h/d?password=a b/c") == "tracking.uri=mysql://h/d?password=***"
    assert redact_value("mysql://u:a b@h/d?pwd=c d&x=1") == "mysql://***@h/d?pwd=***&x=1"
