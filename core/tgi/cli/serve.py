"""`tgi serve`: read and check the options, then start. Nothing heavy is imported before they are
right.
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

Serve MODEL, a local folder or a hub id, over HTTP. Without one the demo model is served. The
variable beside an option sets it too; the command line beats it. Backends have options of their
own: `tgi backends`."""


def run(arguments: Sequence[str]) -> int:
    """Serve until a signal comes. Returns the exit code; raises `StartError` if the server cannot
    start.
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(_USAGE + "\n" + options_help())
        return 0
    return start(arguments, process_environment())


def start(arguments: Sequence[str], variables: Mapping[str, str], notes: Sequence[str] = ()) -> int:
    """Serve with these arguments and variables; `notes` are logged first. Otherwise as `run`."""
    from tgi.plugins import (  # noqa: PLC0415
        BackendRegistry,
    )

    registry = BackendRegistry()
    parsed = parse_arguments(arguments, variables, registry.names)
    check_options(parsed.options)
    environment = read_environment(variables)
    configure_logging(environment.log_level, parsed.options.json_output)
    for note in notes:
        logging.getLogger("tgi").info(note)
    from tgi.cli.startup import serve  # noqa: PLC0415 - the web framework takes a second to import

    return serve(parsed, environment, variables, registry)
