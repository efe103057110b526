"""Every hook. A hook returns an object once, at start; the hot path calls methods on that
object.
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
    """Return the backend of this plugin. Import no framework on the way."""
