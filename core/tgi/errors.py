"""The tree of all errors that this project raises on purpose. A repository test compares the tree
with the code.

TgiError
├── StartError                      the server cannot start; one line, exit code 1
│   ├── ConfigError                 an option is wrong
│   │   └── UsageError              the command line cannot be parsed; exit code 2
│   ├── ModelError                  the checkpoint, its config or its tokenizer cannot be used
│   └── BackendError                a backend is missing, broken, or cannot run this model here
├── RequestError                    one request fails; the server continues
│   ├── ValidationError             422 `validation`
│   ├── ContextLengthError          400 `validation`
│   ├── TemplateError               422 `template_error`
│   ├── ToolError                   422 `tool_error`
│   ├── OverloadedError             429 `overloaded`
│   ├── GenerationError             424 `generation`
│   ├── IncompleteGenerationError   500 `incomplete_generation`
│   ├── UnhealthyError              503 `healthcheck`
│   ├── SuffixError                 422 `suffix not supported`
│   ├── BatchSizeError              422 `batch size exceeded`
│   ├── StatelessError              400 `invalid_request_error`
│   ├── ModelNotFoundError          404 `model_not_found`
│   ├── InternalError               500 `internal`
│   ├── EmptyInstancesError         422 `Input validation error`
│   ├── LengthMismatchError         422 `length mismatch`
│   └── Utf8Error                   422 `utf8`
├── RejectionError                  a body cannot be read as a request
├── RouteError                      the key, the method or the path of a request is wrong
├── DisconnectError                 the client disconnected before the response was complete
├── GrammarError                    a grammar is invalid, too large, or not supported
├── StepError                       a step of the worker failed as a whole
└── WrongStateError                 a worker method was called in the wrong state

The errors that several parts raise are in this module. The others are beside the code that raises
them. `status` and `error_type` of a `RequestError` are part of the response. Their source is TGI 3,
`router/src/server.rs` and `router/src/infer/mod.rs`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendError",
    "ConfigError",
    "ContextLengthError",
    "GenerationError",
    "IncompleteGenerationError",
    "ModelError",
    "OverloadedError",
    "RequestError",
    "StartError",
    "TemplateError",
    "TgiError",
    "ToolError",
    "UnhealthyError",
    "ValidationError",
]


class TgiError(Exception):
    """The root of the error tree."""


class StartError(TgiError):
    """The server cannot start.

    `cause` states the problem, and `remedy` states what the user can do. Both texts are printed on
    one line, without a traceback.
    Some causes are texts of TGI without a full stop. If a remedy follows, a full stop is added.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        is_open = bool(remedy) and not cause.endswith((".", "!", "?", ":"))
        super().__init__(f"{cause}{'.' * is_open} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy


class ConfigError(StartError):
    """An option has an invalid value, or two options contradict each other."""


class ModelError(StartError):
    """The checkpoint, its config or its tokenizer cannot be used."""


class BackendError(StartError):
    """A backend is missing, broken, or cannot run this model on this machine."""


class RequestError(TgiError):
    """One request fails. The text in the response is `prefix` followed by the message."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "generation"
    prefix: ClassVar[str] = ""
    code: ClassVar[str | None] = None  # OpenAI's code for the error
    # Seconds until the same request may succeed, sent as `Retry-After`. None: no such header.
    retry_after: int | None = None

    @property
    def text(self) -> str:
        """The text in the response."""
        return f"{self.prefix}{self}"


class ValidationError(RequestError):
    """The request violates a rule of `tgi.server.generation.validation`."""

    status = 422
    error_type = "validation"
    prefix = "Input validation error: "


class ContextLengthError(RequestError):
    """The prompt, or the prompt and the requested output, exceed the context length. TGI's own
    routes raise `ValidationError` instead.
    """

    status = 400
    error_type = "validation"
    code = "context_length_exceeded"


class TemplateError(RequestError):
    """The chat template is missing or rejects the messages."""

    status = 422
    error_type = "template_error"
    prefix = "Template error: "


class ToolError(RequestError):
    """The tools of a request are invalid or cannot be used."""

    status = 422
    error_type = "tool_error"
    prefix = "Tool error: "


class OverloadedError(RequestError):
    """All concurrency slots are in use."""

    status = 429
    error_type = "overloaded"
    code = "rate_limit_exceeded"
    retry_after = 1

    def __init__(self, message: str = "Model is overloaded") -> None:
        super().__init__(message)


class GenerationError(RequestError):
    """The backend failed during this request."""

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
    """The engine cannot process requests."""

    status = 503
    error_type = "healthcheck"

    def __init__(self, message: str = "unhealthy", retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # a crashed engine is being restarted
