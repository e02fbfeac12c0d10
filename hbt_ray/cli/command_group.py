"""The group of `hbt`'s commands: an error is one line, and its traceback is in a file."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import click

from hbt_ray.errors import HbtError, UserError, format_traceback, full_disk_error
from hbt_ray.utils.progress import print_line
from hbt_ray.utils.redaction import redact

DEBUG_VARIABLE = "HBT_DEBUG"
DEBUG_OPTION = "--debug"


class Commands(click.Group):
    """Prints an error as one line and exits: with code 2 after an error of hbt_ray, with 1 after any other.

    A traceback is printed with --debug, anywhere on the command line, or HBT_DEBUG=1. Otherwise that of an error which
    another one caused is written to a file that only this user can read, and the line names it.
    """

    def main(self, args: Sequence[str] | None = None, *others: Any, **settings: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if DEBUG_OPTION in given:
            given.remove(DEBUG_OPTION)
            os.environ[DEBUG_VARIABLE] = "1"
        return super().main(given, *others, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which a new user needs them

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except HbtError as error:
            was_caused = error.__cause__ is not None or error.__context__ is not None
            shown = _show_traceback(error, was_caused and not isinstance(error, UserError))
            print_line(f"hbt: {redact(str(error))}{shown}")
            ctx.exit(2)
        except Exception as error:
            if full := full_disk_error(error):
                print_line(f"hbt: {redact(str(full))}{_show_traceback(error, True)}")
                ctx.exit(2)
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader of a pipe has ended
                raise
            reason = redact(" ".join(str(error).split()))[:300]
            print_line(f"hbt: unexpected {type(error).__name__}: {reason}{_show_traceback(error, True)}")
            ctx.exit(1)


def _show_traceback(error: Exception, needs_file: bool) -> str:
    """Print or write a traceback; return what the error's line says of it."""
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        click.echo(redact(format_traceback(error)), err=True, nl=False)
        return ""
    if not needs_file:
        return ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hbt-traceback-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(redact(format_traceback(error)))
    except OSError:  # a full disk
        return f" (with {DEBUG_OPTION}, the traceback is printed)"
    return f" (traceback: {file.name})"
