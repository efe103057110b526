"""Where a model comes from: its files on this machine or on the hub, its description, the backend
that runs it.
"""

from tgi.models.hub import ModelFiles, find_model
from tgi.models.inspection import BackendStatus, ModelCard, inspect_model

__all__ = ["BackendStatus", "ModelCard", "ModelFiles", "find_model", "inspect_model"]
