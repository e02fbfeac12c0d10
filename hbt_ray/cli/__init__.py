"""The command line, `hbt`. Each command reads a configuration, calls one function and prints its result.

Libraries that take seconds to import (torch, ray, mlflow) are imported by the commands that use them.
"""

from __future__ import annotations

import click

from hbt_ray.cli.bench import bench
from hbt_ray.cli.command_group import Commands
from hbt_ray.cli.data import inspect, plan, prepare
from hbt_ray.cli.evaluation import compare, evaluate
from hbt_ray.cli.experiments import search, study
from hbt_ray.cli.explain import explain
from hbt_ray.cli.training import mine, pretrain, quickstart, train
from hbt_ray.utils.logging import configure_libraries, configure_package_log
from hbt_ray.utils.progress import show_progress

ENVIRONMENT = """\b
Environment variables:
  HBT_RUNS       Folder of all results. Default: ~/hbt_runs.
  HBT_DEBUG      1: print the traceback of an error, as --debug does, instead of writing it to a file.
  HBT_LOG_LEVEL  debug, info, warning or error. Default: warning.
"""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=ENVIRONMENT)
@click.version_option(package_name="hbt_ray")
def main() -> None:
    """Hybrid batch training of multilingual retrievers."""
    configure_libraries()
    configure_package_log()
    click.get_current_context().with_resource(show_progress())


_COMMANDS = (
    *(inspect, prepare, plan, train, pretrain, mine, quickstart),
    *(search, study, evaluate, explain, compare, bench),
)
for _command in _COMMANDS:
    main.add_command(_command)
