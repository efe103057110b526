"""Calls into a plugin, whose faults must not end the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tgi.backend import BackendError
from tgi.errors import StartError

__all__ = ["call_plugin"]

ResultT = TypeVar("ResultT")


def call_plugin(backend: str, action: str, call: Callable[[], ResultT]) -> ResultT:
    """The result of `call`. A `StartError` passes unchanged; every other exception becomes a
    `BackendError` that names the backend and the action.
    """
    try:
        return call()
    except StartError:
        raise
    except Exception as error:  # the boundary to a plugin
        raise BackendError(
            f"The backend `{backend}` failed to {action}: {type(error).__name__}: {error}."
        ) from error
