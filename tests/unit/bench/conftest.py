"""Commands without Ray, which take seconds: they start before the first test here, and the last test waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hbt_ray.bench.registry import BENCHES, load_part
from hbt_ray.cli import main
from tests.helpers.forked import forked_process
from tests.helpers.paths import REPOSITORY

COMMAND = [sys.executable, "-m", "hbt_ray.cli", "bench", "--quick", "--rounds", "1"]


@pytest.fixture(scope="package")
def without_ray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder to import from first, in which importing Ray fails."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    return folder


@pytest.fixture(scope="package", autouse=True)
def started_commands(request: pytest.FixtureRequest) -> None:
    """Start the commands that a test waits for."""
    for name in ("refused_start_up", "part_without_ray"):
        if any(name in getattr(item, "fixturenames", ()) for item in request.session.items):
            request.getfixturevalue(name)


@pytest.fixture(scope="package")
def refused_start_up(without_ray: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a part of the benchmark that needs Ray."""
    environment = os.environ | {"PYTHONPATH": f"{without_ray}:{REPOSITORY}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, "--part", "start_up"], env=environment, text=True, **pipes)
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="package")
def part_without_ray(
    without_ray: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Callable[[], None], Path]]:
    """Start a part that needs no Ray; yield a function that waits for its end, and its folder."""
    out = tmp_path_factory.mktemp("bench") / "out"
    process = forked_process(run_without_ray, without_ray, out)
    start = threading.Thread(target=process.start)  # which waits for the imports of the fork server
    start.start()

    def finish() -> None:
        start.join()
        process.join(60)

    yield finish, out
    start.join()
    process.kill()


def run_without_ray(folder: Path, out: Path) -> None:
    """Import every part that needs no Ray, and run one; run in a new process, whose last line of output is "done"."""
    output = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    assert "ray" not in sys.modules
    sys.path.insert(0, str(folder))
    for name, function in BENCHES.items():
        if not function.startswith("hbt_ray.cluster"):
            load_part(name)
    main(["bench", "--quick", "--rounds", "1", "--part", "feed_40m", "--out", str(out)], standalone_mode=False)
    print("done", flush=True)
