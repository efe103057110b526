"""The settings and components that all routes of one server use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final

from tgi.backend import Agreement
from tgi.engine.messages import EngineStats
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.scheduler import Request
from tgi.server.telemetry.metrics import Metrics
from tgi.server.telemetry.tracing import SpanExporter
from tgi.text import ChatTemplateRenderer, TokenizerPool
from tgi.text.output.formats import OutputFormats

if TYPE_CHECKING:
    from tgi.grammar.vocabulary_data import VocabularyData
    from tgi.text.grammar_vocabulary import VocabularyReader

__all__ = ["Engine", "ServerConfig", "ServerState"]


@final
@dataclass(frozen=True)
class ServerConfig:
    """Settings and limits of one server. Lengths are in tokens. The names are those of TGI's
    options and of `GET /info`.
    """

    model_id: str
    max_input_tokens: int
    max_total_tokens: int
    backend_name: str
    version: str
    compute_type: str
    model_sha: str | None = None
    model_pipeline_tag: str | None = None
    max_concurrent_requests: int = 128
    max_concurrent_requests_per_client: int | None = None
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    validation_workers: int = 2
    max_client_batch_size: int = 4
    payload_limit: int = 2_000_000  # bytes
    api_key: str | None = None
    cors_allow_origin: tuple[str, ...] = ()
    enable_prefill_logprobs: bool = False
    disable_grammar_support: bool = False
    watermark_gamma: float = 0.5
    watermark_delta: float = 2.0
    sha: str | None = None  # commit of the source code
    docker_label: str | None = None
    # First token of the decoder, if the model is an encoder-decoder model.
    decoder_start_token_id: int | None = None
    aip_predict_route: str | None = None  # additional path of `/vertex`, set by Vertex AI
    aip_health_route: str | None = None  # additional path of `/health`, set by Vertex AI

    @property
    def returns_full_text(self) -> bool:
        """Default of `return_full_text` on `POST /`: True if the pipeline of the model is text
        generation or unknown.
        """
        return self.model_pipeline_tag in (None, "text-generation")

    @property
    def system_fingerprint(self) -> str:
        """Version and build of the server, for the responses of the OpenAI routes."""
        return f"{self.version}-{self.docker_label or 'native'}"


class Engine(Protocol):
    """The part of the engine's client that the routes and generations use."""

    @property
    def agreement(self) -> Agreement:
        """The limits and features negotiated with the backend."""

    @property
    def is_healthy(self) -> bool:
        """Whether an engine process is ready and was active recently."""

    def submit(self, request: Request, outputs: OutputQueue) -> SequenceStream:
        """Queue a sequence. Its outputs are added to `outputs`. Raises `UnhealthyError` if the
        engine crashes repeatedly or the server ends.
        """

    def set_vocabulary(self, data: VocabularyData) -> None:
        """Set the vocabulary, before the first sequence with guidance is submitted. The method may
        be called several times with the same vocabulary.
        """

    def add_stats_listener(self, listener: Callable[[EngineStats], None]) -> None:
        """Register a function that is called with the statistics of every step."""


@final
@dataclass(frozen=True)
class ServerState:
    """The components that the routes use."""

    config: ServerConfig
    engine: Engine
    tokenizer: TokenizerPool
    chat_template: ChatTemplateRenderer | None
    metrics: Metrics
    vocabulary: VocabularyReader  # for grammars
    span_exporter: SpanExporter | None = None  # None disables traces
    # The formats of reasoning and tool calls in the output of the model.
    output_formats: OutputFormats = field(default_factory=OutputFormats)
