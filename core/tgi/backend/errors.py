"""The errors a backend raises: part of the seam, so that a plugin imports nothing else of the core.

A failure has one of four sizes: a row (`RowError` in the output), a step (`StepError`), the engine
process (any other exception), and repeated crashes, which the supervisor sees.
"""

from __future__ import annotations

from tgi.errors import BackendError, ModelError, TgiError

__all__ = ["BackendError", "ModelError", "StepError", "WrongStateError"]


class StepError(TgiError):
    """A step failed as a whole. `retryable` says that the worker is intact and the same work may be
    tried again.

    Its drops and its new sequences count as done, also where `submit` raised; only its rows do not.
    The core drops their sequences and introduces them again. Steps that are in flight behind it may
    have rows of these sequences: such rows have no effect, and must not fail other rows.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class WrongStateError(TgiError):
    """A worker method was called outside its state."""
