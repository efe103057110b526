"""Implements `tgi migrate`, which converts a TGI 3 command into a `tgi serve` command and lists the
differences.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tgi.cli.migration.launch import Launch
from tgi.cli.migration.readers.files import read_file, read_lines
from tgi.cli.migration.translation import Migration, migrate
from tgi.config import UsageError
from tgi.plugins import BackendRegistry

__all__ = ["Migration", "migrate", "run"]

_HELP = """Usage: tgi migrate 'COMMAND' | FILE

Convert a TGI 3 command into a `tgi serve` command. Print the command and the differences that
affect it.

COMMAND is a `text-generation-launcher` or `docker run` command in quotes. FILE is one of these:
  * a shell script, a Slurm script, a makefile or a systemd unit
  * a Docker Compose file, a Dockerfile or a Kubernetes manifest
  * a SkyPilot task or a dstack configuration
  * a Python program that deploys a model on SageMaker"""

_USAGE_EXIT_CODE = 2


def run(arguments: Sequence[str]) -> int:
    """Print the equivalent command and the changes. Returns the exit code."""
    if not arguments or any(word in ("-h", "--help") for word in arguments[:1]):
        print(_HELP)
        return 0
    registry = BackendRegistry()
    folder = _folder_note(arguments)
    exit_code = 0
    for at, (name, start) in enumerate(_read_starts(arguments).items()):
        if at:
            print()
        if name:
            print(f"# {name}")
        try:
            migration = migrate(_checked(start), registry)
        except UsageError as error:
            prefix = f"{name}: " if name else ""
            print(f"{prefix}{error}", file=sys.stderr)
            exit_code = _USAGE_EXIT_CODE
            continue
        print(migration.script)
        changes = [*migration.changes, *folder]
        if changes:
            print("\nWhat changes:")
            print("\n".join(f"* {change}" for change in changes))
    return exit_code


def _read_starts(arguments: Sequence[str]) -> Mapping[str, Launch | UsageError]:
    """Return the TGI 3 commands by the name of their service. The name of a single command is
    empty.
    """
    if len(arguments) > 1:
        return read_lines(shlex.join(arguments))
    (text,) = arguments
    starts = read_file(text)
    return read_lines(text) if starts is None else starts


def _folder_note(arguments: Sequence[str]) -> list[str]:
    """Return a sentence about relative paths if the file is in another folder."""
    path = Path(arguments[0].strip())
    if len(arguments) > 1 or "\n" in arguments[0] or path.parent == Path() or not path.is_file():
        return []
    return [f"Run the command in the folder `{path.parent}`, because its paths are relative to it."]


def _checked(start: Launch | UsageError) -> Launch:
    if isinstance(start, UsageError):
        raise start
    return start
