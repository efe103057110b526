"""Implements `tgi version`, which prints the versions of the installed packages. It imports no
backend.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from tgi import __version__
from tgi.config import UsageError

__all__ = ["run"]

_HELP = """Usage: tgi version

Print the versions of tgi, of each package with a backend, and of Python."""


def run(arguments: Sequence[str]) -> int:
    """Print a line for tgi, each package with a backend, and Python. Returns the exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    if arguments:
        raise UsageError(
            f"error: unexpected argument '{arguments[0]}' found.",
            "`tgi version` takes no arguments.",
        )
    print(f"tgi {__version__}")
    points = metadata.entry_points(group="tgi.backends")
    packages = {(point.dist.name, point.dist.version) for point in points if point.dist is not None}
    for name, version in sorted(packages - {("tgi", __version__)}):
        print(f"{name} {version}")
    print(f"python {platform.python_version()}")
    return 0
