"""Options of several commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.cli.options import out_folder


@pytest.mark.parametrize(("out", "is_warned"), [("runs/one", True), ("/elsewhere/one", False)])
def test_output_in_the_working_directory_of_a_job_is_warned_of(tmp_path, monkeypatch, caplog, out, is_warned):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert out_folder(out, "one") == Path(out)
    assert ("is in the working directory of this job" in caplog.text) == is_warned


def test_output_outside_of_a_job_may_be_anywhere(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    out_folder("runs/one", "one")
    assert not caplog.text
