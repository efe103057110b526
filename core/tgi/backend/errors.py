"""The errors that a backend raises. They are part of the backend interface, so that a plugin can
import them from `tgi.backend`.

A failure can concern a row (`RowError` in the output), a step (`StepError`) or the engine process
(any other exception). The engine client detects repeated crashes of the engine process.
"""

from __future__ import annotations

from tgi.errors import BackendError, ModelError, TgiError

__all__ = ["BackendError", "ModelError", "StepError", "WrongStateError"]


class StepError(TgiError):
    """A step failed as a whole. If `retryable` is set, the core may schedule the same work again.

    The worker has processed the dropped and new sequences of the step, but not its rows. This also
    holds if `submit` raises the error. The core drops the sequences of the rows and introduces them
    again. Later steps in flight may have rows of these sequences. These rows have no effect, and
    they must not cause other rows to fail.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class WrongStateError(TgiError):
    """A worker method was called in a state that does not allow it."""
