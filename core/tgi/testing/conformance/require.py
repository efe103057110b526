"""Functions that end a check early, because it fails or does not apply."""

from __future__ import annotations

__all__ = ["CheckFailedError", "NotApplicableError", "not_applicable", "require"]


class CheckFailedError(AssertionError):
    """The backend violates a requirement of the backend interface."""


class NotApplicableError(Exception):
    """The backend did not negotiate the feature or the limit that the check tests."""


def require(holds: bool, message: str) -> None:
    """Raise `CheckFailedError` if `holds` is False."""
    if not holds:
        raise CheckFailedError(message)


def not_applicable(when: bool, reason: str) -> None:
    """Raise `NotApplicableError` if `when` is True."""
    if when:
        raise NotApplicableError(reason)
