"""The commands of `tgi`. Each command has its own module. The module is imported when the command
runs, so that `tgi --help` imports no dependencies.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from tgi import __version__
from tgi.config import UsageError, similar
from tgi.errors import StartError

__all__ = ["COMMANDS", "ENTRY_POINT_GROUP", "launcher_main", "main", "run_command"]

COMMANDS = {
    "serve": "Serve a model over HTTP.",
    "download": "Download a model into the cache.",
    "inspect": "Show the family, the memory and the possible backends of a model.",
    "quantize": "Quantize the weights of a model by GPTQ and write a new checkpoint.",
    "bench": "Measure a running server.",
    "migrate": "Convert a TGI 3 command into a `tgi serve` command.",
    "sagemaker": "Serve with the variables and the port of SageMaker.",
    "backends": "List the installed backends and whether they can be used on this machine.",
    "doctor": "Report which backend would serve a model on this machine, and why.",
    "conformance": "Run the conformance suite on an installed backend.",
    "version": "Print the versions of tgi and its backends.",
}
"""Maps each command to its description. The module of a command has `run(arguments) -> exit code`.
"""

ENTRY_POINT_GROUP = "tgi.commands"
"""The entry point group with which other packages add commands. The name of an entry point is the
command, and the value is a module with the function `run`.
"""

_USAGE_EXIT_CODE = 2
_INTERRUPT_EXIT_CODE = 130
_BROKEN_PIPE_EXIT_CODE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `tgi`. Returns the exit code, which is 0 for success, 1 for a failed command
    and 2 for invalid arguments.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
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
        exit_code: int = _load(added[words[0]]).run(words[1:])
        return exit_code
    names = [*COMMANDS, *added]
    raise UsageError(
        f"error: unrecognized command '{words[0]}'; commands: {', '.join(names)}.",
        similar(words[0], names).rstrip(),
    )


def launcher_main(arguments: Sequence[str] | None = None) -> int:
    """Run `text-generation-launcher`, an alias of `tgi serve`. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("-V", "--version"):
        print(f"text-generation-launcher {__version__}")
        return 0
    return run_command(lambda: _run("serve", words))


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit code. If the command raises `StartError`, print the
    message of the error.

    If the process that reads the output exits early, the exit code is that of a program that was
    killed by SIGPIPE. Characters that the encoding of the output does not have are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        exit_code = command()
        sys.stdout.flush()
        return exit_code
    except StartError as error:
        is_usage_error = isinstance(error, UsageError)
        print(str(error) if is_usage_error else f"Error: {error}", file=sys.stderr)
        return _USAGE_EXIT_CODE if is_usage_error else 1
    except KeyboardInterrupt:
        return _INTERRUPT_EXIT_CODE
    except BrokenPipeError:
        # The interpreter flushes the output again at exit, which would fail again. The output is
        # therefore redirected to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE_EXIT_CODE


def _run(name: str, words: Sequence[str]) -> int:
    module = importlib.import_module(f"tgi.cli.{name}")
    command: Callable[[Sequence[str]], int] = module.run
    return command(words)


def _added_commands() -> Mapping[str, metadata.EntryPoint]:
    """Return the commands of other packages by name, without importing the packages."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}


def _load(point: metadata.EntryPoint) -> Any:  # noqa: ANN401 - a module
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise StartError(
            f"The command `{point.name}` of the package {_package(point)} cannot be imported:"
            f" {error}."
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
