"""A Ray cluster on this machine, started as a user starts one: with token authentication."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.conftest import BUCKET_KEYS
from tests.helpers.paths import REPOSITORY
from tests.helpers.ports import free_port
from tests.integration import worker_fork_server as fork_server

MARK = "HBT_TEST_CLUSTER"
NUM_CPUS = 4  # slots, not cores: two workers, and tasks next to them
# A process takes seconds to start: none does before a task asks for it, and idle ones stay for other tests' tasks.
FEW_STARTS = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_num_workers_soft_limit": "16",
}


class LocalCluster:
    """A head that starts when this is made; `wait` for it before use.

    Attributes:
        dashboard: its address.
        environment: of its drivers. Its processes inherit it, and the keys of `bucket`'s server.

    Args:
        folder: for its log, its token and the fork server of its workers.
    """

    def __init__(self, folder: Path) -> None:
        port, dashboard_port = free_port(), free_port()
        self.dashboard = f"http://127.0.0.1:{dashboard_port}"
        token = folder / "auth_token"  # a machine may have none, and `ray start` makes none
        token.write_text(secrets.token_hex(32))
        inherited = {
            "RAY_AUTH_TOKEN_PATH": str(token),
            MARK: str(port),  # inherited by every process of this cluster, and by no other's
            fork_server.SOCKET: str(folder / "fork_server"),
        }
        self.environment = {"RAY_ADDRESS": f"127.0.0.1:{port}", **inherited}
        interpreter = str(folder / "python")
        fork_server.write_interpreter(interpreter)
        serve = [sys.executable, "-m", fork_server.__name__, "serve", inherited[fork_server.SOCKET]]
        self._fork_server = subprocess.Popen(serve, cwd=REPOSITORY, env=os.environ | inherited)
        ray_script = f"import sys; sys.executable = {interpreter!r}; from ray.scripts.scripts import main; main()"
        address = ["--node-ip-address", "127.0.0.1", "--port", str(port)]
        address += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
        # The agent takes submitted jobs; its usual port may be held by another cluster of this machine.
        address += ["--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port())]
        of_this_process = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        size = ["--num-cpus", str(NUM_CPUS), "--object-store-memory", str(400 * 2**20)]
        with (folder / "head.log").open("wb") as log:
            self._head = subprocess.Popen(
                [sys.executable, "-c", ray_script, "start", "--head", "--block", "--disable-usage-stats"]
                + address
                + size,
                env=of_this_process | BUCKET_KEYS | inherited | FEW_STARTS,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the dashboard answers."""
        for _ in range(960):
            assert self._head.poll() is None, "ray start ended"
            if answers(self.dashboard):
                return
            time.sleep(0.25)
        raise AssertionError("the dashboard did not come up within 240 s")

    def stop(self) -> None:
        """End all processes of the cluster."""
        if self._head.poll() is None:
            os.killpg(self._head.pid, signal.SIGTERM)
        try:
            self._head.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(self._head.pid, signal.SIGKILL)
        self._fork_server.kill()
        self._fork_server.wait()


def answers(dashboard: str) -> bool:
    """Return whether a dashboard answers."""
    try:
        urllib.request.urlopen(f"{dashboard}/api/version", timeout=1)
    except urllib.error.HTTPError:  # it requires the token
        return True
    except OSError:
        return False
    return True


def wait_for_dashboard(dashboard: str) -> None:
    """Wait until a cluster that another process starts is up."""
    while not answers(dashboard):
        time.sleep(0.25)
