"""The command line, `hbt`. Each command reads a configuration, calls one function and prints its result.

Libraries that take seconds to import (torch, ray, mlflow) are imported by the commands that use them.
"""

from __future__ import annotations

import click

from hbt_ray.cli.audit import replay, verify
from hbt_ray.cli.bench import bench
from hbt_ray.cli.command_group import Commands
from hbt_ray.cli.config import config
from hbt_ray.cli.data import inspect, plan, prepare
from hbt_ray.cli.debias import debias
from hbt_ray.cli.doctor import doctor
from hbt_ray.cli.evaluation import compare, evaluate
from hbt_ray.cli.experiments import search, study
from hbt_ray.cli.explain import explain
from hbt_ray.cli.export import export
from hbt_ray.cli.training import mine, pretrain, quickstart, train
from hbt_ray.utils.logging import configure_libraries, configure_package_log
from hbt_ray.utils.progress import show_progress

EPILOG = """\b
Examples:
  hbt quickstart                                  see all of it, in minutes
  hbt inspect faq --write faq.yaml                begin with files of your own
  hbt train --config faq.yaml alpha=0.6
  hbt evaluate --model ~/hbt_runs/faq/model --benchmark pairs=faq.yaml --out x

\b
Shell completion of commands, options, settings and configurations:
  eval "$(_HBT_COMPLETE=bash_source hbt)"         in ~/.bashrc; or zsh_source

\b
Environment variables:
  HBT_RUNS       Folder of all results. Default: ~/hbt_runs.
  HBT_DEBUG      1: print the traceback of an error, as --debug does.
  HBT_LOG_LEVEL  debug, info, warning or error. Default: warning.
"""


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 80},
    epilog=EPILOG,
)
@click.version_option(package_name="hbt_ray")
def main() -> None:
    """Hybrid batch training of multilingual retrievers."""
    configure_libraries()
    configure_package_log()
    click.get_current_context().with_resource(show_progress())


_COMMANDS = (
    *(quickstart, doctor, inspect, config, prepare, plan, train, evaluate, explain, compare),
    *(debias, export, mine, pretrain, search, study, verify, replay, bench),
)
for _command in _COMMANDS:
    main.add_command(_command)
