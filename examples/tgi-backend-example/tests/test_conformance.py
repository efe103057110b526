"""Run the conformance suite on this backend: `pytest`."""

from tgi.testing.conformance.suite import test_conformance

__all__ = ["test_conformance"]
