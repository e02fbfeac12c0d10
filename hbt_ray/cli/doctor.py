"""The command `doctor`: what this machine has, and what stops a run on it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from hbt_ray.cli.options import OUT_DEFAULT, examples

_WIDTH, _NAME, _VERDICT = 79, 10, 6


@click.command(epilog=examples("hbt doctor", "RAY_ADDRESS=head:6379 hbt doctor", "hbt doctor --out /shared/runs"))
@click.option("--out", default=OUT_DEFAULT, help="Folder of the results.")
def doctor(out: str) -> None:
    """Look at this machine: versions, cores, GPU, Ray, MLflow, disk.

    Nothing is started. The exit code is 1 if something is wrong, which stops a run.
    """
    from hbt_ray.cluster.diagnosis import examine

    findings = examine(Path(out).expanduser())
    previous = ""
    for finding in findings:
        name = "" if finding.name == previous else finding.name
        head = f"{finding.verdict:<{_VERDICT}}{name:<{_NAME}}"
        click.echo(textwrap.fill(finding.text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)))
        previous = finding.name
    if any(finding.verdict == "wrong" for finding in findings):
        click.get_current_context().exit(1)
