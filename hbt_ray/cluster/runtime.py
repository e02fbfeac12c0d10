"""Joining a Ray cluster or starting one on this machine, its nodes' resources, and the set-up of a process.

Ray is pinned to one version. This is the only module that uses Ray's private modules.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any

import ray
import ray.data
from ray._private import ray_constants
from ray._private.accelerators import RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO_ENV_VAR as HIDE_GPUS  # of tasks without one
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.actor import ActorHandle
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated import gcs_pb2
from ray.exceptions import GetTimeoutError, RayError
from ray.train import Result
from ray.train.v2._internal import constants as train_constants
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution import context as train_context
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from hbt_ray.errors import ClusterError
from hbt_ray.utils.limits import DEFAULTS as LIMITS
from hbt_ray.utils.logging import LEVEL_VARIABLE, configure_package_log
from hbt_ray.utils.process import job_variables
from hbt_ray.utils.progress import stage

logger = logging.getLogger(__name__)

END_S = 60.0  # for a controller to end its workers; it may be waiting for nodes meanwhile
ADDRESS = ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE
NOISY_LOGGERS = (
    "ray.data",
    "ray.tune",
    "ray._private.authentication",
    train_context.__file__,  # Ray names this logger by its file: it prints every report in full, at whatever level
    "sentence_transformers",
    "transformers",
)


class WorkerGroupTrainer(DataParallelTrainer):
    """Ray Train's trainer for machines with several clusters, and for workers that read a store.

    - Its processes know their cluster. Ray Train's clean-up would ask any cluster of the machine whether the controller
      is alive, and remove the placement group of a training that the other cluster does not know.
    - It has no actor for data sets, whose start the workers would wait for.
    - What interrupts `fit` in the main thread, such as Ctrl-C, ends the controller and its workers, and is raised. Ray
      Train would end as if the training had succeeded, without waiting for the processes.
    """

    _controller: ActorHandle | None = None

    def _register_sigint_handler(self, controller: ActorHandle) -> None:
        self._controller = controller  # Ray Train calls this in the main thread only

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Result:
        before = os.environ.get(ADDRESS)
        os.environ[ADDRESS] = ray.get_runtime_context().gcs_address
        train_constants.ENV_VARS_TO_PROPAGATE.add(ADDRESS)
        try:
            return super()._initialize_and_run_controller(**controller_init_kwargs)
        except BaseException:
            if self._controller:
                end_controller(self._controller)
            raise
        finally:
            if before is None:
                del os.environ[ADDRESS]
            else:
                os.environ[ADDRESS] = before


def end_controller(controller: ActorHandle) -> None:
    """End Ray Train's controller and its actors, and wait at most `END_S` until their processes are gone."""
    deadline_s = time.monotonic() + END_S
    try:
        with contextlib.suppress(RayError):  # it answers by ending its process, or does not answer
            ray.get(controller.abort.remote(), timeout=END_S)
    finally:
        ray.kill(controller)
    while _has_processes(controller) and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _has_processes(controller: ActorHandle) -> bool:
    """Return whether a process of a controller, or of an actor that it started, is left; an actor ends before it."""
    try:
        state = ray._private.state.state._connect_and_get_accessor()
        actors = [gcs_pb2.ActorTableData.FromString(row) for row in state.get_actor_table(None, None)]
        workers = [gcs_pb2.WorkerTableData.FromString(row) for row in state.get_worker_table()]
    except Exception:  # the cluster is gone
        return False
    owners = {one.address.worker_id for one in actors if one.actor_id == controller._actor_id.binary()}
    started = {one.address.worker_id for one in actors if one.owner_address.worker_id in owners and not one.is_detached}
    return any(one.is_alive and one.worker_address.worker_id in owners | started for one in workers)


