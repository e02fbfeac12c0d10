"""A store that is not made to its end."""

from __future__ import annotations

import os
import signal

import pytest

from hbt_ray.cluster import prepare
from hbt_ray.config import build_config


@pytest.fixture(autouse=True)
def sigterm_is_ignored():  # so that it does not end the tests, should its handler be missing
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_preparation_says_what_the_next_call_does_and_leaves_nothing(monkeypatch, tmp_path, capfd, number):
    def make_store(*_):
        (tmp_path / "begun").touch()
        os.kill(os.getpid(), number)

    monkeypatch.setattr(prepare, "connect", lambda: None)
    monkeypatch.setattr(prepare, "make_store", make_store)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(build_config({}).prepare_inputs, tmp_path / "stores")
    assert capfd.readouterr().err == "\nstopped; the next call makes the store from its beginning\n"
    assert (tmp_path / "begun").exists()
    assert not [file for file in (tmp_path / "stores").iterdir() if ".partial" in file.name]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
