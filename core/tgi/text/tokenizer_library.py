"""Calls the tokenizers library and turns its failures into this project's errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tgi.errors import TgiError

__all__ = ["call_library"]

_MAX_REASON = 200  # maximum number of characters of an error message of the library

ResultT = TypeVar("ResultT")


def call_library(to_error: Callable[[str], TgiError], function: Callable[[], ResultT]) -> ResultT:
    """Return the result of `function`. If the library fails, raise the result of `to_error`, which
    is called with the reason.
    """
    try:
        return function()
    except (TgiError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # The native library raises plain `Exception` objects. If its code panics, it raises an
    # exception that is derived only from `BaseException`.
    except BaseException as error:
        raise to_error(" ".join(str(error).split())[:_MAX_REASON]) from error
