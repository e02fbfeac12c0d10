"""What Ctrl-C and SIGTERM do to long work."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from hbt_ray.utils.progress import print_line


@contextlib.contextmanager
def say_when_stopped(hint: str) -> Iterator[None]:
    """Print what the next call will do if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print_line(f"\nstopped; {hint}")
        raise


@contextlib.contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, which `ray job stop` sends, so that it ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
