"""The errors that a backend raises. They are part of the backend interface, so a plugin needs no
other package of the core to raise them.

A failure has one of four sizes: a row (`RowError` in the output), a step (`StepError`), the engine
process (any other exception), and repeated crashes, which the engine client detects.
"""

from __future__ import annotations

from tgi.errors import BackendError, ModelError, TgiError

__all__ = ["BackendError", "ModelError", "StepError", "WrongStateError"]


class StepError(TgiError):
    """A step failed as a whole. `retryable` means that the worker is intact and the same work may
    be tried again.

    Also if `submit` raises the error, the worker has processed the step's drops and new sequences,
    but not its rows. The core drops the sequences of the rows and introduces them again. Later
    steps in flight may have rows of these sequences. Such rows have no effect, and they must not
    cause other rows to fail.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class WrongStateError(TgiError):
    """A worker method was called in a state that does not allow it."""
