"""A cluster that hbt starts itself, in a process that knows no other one."""

from __future__ import annotations

import pytest

from tests.helpers.background import BackgroundWork

LISTENING = """
import ipaddress
import psutil
import ray  # before the package, which sets what Ray reads when it is imported
from hbt_ray.cluster.runtime import connect

connect()
ray.get(ray.remote(lambda: None).remote())
process = psutil.Process()
for each in [process, *process.children(recursive=True)]:
    for connection in each.net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN:
            address = ipaddress.ip_address(connection.laddr.ip)
            print(getattr(address, "ipv4_mapped", None) or address, each.name())
"""


@pytest.fixture
def listening_sockets(dashboard: str, work: BackgroundWork) -> str:
    """Return the lines that LISTENING prints."""
    return work.result("listening_sockets")


def test_cluster_of_one_machine_listens_on_loopback_only(listening_sockets: str) -> None:
    sockets = [line.split() for line in listening_sockets.splitlines()]
    assert {"gcs_server", "raylet"} <= {process for _, process in sockets}
    assert {address for address, _ in sockets} == {"127.0.0.1"}
