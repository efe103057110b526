"""The specifications of all plugin hooks. A hook is called once at startup and returns an object.
No hook is called per request or per step.
"""

from __future__ import annotations

import pluggy

from tgi.backend import Backend

__all__ = ["ENTRY_POINT_GROUP", "PROJECT", "tgi_backend"]

PROJECT = "tgi"
ENTRY_POINT_GROUP = "tgi.backends"

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def tgi_backend() -> Backend:  # type: ignore[empty-body]
    """Return the backend of this plugin. The hook must not import a framework."""
