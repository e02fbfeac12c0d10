"""A cluster that hbt starts itself, in a process that knows no other one."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers.paths import REPOSITORY

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


def test_cluster_of_one_machine_listens_on_loopback_only():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", LISTENING]
    found = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    sockets = [line.split() for line in found.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {process for _, process in sockets}
    assert {address for address, _ in sockets} == {"127.0.0.1"}
