"""Implements `tgi conformance`, which runs the conformance suite on a backend.

The suite is in a higher layer than the commands, so this module imports the suite by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run the command of the conformance suite. Returns the exit code."""
    command = importlib.import_module("tgi.testing.conformance.command")
    code: int = command.run(arguments)
    return code
