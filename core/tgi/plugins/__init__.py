"""Finds the backends of the installed packages and selects one of them."""

from tgi.plugins.registry import AUTO, BackendRegistry, Candidate, Selection

__all__ = ["AUTO", "BackendRegistry", "Candidate", "Selection"]
