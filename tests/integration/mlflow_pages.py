"""MLflow's pages in a browser: a server on a store, and headless Chromium."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from tests.helpers.ports import free_port

CHROMIUM, CHROMEDRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"  # where Debian's packages put them
missing = [program for program in (CHROMIUM, CHROMEDRIVER) if shutil.which(program) is None]
WAIT_S = 20  # for a page to show what a test expects
Seen = TypeVar("Seen")


@contextlib.contextmanager
def served(store: Path, folder: Path) -> Iterator[str]:
    """Start an MLflow server on a SQLite store and yield its address once it answers; the folder keeps its log."""
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not _answers(f"{address}/health"):
            output = (folder / "server.log").read_text(errors="replace")[-2000:]
            assert server.poll() is None, f"the MLflow server ended:\n{output}"
            assert time.monotonic() < end, f"the MLflow server did not answer within 60 s:\n{output}"
            time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """Start a browser with a new profile in the folder."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1600,1200",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    driver = Chrome(options, Service(CHROMEDRIVER))
    # At its first visit MLflow's assistant opens by itself, over a quarter of the window.
    once = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": once})
    try:
        yield driver
    finally:
        driver.quit()


@dataclass(frozen=True, slots=True)
class Pages:
    """A browser on a server; screenshots go to a folder."""

    driver: Any
    address: str
    screenshots: Path

    def open(self, place: str) -> None:
        """Open a page such as `/models/tiny`, as at the first visit."""
        self.driver.get("about:blank")
        everything = {"origin": self.address, "storageTypes": "all"}  # MLflow keeps which runs are unfolded
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", everything)
        self.driver.get(f"{self.address}/#{place}")

    def all(self, selector: str, text: str | None = None) -> list[Any]:
        """Return the visible elements of a CSS selector; those with just this text."""
        found = self.driver.find_elements("css selector", selector)
        return [e for e in found if e.is_displayed() and text in (None, e.text.strip())]

    def click(self, selector: str, text: str | None = None) -> None:
        """Click the only such element, as soon as there is one."""
        from selenium.common.exceptions import ElementClickInterceptedException

        def clicked() -> bool:
            [element] = self.all(selector, text)
            with contextlib.suppress(ElementClickInterceptedException):  # something is still moving away
                element.click()
                return True
            return False

        self.until(clicked, f"one {selector} {text or ''} to click")

    def until(self, seen: Callable[[], Seen], what: str) -> Seen:
        """Return the value of `seen` when it is true; until then elements may be missing or replaced."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            with contextlib.suppress(NoSuchElementException, StaleElementReferenceException, ValueError):
                if found := seen():
                    return found
            time.sleep(0.1)
        self.keep("missing")
        page = self.driver.find_element("tag name", "body").text
        raise AssertionError(f"{self.driver.current_url} does not show {what}, but\n{page}")

    def keep(self, name: str) -> Image.Image:
        """Take a screenshot and keep it as `<name>.png`."""
        png = self.driver.get_screenshot_as_png()
        (self.screenshots / f"{name}.png").write_bytes(png)
        return Image.open(io.BytesIO(png)).convert("RGB")
