"""The conformance suite: checks of the requirements on a backend.

Use `tgi conformance NAME`, `pytest --tgi-backend NAME`, or from code
`run_checks(find_backend_under_test(name, folder))`.
"""

from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import GRADES, Check, Result
from tgi.testing.conformance.in_process import ALL_CHECKS, find_backend_under_test
from tgi.testing.conformance.run import run_check, run_checks
from tgi.testing.conformance.scorecard import Scorecard, ScorecardRecord

__all__ = [
    "ALL_CHECKS",
    "GRADES",
    "BackendUnderTest",
    "Check",
    "Result",
    "Scorecard",
    "ScorecardRecord",
    "find_backend_under_test",
    "run_check",
    "run_checks",
]
