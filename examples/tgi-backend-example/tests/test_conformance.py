"""The kit holds the backend against the seam: `pytest --tgi-backend example`."""

from tgi.testing.conformance.suite import test_conformance

__all__ = ["test_conformance"]
