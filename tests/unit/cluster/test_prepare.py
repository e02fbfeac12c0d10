"""A store that is not made to its end."""

from __future__ import annotations

import os
import signal

import pytest

from hbt_ray.cluster import prepare
from hbt_ray.config import build_config


@pytest.fixture(autouse=True)
def handlers():
    """Ignore SIGTERM, which could end the tests; let SIGINT be Ctrl-C, also where the tests ignore it."""
    handlers = {signal.SIGTERM: signal.SIG_IGN, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
