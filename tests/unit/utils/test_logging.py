import io
import logging
import sys

import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.utils.logging import configure_package_log


@pytest.fixture(autouse=True)
def package_logger():
    logger = logging.getLogger("hbt_ray")
    level, handlers = logger.level, list(logger.handlers)
    logger.handlers.clear()
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_log_has_warnings_alone_by_default(package_logger, monkeypatch, capsys):
    monkeypatch.delenv("HBT_LOG_LEVEL", raising=False)
    configure_package_log()
    logging.getLogger("hbt_ray.cluster").info("loaded")
    logging.getLogger("hbt_ray.cluster").warning("lost")
    assert capsys.readouterr().err == "lost\n"


def test_log_level_info_shows_when_and_where(package_logger, monkeypatch, capsys):
    monkeypatch.setenv("HBT_LOG_LEVEL", "INFO")
    configure_package_log()
    configure_package_log()  # a second call adds no second handler
    logging.getLogger("hbt_ray.cluster").info("loaded %d", 3)
    [line] = capsys.readouterr().err.splitlines()
    assert "INFO hbt_ray.cluster" in line
    assert line.endswith("loaded 3")


def test_unknown_log_level_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("HBT_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match=r"HBT_LOG_LEVEL=loud.*debug, info, warning, error"):
        configure_package_log()


def test_log_follows_a_replaced_stderr(package_logger, monkeypatch):
    monkeypatch.delenv("HBT_LOG_LEVEL", raising=False)
    configure_package_log()
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)
    logging.getLogger("hbt_ray.cluster").warning("lost")
    assert replaced.getvalue() == "lost\n"
