"""Lists all checks, finds the backend under test by name, and runs one check in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tgi.errors import BackendError, TgiError
from tgi.plugins import BackendRegistry
from tgi.plugins.hookspecs import ENTRY_POINT_GROUP
from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import GRADES, Check, Result
from tgi.testing.conformance.checks import (
    adapters,
    features,
    lifecycle,
    log_probabilities,
    masks,
    memory,
    numerics,
    packaging,
    quantization,
    robust,
    sampling,
    several_tokens,
    sharding,
    steps,
    steps_in_flight,
    supervision,
)
from tgi.testing.conformance.require import CheckFailedError, NotApplicableError
from tgi.testing.step_limits import BrokenRuleError

__all__ = ["ALL_CHECKS", "find_backend_under_test", "run_check_here"]

_MODULES = (
    packaging,
    lifecycle,
    memory,
    steps,
    numerics,
    quantization,
    sharding,
    sampling,
    log_probabilities,
    masks,
    robust,
    supervision,
)
_FEATURE_MODULES = (adapters, several_tokens, steps_in_flight, features)

ALL_CHECKS: Sequence[Check] = tuple(
    sorted(
        (check for module in _MODULES + _FEATURE_MODULES for check in module.CHECKS),
        key=lambda check: (GRADES.index(check.grade), int(check.id[2:4]), check.id),
    )
)
"""All checks, ordered by conformance level and number."""


def find_backend_under_test(
    name: str, folder: Path, options: dict[str, str] | None = None
) -> BackendUnderTest:
    """Find the installed backend with this name.

    Raises `BackendError` if there is no such backend, or if the backend cannot be used on this
    machine.
    """
    registry = BackendRegistry()
    if name not in registry.names:
        raise BackendError(
            f"The backend `{name}` is not installed. Installed: {', '.join(registry.names)}.",
            "Install it.",
        )
    candidate = registry.candidate(name)
    if candidate.backend is None or not candidate.usable:
        raise BackendError(f"The backend `{name}` cannot be used: {candidate.problem}.")
    point = next(iter(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)))
    return BackendUnderTest(name, candidate.backend, folder, entry_point=point, options=options)


def run_check_here(check: Check, under_test: BackendUnderTest) -> Result:
    """Run one check in this process."""
    began = time.monotonic()
    try:
        check.run(under_test)
    except NotApplicableError as reason:
        return Result(check, "not applicable", str(reason), time.monotonic() - began)
    except BrokenRuleError:
        raise  # an error of the suite, not of the backend
    except (CheckFailedError, TgiError) as error:
        message = str(error)
    except Exception as error:  # the boundary to a backend, whose errors are results
        message = f"{type(error).__name__}: {error}"
    else:
        return Result(check, "passed", "", time.monotonic() - began)
    under_test.discard()
    return Result(check, "failed", message, time.monotonic() - began)
