"""Calls the functions of a plugin and catches their errors, so that these errors do not end the
core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from tgi.backend import BackendError
from tgi.errors import StartError

__all__ = ["call_plugin", "result_or"]

ResultT = TypeVar("ResultT")


def result_or(call: Callable[[], ResultT], explain: Callable[[Exception], ResultT]) -> ResultT:
    """Return the result of `call`. If `call` raises an error, return the result of `explain` for
    this error.

    This is the only function that catches every exception of a plugin.
    """
    try:
        return call()
    except Exception as error:  # the boundary to a plugin: it can raise any exception
        return explain(error)


def call_plugin(backend: str, action: str, call: Callable[[], ResultT]) -> ResultT:
    """Return the result of `call`. If `call` raises a `StartError`, this error is raised unchanged.
    For any other error a `BackendError` with the backend and the action is raised.
    """

    def explain(error: Exception) -> NoReturn:
        if isinstance(error, StartError):
            raise error
        raise BackendError(
            f"The backend `{backend}` failed to {action}: {type(error).__name__}: {error}."
        ) from error

    return result_or(call, explain)
