"""Secrets in texts, parameters and tags."""

from __future__ import annotations

import pytest

from hbt_ray.config import build_config
from hbt_ray.tracking import Tracker, redact, ui_command
from tests.unit.tracking.conftest import StartRun, run_of

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_credentials_in_urls_are_redacted_from_texts():
    assert redact("s3://key:s@crt@bucket/x") == "s3://***@bucket/x"
    assert redact("https://h/x?a=1&X-Amz-Signature=abc&b=2") == "https://h/x?a=1&X-Amz-Signature=***&b=2"
    assert redact("mail ada@example.org about a://b") == "mail ada@example.org about a://b"
    assert "pass" not in repr(Tracker(uri="http://ada:pass@h", experiment="e", run_id="r"))
    assert ui_command("http://ada:pass@tracking:5000") == "open http://***@tracking:5000"


def test_secrets_are_redacted_from_parameters_and_tags(start_run: StartRun):
    config = build_config(
        {
            "prepare": {"evaluation_sets": {"hf_token": "abc", "xquad-r": "https://ada:pass@h/x"}},
            "tracking": {"uri": "http://ada:pass@tracking:5000"},
        }
    )
    tracker = start_run("secret", config)
    tracker.set_tags({"api_key": "abc", "place": "ftp://ada:pass@h"})
    run = run_of(tracker)
    assert run.data.params["prepare.evaluation_sets.hf_token"] == run.data.tags["api_key"] == "***"
    assert run.data.params["prepare.evaluation_sets.xquad-r"] == "https://***@h/x"
    assert not any("pass" in value for value in [*run.data.params.values(), *run.data.tags.values()] if "://" in value)
