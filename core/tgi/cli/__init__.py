"""The commands. One file per command; a command's file is imported when it runs, so that `tgi
--help` needs nothing installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from tgi import __version__
from tgi.config import UsageError
from tgi.errors import StartError

__all__ = ["COMMANDS", "ENTRY_POINT_GROUP", "launcher_main", "main", "run_command"]

COMMANDS = {
    "serve": "Serve a model over HTTP.",
    "download": "Fetch a model into the cache.",
    "inspect": "Show what a model is, its memory, and which backends can run it.",
    "bench": "Measure a running server.",
    "migrate": "Show what a start of TGI 3 looks like here.",
    "sagemaker": "Serve as SageMaker asks: its variables, port 8080.",
    "backends": "List the installed backends and whether they can be used here.",
    "doctor": "Say what would serve a model here, how, and why not otherwise.",
    "conformance": "Hold an installed backend against the seam.",
    "version": "Print the versions of tgi and its backends.",
}
"""Command → what it does. The module of the same name here has `run(arguments) -> exit code`."""

ENTRY_POINT_GROUP = "tgi.commands"
"""Where a package adds a command that needs more than the core has: name = the command, value = a
module like those here.
"""

_USAGE_EXIT_CODE = 2
_INTERRUPT_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `tgi`. Returns its exit code: 0 done, 1 it cannot start, 2 the arguments are
    wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"tgi {__version__}")
        return 0
    if words[0] in COMMANDS:
        return _run(words[0], words[1:])
    added = _added_commands()
    if words[0] in added:
        return run_command(lambda: _load(added[words[0]]).run(words[1:]))
    print(
        f"error: unrecognized command '{words[0]}'; commands: {', '.join([*COMMANDS, *added])}.",
        file=sys.stderr,
    )
    return _USAGE_EXIT_CODE


def launcher_main(arguments: Sequence[str] | None = None) -> int:
    """The command `text-generation-launcher`: `tgi serve` under TGI's name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("-V", "--version"):
        print(f"text-generation-launcher {__version__}")
        return 0
    return _run("serve", words)


def run_command(command: Callable[[], int]) -> int:
    """The exit code of a command; where it raises `StartError`, one line says why."""
    try:
        return command()
    except StartError as error:
        is_usage_error = isinstance(error, UsageError)
        print(str(error) if is_usage_error else f"Error: {error}", file=sys.stderr)
        return _USAGE_EXIT_CODE if is_usage_error else 1
    except KeyboardInterrupt:
        return _INTERRUPT_EXIT_CODE


def _run(name: str, words: Sequence[str]) -> int:
    module = importlib.import_module(f"tgi.cli.{name}")
    command: Callable[[Sequence[str]], int] = module.run
    return run_command(lambda: command(words))


def _added_commands() -> Mapping[str, metadata.EntryPoint]:
    """Commands of other packages by name; nothing is imported."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}


def _load(point: metadata.EntryPoint) -> Any:  # noqa: ANN401 - a module
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise StartError(
            f"The command `{point.name}` of {_package(point)} cannot be imported: {error}."
        ) from error


def _package(point: metadata.EntryPoint) -> str:
    return point.value if point.dist is None else point.dist.name


def _help() -> str:
    added = {
        name: f"From the package {_package(point)}." for name, point in _added_commands().items()
    }
    summaries = {**added, **COMMANDS}
    width = max(map(len, summaries))
    lines = [
        f"  {name:<{width}}  {summaries[name]}"
        for name in [*COMMANDS, *sorted(added.keys() - COMMANDS.keys())]
    ]
    return "\n".join(
        [
            f"tgi {__version__}: serve large language models over HTTP on any accelerator.",
            "",
            "Usage: tgi COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "`tgi COMMAND --help` shows the options of a command.",
        ]
    )
