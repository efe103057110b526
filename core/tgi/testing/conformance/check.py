"""A check, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from tgi.testing.conformance.backend_under_test import BackendUnderTest

__all__ = ["GRADES", "Check", "Grade", "Result"]

Grade = Literal["packaging", "basic", "serving", "robust", "features"]

GRADES: tuple[Grade, ...] = ("packaging", "basic", "serving", "robust", "features")
"""The conformance levels in ascending order.

A backend has a level if it passes all checks of this level and of all lower levels. `features` is
not a level of this order.
"""


@final
@dataclass(frozen=True)
class Check:
    """One requirement on a backend.

    `run` returns, raises `CheckFailedError`, or raises `NotApplicableError` with the reason why the
    requirement does not apply. If `apart` is set, the check changes process-wide state: the limits
    of the process, or the number of its devices. Such a check runs in a separate process if the
    backend is installed.
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
    """The result of a check. `message` is the failure, or the reason why the check does not
    apply.
    """

    check: Check
    status: Literal["passed", "failed", "not applicable"]
    message: str = ""
    seconds: float = 0.0
