"""`tgi conformance`: hold a backend against the seam. The kit stands above the commands and is
found by its name.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run the kit's command."""
    command = importlib.import_module("tgi.testing.conformance.command")
    code: int = command.run(arguments)
    return code