def connect() -> None:
    """Join the cluster named by RAY_ADDRESS (as under `ray job submit`), or start one on this machine.

    The dashboard stays on, on loopback: Ray Train's clean-up queries it to learn whether a controller is alive.

    Raises:
        ClusterError: no cluster answers there, or it requires a token that this user does not have.
    """
    configure_logging()
    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS)
    _read_authentication()
    if not address:
        _listen_on_loopback()
    os.environ.setdefault(HIDE_GPUS, "1")
    options: dict[str, object] = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    if address and (variables := _variables_of_processes()):
        options["runtime_env"] = {"env_vars": variables}  # a local cluster's processes inherit them
    try:
        with stage(f"joining Ray at {address}" if address else "starting Ray"):
            _start_or_join(address, options)
    except (ConnectionError, ValueError, RayError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster {address or 'on this machine'} ({str(error).strip().splitlines()[0]}); "
            "start one with `ray start --head`, or unset RAY_ADDRESS to use only this machine"
        ) from None
    logger.info("connected to the cluster %s: CPUs by node %s", address or "on this machine", node_resources("CPU"))


def _variables_of_processes() -> dict[str, str]:
    """Return the environment variables that a cluster's processes need of this one; those of a job they have."""
    of_job = job_variables()
    names = (HIDE_GPUS, LEVEL_VARIABLE, *LIMITS)
    return {name: os.environ[name] for name in names if name in os.environ and name not in of_job}


def _read_authentication() -> None:
    """Let Ray read RAY_AUTH_MODE again: a program may have imported Ray before this package, which sets the variable.

    The processes of a new cluster would require a token that this process does not send.
    """
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start_or_join(address: str | None, options: dict[str, object]) -> None:
    """Call `ray.init`; on this machine once more if its processes do not start in time, which raises an Exception.

    Raises:
        ClusterError: they did not start the second time.
    """
    for is_last in (False, True):
        try:
            ray.init(address=address or "local", logging_level=logging.WARNING, **options)
            return
        except Exception as error:
            if address or isinstance(error, ConnectionError | ValueError | RayError):
                raise
            if isinstance(error, OSError):
                raise ClusterError(
                    f"Ray cannot start on this machine ({error}); it writes below HOME and to /tmp: "
                    "export HOME=FOLDER with one that can be written, or free space"
                ) from error
            ray.shutdown()  # ends the processes that did start
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if is_last:
                raise ClusterError(
                    f"Ray did not start on this machine, twice ({reason}); run the command again when it is less busy"
                ) from error
            logger.warning("Ray did not start (%s); trying once more", reason)


def _listen_on_loopback() -> None:
    """Let the processes of a cluster of this machine listen on 127.0.0.1 only, where Ray listens on all interfaces.

    Ray has this for other systems, by an environment variable that its other processes inherit. `_node_ip_address` of
    `ray.init` does not do it: a loopback address is replaced by the machine's.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False  # was read from the variable when ray was imported


def configure_logging() -> None:
    """Keep libraries' progress bars and notices out of this process's output, and start the package's log."""
    configure_package_log()
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_operator_progress_bars = False


def configure_task(threads: int) -> None:
    """Set up the process of a Ray task or actor: logging, and the number of torch's threads."""
    import torch  # takes seconds to import, and not every importer of this module needs it

    configure_logging()
    torch.set_num_threads(threads)


def get_within(reference: ray.ObjectRef | list[ray.ObjectRef], timeout_s: float, description: str) -> Any:
    """Return the result of a Ray call.

    Args:
        reference: what the call returned, or a list of such.
        timeout_s: bound of the wait.
        description: names the result in the message.

    Raises:
        TimeoutError: there was none within `timeout_s` seconds.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError:
        raise TimeoutError(f"{description} did not answer within {timeout_s:g} s") from None


def node_resources(resource: str) -> list[float]:
    """Return each live node's amount of a resource."""
    return [node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]]


def has_autoscaler() -> bool:
    """Return whether Ray's autoscaler, version 2, adds nodes; the kinds of nodes are not known from Ray."""
    return is_autoscaler_v2(fetch_from_server=True)
