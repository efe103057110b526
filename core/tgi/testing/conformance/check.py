"""What a check is, and how it ends."""

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
"""In rising order. A backend has a grade if it passes all its checks and those of the grades below;
features stand apart.
"""


class CheckFailedError(AssertionError):
    """The backend does not do what the seam asks."""


class NotApplicableError(Exception):
    """The backend did not agree to what this check is about."""


@final
@dataclass(frozen=True)
class Check:
    """One question to a backend. `run` returns, raises `CheckFailedError`, or says by
    `NotApplicableError` why it cannot ask.

    One that is asked `apart` changes what a process can change only once (its limits, the number of
    its devices): an installed backend is asked in a process of its own.
    """

    id: str
    grade: Grade
    title: str
    run: Callable[[BackendUnderTest], None]
    feature: str = (
        ""  # the agreed feature it is about; empty = required of every backend it applies to
    )
    apart: bool = False


@final
@dataclass(frozen=True)
class Result:
    """How a check ended. `message` says what failed, or why it does not apply."""

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
