"""The package's log on stderr, and libraries' output.

`HBT_LOG_LEVEL` sets the log's level: debug, info, warning (the default) or error.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import cache
from typing import TextIO

from hbt_ray.errors import ConfigError
from hbt_ray.utils.display_text import wrap_for

LEVEL_VARIABLE = "HBT_LOG_LEVEL"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s"


def configure_package_log() -> None:
    """Give the `hbt_ray` logger its level and a handler. Each module logs to its child, `getLogger(__name__)`.

    Raises:
        ConfigError: HBT_LOG_LEVEL names no level.
    """
    name = os.environ.get(LEVEL_VARIABLE, "warning").lower()
    if name not in LEVELS:
        raise ConfigError(f"{LEVEL_VARIABLE}={name} is no log level; write one of {', '.join(LEVELS)}")
    logger = logging.getLogger("hbt_ray")
    logger.setLevel(LEVELS[name])
    if not logger.handlers:
        handler = _StderrHandler()
        # Warnings are sentences for the user; the lines of lower levels need to say when and where.
        handler.setFormatter(logging.Formatter(_FORMAT if LEVELS[name] < logging.WARNING else "%(message)s"))
        logger.addHandler(handler)


def configure_libraries() -> None:
    """Keep libraries' progress bars, notices and colours out of the output, unless the environment sets them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stdout.isatty():
        os.environ.setdefault("NO_COLOR", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)


@cache
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log a warning the first time that this process has it; a folder may be listed several times."""
    logger.warning(message)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a progress bar replaces while it is drawn."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.exc_info else wrap_for(self.stream, text)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass
