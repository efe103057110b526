"""The interface through which the scheduler uses the constraint of a guided sequence.

The scheduler does not import the package `grammar`. The engine implements this interface with a
matcher of that package.
"""

from __future__ import annotations

from typing import Protocol

from tgi.backend import Int32Array

__all__ = ["TokenConstraint"]


class TokenConstraint(Protocol):
    """The constraint on the output tokens of one sequence.

    Once a constraint is ready, it has accepted exactly the output tokens of its sequence.
    Preemptions and retries do not change the output tokens, so they do not change the constraint.
    """

    @property
    def num_accepted(self) -> int | None:
        """Number of accepted output tokens, or None while the constraint is not ready."""

    @property
    def error(self) -> str:
        """The reason for which the sequence must end with an error, or an empty text."""

    @property
    def is_complete(self) -> bool:
        """Whether the sequence ends now, because its output is complete and the request has no EOS
        token that the model can generate.
        """

    def may_sample(self, *, is_pending: bool) -> bool:
        """Whether the step that is being planned may sample the next token. `is_pending` means that
        a step in flight samples the token before it.

        The result is False if the constraint is not ready, if the time budget of the step for masks
        is used up, or if the sequence is about to end.
        """

    def mask(self) -> Int32Array | None:
        """Return the mask of the next token, int32 [mask width], or None if every token is allowed.
        Each mask is computed once. If no mask can be computed, `error` is set and the result is
        None.
        """

    def accept(self, token_id: int) -> None:
        """Append an output token. If the token is not allowed, `error` is set."""

    def close(self) -> None:
        """Release the constraint, because its sequence has ended."""
