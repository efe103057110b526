"""A check, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from tgi.testing.conformance.backend_under_test import BackendUnderTest

__all__ = [
    "GRADES",
    "Check",
    "CheckFailedError",
    "Grade",
    "NotApplicableError",
    "Result",
    "not_applicable",
    "require",
]

Grade = Literal["packaging", "basic", "serving", "robust", "features"]

GRADES: tuple[Grade, ...] = ("packaging", "basic", "serving", "robust", "features")
"""The conformance levels in ascending order.

A backend has a level if it passes all checks of this and the lower levels. `features` does not
count.
"""


class CheckFailedError(AssertionError):
    """The backend violates a requirement of the backend interface."""


class NotApplicableError(Exception):
    """The backend did not negotiate the feature or limit that the check is about."""


@final
@dataclass(frozen=True)
class Check:
    """One requirement on a backend.

    `run` returns, raises `CheckFailedError`, or raises `NotApplicableError` with the reason why the
    requirement does not apply. If `apart`, the check changes process-wide state (its limits, or the
    number of its devices). It then runs in a separate process if the backend is installed.
    """

    id: str
    grade: Grade
    title: str
    run: Callable[[BackendUnderTest], None]
    feature: str = ""  # the negotiated feature; empty if every backend must pass the check
    apart: bool = False


@final
@dataclass(frozen=True)
class Result:
    """The result of a check. `message` is the failure, or the reason why it does not apply."""

    check: Check
    status: Literal["passed", "failed", "not applicable"]
    message: str = ""
    seconds: float = 0.0


def require(holds: bool, message: str) -> None:
    """Raise `CheckFailedError` unless `holds`."""
    if not holds:
        raise CheckFailedError(message)


def not_applicable(when: bool, reason: str) -> None:
    """Raise `NotApplicableError` if `when`."""
    if when:
        raise NotApplicableError(reason)
