"""The error tree. Each error knows the HTTP status and the `error_type` it is rendered with.

TgiError
├── StartError               the server cannot start: one line with cause and remedy, exit code 1
│   ├── ConfigError          an option is wrong
│   ├── ModelError           the checkpoint, its config or its tokenizer is unusable
│   └── BackendError         a backend is missing, broken, or cannot run this model here
└── RequestError             one request fails; the server goes on
    ├── ValidationError      422 `validation`
    ├── TemplateError        422 `template_error`
    ├── OverloadedError      429 `overloaded`
    ├── GenerationError      424 `generation`
    ├── IncompleteGenerationError   500 `incomplete_generation`
    └── UnhealthyError       503 `healthcheck`

Source of statuses and types: TGI 3 `router/src/server.rs`, `router/src/infer/mod.rs`.
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
    """Root of every error this project raises on purpose."""


class StartError(TgiError):
    """The server cannot start.

    `cause` says what is wrong, `remedy` what to do; both are shown on one line, without a
    traceback.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy


class ConfigError(StartError):
    """An option has a wrong value, or two options contradict each other."""


class ModelError(StartError):
    """The checkpoint, its config or its tokenizer cannot be used."""


class BackendError(StartError):
    """A backend is missing, broken, or cannot run this model on this machine."""


class RequestError(TgiError):
    """One request fails. The rendered text is `prefix` + the message."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "generation"
    prefix: ClassVar[str] = ""
    retry_after: ClassVar[int | None] = (
        None  # s until the same request may succeed, told as `Retry-After`; None = never
    )

    @property
    def text(self) -> str:
        """The text shown to the client."""
        return f"{self.prefix}{self}"


class ValidationError(RequestError):
    """The request breaks a rule of `tgi.server.generation.validation`."""

    status = 422
    error_type = "validation"
    prefix = "Input validation error: "


class TemplateError(RequestError):
    """The chat template is missing or refuses the messages."""

    status = 422
    error_type = "template_error"
    prefix = "Template error: "


class OverloadedError(RequestError):
    """No permit is left."""

    status = 429
    error_type = "overloaded"
    retry_after = 1

    def __init__(self, message: str = "Model is overloaded") -> None:
        super().__init__(message)


class GenerationError(RequestError):
    """The backend failed while it worked on this request."""

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
    """The engine is not able to serve."""

    status = 503
    error_type = "healthcheck"
    retry_after = 5  # an engine that died is being started again

    def __init__(self, message: str = "unhealthy") -> None:
        super().__init__(message)
