"""Find and select the backends of the installed packages."""

from tgi.plugins.registry import AUTO, BackendRegistry, Candidate, Selection

__all__ = ["AUTO", "BackendRegistry", "Candidate", "Selection"]
