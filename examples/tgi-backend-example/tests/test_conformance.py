"""Run the conformance suite on this backend: `pytest --tgi-backend example`."""

from tgi.testing.conformance.suite import test_conformance

__all__ = ["test_conformance"]
