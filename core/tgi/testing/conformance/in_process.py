"""Lists all checks, finds the backend under test by name, and runs one check in this process."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tgi.backend import BackendInfo
from tgi.errors import BackendError
from tgi.plugins import BackendRegistry
from tgi.plugins.hookspecs import ENTRY_POINT_GROUP
from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import GRADES, Check, Result
from tgi.testing.conformance.checks import (
    adapters,
    borders,
    endurance,
    features,
    lifecycle,
    log_probabilities,
    masks,
    memory,
    numerics,
    packaging,
    prefix,
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
    borders,
    endurance,
)
_MOST_FRAMES = 20
_FEATURE_MODULES = (adapters, several_tokens, steps_in_flight, prefix, features)

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

    Raises `BackendError` if there is no such backend, if the backend cannot be used on this
    machine, or if it has no such options.
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
    _check_options(candidate.backend.info, options or {})
    point = next(iter(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)))
    return BackendUnderTest(name, candidate.backend, folder, entry_point=point, options=options)


def _check_options(info: BackendInfo, options: dict[str, str]) -> None:
    """Raise `BackendError` if an option is unknown or has a value that the backend does not
    declare.
    """
    known = {option.name: option for option in info.options}
    for name, value in options.items():
        if name not in known:
            raise BackendError(
                f"The backend `{info.name}` has no option `{name}`. Its options are:"
                f" {', '.join(sorted(known)) or 'none'}.",
                "Remove the option or correct its name.",
            )
        choices = known[name].choices
        if choices and value not in choices:
            raise BackendError(
                f"The option `{name}` of the backend `{info.name}` cannot be `{value}`. Its values"
                f" are: {', '.join(choices)}.",
                "Choose one of them.",
            )


def run_check_here(check: Check, under_test: BackendUnderTest) -> Result:
    """Run one check in this process."""
    began = time.monotonic()
    try:
        check.run(under_test)
    except NotApplicableError as reason:
        return Result(check, "not applicable", str(reason), time.monotonic() - began)
    except BrokenRuleError:
        raise  # an error of the suite, not of the backend
    except CheckFailedError as error:
        message = str(error)
    except Exception as error:  # the boundary to a backend, whose errors are results
        message = _with_traceback(error)
    else:
        return Result(check, "passed", "", time.monotonic() - began)
    under_test.discard()
    return Result(check, "failed", message, time.monotonic() - began)


def _with_traceback(error: Exception) -> str:
    """Return the error, and where it was raised. The frames of this module are left out."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    kept = frames if len(frames) <= _MOST_FRAMES else frames[-_MOST_FRAMES:]
    where = "".join(traceback.format_list(kept))
    return f"{type(error).__name__}: {error}\n{where}".rstrip()
