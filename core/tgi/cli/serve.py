"""Implements `tgi serve`, which parses and checks the options and then starts the server.

Large packages are imported only after the options have been checked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tgi.cli.log import configure_logging
from tgi.config import (
    check_options,
    options_help,
    parse_arguments,
    process_environment,
    read_environment,
)

__all__ = ["run", "start"]

_USAGE = """Usage: tgi serve [MODEL] [OPTIONS]

Serve a model over HTTP. MODEL is a local folder, a model file or a hub id. The default is
the demo model.

Each option can also be set with the environment variable in brackets. The command line takes
precedence. `tgi backends` lists the additional options of backends."""


def run(arguments: Sequence[str]) -> int:
    """Serve until the process receives a signal. Returns the exit code. Raises `StartError` if the
    server cannot start.
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(_USAGE + "\n" + options_help())
        return 0
    return start(arguments, process_environment())


def start(arguments: Sequence[str], variables: Mapping[str, str], notes: Sequence[str] = ()) -> int:
    """Serve with these arguments and environment variables. The lines of `notes` are logged first.

    Returns the exit code. Raises `StartError` if the server cannot start.
    """
    from tgi.plugins import BackendRegistry  # noqa: PLC0415 - see the module's docstring

    registry = BackendRegistry()
    parsed = parse_arguments(arguments, variables, registry.names)
    check_options(parsed.options)
    environment = read_environment(variables)
    configure_logging(environment.log_level, parsed.options.json_output)
    for note in notes:
        logging.getLogger("tgi").info(note)
    from tgi.cli.startup import serve  # noqa: PLC0415 - importing the web framework takes a second

    return serve(parsed, environment, variables, registry)
