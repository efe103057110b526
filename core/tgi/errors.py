"""The error tree. Each request error defines the HTTP status and `error_type` of its response.

TgiError
├── StartError               the server cannot start; exit code 1
│   ├── ConfigError          an option is invalid
│   ├── ModelError           the checkpoint, its config or its tokenizer is unusable
│   └── BackendError         a backend is missing, broken, or cannot run this model here
└── RequestError             one request fails; the server continues
    ├── ValidationError      422 `validation`
    ├── TemplateError        422 `template_error`
    ├── OverloadedError      429 `overloaded`
    ├── GenerationError      424 `generation`
    ├── IncompleteGenerationError   500 `incomplete_generation`
    └── UnhealthyError       503 `healthcheck`

The statuses and types are those of TGI 3 (`router/src/server.rs`, `router/src/infer/mod.rs`).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendError",
    "ConfigError",
    "GenerationError",
    "IncompleteGenerationError",
    "ModelError",
    "OverloadedError",
    "RequestError",
    "StartError",
    "TemplateError",
    "TgiError",
    "UnhealthyError",
    "ValidationError",
]


class TgiError(Exception):
    """Base class of all errors of this project."""


class StartError(TgiError):
    """The server cannot start.

    `cause` describes the problem and `remedy` the action that solves it. Both are printed on one
    line without a traceback.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy


class ConfigError(StartError):
    """An option has an invalid value, or two options contradict each other."""


class ModelError(StartError):
    """The checkpoint, its config or its tokenizer cannot be used."""


class BackendError(StartError):
    """A backend is missing, broken, or cannot run this model on this machine."""


class RequestError(TgiError):
    """One request fails. The response contains `prefix` followed by the message."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "generation"
    prefix: ClassVar[str] = ""
    # Value of the response header `Retry-After` in seconds. None if the header is omitted.
    retry_after: ClassVar[int | None] = None

    @property
    def text(self) -> str:
        """The error message in the response."""
        return f"{self.prefix}{self}"


class ValidationError(RequestError):
    """The request violates a validation rule (`tgi.server.generation.validation`)."""

    status = 422
    error_type = "validation"
    prefix = "Input validation error: "


class TemplateError(RequestError):
    """The model has no chat template, or the template rejects the messages."""

    status = 422
    error_type = "template_error"
    prefix = "Template error: "


class OverloadedError(RequestError):
    """No concurrency slot is free."""

    status = 429
    error_type = "overloaded"
    retry_after = 1

    def __init__(self, message: str = "Model is overloaded") -> None:
        super().__init__(message)


class GenerationError(RequestError):
    """The backend reported an error while it ran this request."""

    status = 424
    error_type = "generation"
    prefix = "Request failed during generation: "


class IncompleteGenerationError(RequestError):
    """The token stream ended without a finish reason."""

    status = 500
    error_type = "incomplete_generation"

    def __init__(self, message: str = "Incomplete generation") -> None:
        super().__init__(message)


class UnhealthyError(RequestError):
    """The engine cannot accept requests."""

    status = 503
    error_type = "healthcheck"
    retry_after = 5  # A crashed engine process may have been restarted by then.

    def __init__(self, message: str = "unhealthy") -> None:
        super().__init__(message)
