"""Fork server for Ray's worker processes, so that they start with the slow libraries imported.

Ray starts a Python process for every actor. Each would import torch and sentence-transformers anew: six seconds of a
core, several times in every training run, and nothing that these tests test. Here `ray start` is given an executable
that `write_interpreter` makes as its Python interpreter:

1. The interpreter sends the arguments, environment, working folder and standard streams of a worker to the server, and
   ends when the worker does. It runs anything else with the real interpreter.
2. The server, which has imported PRELOADED, forks a child for each request.
3. The child runs Ray's `default_worker.py`, after the work of Ray's `setup_worker.py` where the worker has a runtime
   environment.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shlex
import signal
import socket
import sys

SOCKET = "HBT_TEST_FORK_SERVER"  # environment variable: path of the server's socket
# Not Ray: it reads its settings from the environment when it is imported, and each worker has its own.
PRELOADED = (
    "datasets",
    "hbt_ray.evaluation.run_evaluation",
    "hbt_ray.mining",
    "hbt_ray.models.text_embedder",
    "hbt_ray.pretraining.task",
    "hbt_ray.search.results",
    "hbt_ray.training.contrastive_trainer",
    "hbt_ray.training.local_runner",
    "torch.nn.parallel",
)
STREAMS = (0, 1, 2)


def write_interpreter(path: str) -> None:
    """Write the executable that Ray takes for its Python interpreter."""
    with open(path, "w", encoding="utf-8") as file:
        # Without site-packages it starts in milliseconds.
        file.write(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{sys.executable}" "$@"\n')
    os.chmod(path, 0o755)


def run_interpreter(python: str, arguments: list[str]) -> None:
    """Request a worker from the server and wait until it ends; run anything else with the interpreter `python`."""
    address = os.environ.get(SOCKET)
    with socket.socket(socket.AF_UNIX) as connection:
        is_worker = any(argument.endswith("/default_worker.py") for argument in arguments)
        if address is None or not is_worker or connection.connect_ex(address) != 0:
            os.execv(python, [python, *arguments])
        request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
        descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", STREAMS))]
        connection.sendmsg([len(request).to_bytes(8, "big")], descriptors)
        connection.sendall(request)
        worker = int.from_bytes(connection.recv(8), "big")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: os.kill(worker, received))
        connection.recv(1)  # returns when the worker's end of the connection is closed, as the worker ends


def serve(address: str) -> None:
    """Import PRELOADED and fork workers until this process is killed or its parent has ended."""
    import importlib

    if sys.platform != "linux":
        return  # elsewhere libraries do not survive a fork; without a server, workers start as usual
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)  # requests wait while the libraries are imported
        for name in PRELOADED:
            importlib.import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that workers that end leave no zombies
        listener.settimeout(5)
        while os.getppid() == parent:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listener.close()
                _run_worker(connection)
            connection.close()


def _run_worker(connection: socket.socket) -> None:
    """Become the requested worker; the connection stays open until the process ends."""
    import random
    import runpy

    import numpy as np

    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(len(STREAMS) * array.array("i").itemsize))
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += connection.recv(2**16)
    arguments, environment, folder = json.loads(request)
    for stream, descriptor in zip(STREAMS, array.array("i", ancillary[0][2]), strict=True):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # peak memory is that of this process from now on, not its parent's
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    np.random.seed()
    connection.sendall(os.getpid().to_bytes(8, "big"))

    if arguments[0].endswith("/setup_worker.py"):  # the worker has a runtime environment
        from ray._private.runtime_env.context import RuntimeEnvContext, update_envs
        from ray._private.workers.setup_worker import parser

        options, arguments_left = parser.parse_known_args(arguments[1:])
        context = RuntimeEnvContext.deserialize(options.serialized_runtime_env_context or "{}")
        match context.command_prefix:
            case [] if not context.override_worker_entrypoint:
                pass
            case ["cd", working_dir, "&&"] if not context.override_worker_entrypoint:
                os.chdir(*shlex.split(working_dir))
            case _:  # another interpreter, or a command around it
                os.set_inheritable(connection.fileno(), True)
                os.execv(sys.executable, [sys.executable, *arguments])
        update_envs(context.env_vars)
        sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        arguments = arguments_left
    sys.argv = arguments
    sys.path[0] = os.path.dirname(arguments[0])
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        run_interpreter(sys.argv[1], sys.argv[2:])
