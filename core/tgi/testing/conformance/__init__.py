"""The conformance kit: what a backend must do, as checks that anyone can run.

`tgi conformance NAME`, or `pytest --tgi-backend NAME`, or from code: `run_checks(find_subject(name, folder))`.
"""

from tgi.testing.conformance.check import GRADES, Check, Result
from tgi.testing.conformance.run import ALL_CHECKS, find_subject, run_check, run_checks
from tgi.testing.conformance.scorecard import Scorecard, ScorecardRecord
from tgi.testing.conformance.subject import Subject

__all__ = [
    "ALL_CHECKS",
    "GRADES",
    "Check",
    "Result",
    "Scorecard",
    "ScorecardRecord",
    "Subject",
    "find_subject",
    "run_check",
    "run_checks",
]
