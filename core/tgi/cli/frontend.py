"""Prepares the front end, and creates the HTTP application for a started engine."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import final

from starlette.types import ASGIApp

from tgi import __version__
from tgi.architectures import ModelSpec
from tgi.backend import Agreement
from tgi.config import Environment, ServeOptions, num_shard_of
from tgi.engine.client import EngineClient
from tgi.errors import ConfigError, ModelError
from tgi.grammar.constraint import GrammarError
from tgi.models import Model, read_texts
from tgi.plugins import Candidate
from tgi.server.app import create_app
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.metrics import Metrics
from tgi.server.telemetry.otlp import OtlpExporter
from tgi.server.telemetry.tracing import SpanExporter
from tgi.text import ChatTemplate, ChatTemplateRenderer, Tokenizer, TokenizerPool
from tgi.text.grammar_vocabulary import VocabularyReader
from tgi.text.output import OutputFormats

__all__ = ["Frontend"]

_logger = logging.getLogger("tgi")
_IDLE_SECONDS = 1.0  # time between two tests whether a request runs


@final
@dataclass(frozen=True)
class Frontend:
    """The parts of the front end that can be prepared before the engine is ready."""

    options: ServeOptions
    environment: Environment
    model: Model
    tokenizer: Tokenizer
    chat_template: ChatTemplateRenderer | None
    output_formats: OutputFormats
    exporter: SpanExporter | None

    @classmethod
    async def prepare(
        cls,
        options: ServeOptions,
        environment: Environment,
        model: Model,
        parts: AsyncExitStack,
    ) -> Frontend:
        """Read the tokenizer and the chat template, and start the template process and the trace
        exporter. Callbacks that stop the template process and the exporter are added to `parts`.
        """
        tokenizer, chat_template = await asyncio.to_thread(read_texts, options, model)
        output_formats = _output_formats(options, tokenizer, chat_template)
        renderer = await _start_chat_template(chat_template, parts)
        exporter = _start_traces(options, parts)
        return cls(options, environment, model, tokenizer, renderer, output_formats, exporter)

    def application(
        self, chosen: Candidate, agreement: Agreement, engine: EngineClient, parts: AsyncExitStack
    ) -> ASGIApp:
        """Create the HTTP application for a started engine. Raises `ConfigError` if the user's
        limits contradict the negotiated limits, and `ModelError` if the model's first decoder token
        does not exist.
        """
        config = _server_config(self, chosen, agreement)
        _check_start_token(config, agreement)
        for notice in self.tokenizer.notices:
            _logger.warning(notice)
        warning = _unknown_tokens_line(self.tokenizer, agreement)
        if warning is not None:
            _logger.warning(warning)
        metrics = Metrics(config.max_input_tokens, config.max_total_tokens)
        tokenizer = self.tokenizer
        pool = TokenizerPool(tokenizer, self.options.validation_workers, tokenizer.folder)
        parts.callback(pool.close)
        vocabulary = VocabularyReader(self.tokenizer, agreement.vocab_size)
        if _may_have_grammars(self.options, agreement):
            parts.callback(asyncio.create_task(_read_when_idle(vocabulary, engine)).cancel)
        return create_app(
            ServerState(
                config,
                engine,
                pool,
                self.chat_template,
                metrics,
                vocabulary,
                self.exporter,
                self.output_formats,
            )
        )


def _may_have_grammars(options: ServeOptions, agreement: Agreement) -> bool:
    has_masks = agreement.has("mask") or agreement.has("late_mask")
    return has_masks and not options.disable_grammar_support


async def _read_when_idle(vocabulary: VocabularyReader, engine: EngineClient) -> None:
    """Read the vocabulary for grammars while no request runs, because a part of this work delays
    all streams. If a guided request arrives earlier, this request reads the vocabulary.
    """
    while True:
        await asyncio.sleep(_IDLE_SECONDS)
        if not engine.num_unfinished:
            break
    with suppress(GrammarError):  # the first guided request reports the error
        engine.set_vocabulary((await asyncio.to_thread(vocabulary.get)).data)


def _check_start_token(config: ServerConfig, agreement: Agreement) -> None:
    token = config.decoder_start_token_id
    if token is not None and token >= agreement.vocab_size:
        raise ModelError(
            f"`decoder_start_token_id` is {token} in config.json, but the model has"
            f" {agreement.vocab_size} token ids.",
            "Correct the model's config.json.",
        )


def _unknown_tokens_line(tokenizer: Tokenizer, agreement: Agreement) -> str | None:
    """Return a log line about the tokens that have no row in the embedding, or None if every token
    has a row.
    """
    unknown = tokenizer.tokens_from(agreement.vocab_size)
    if not unknown:
        return None
    number, text = unknown[0]
    return (
        f"The tokenizer has token ids that the model does not have: {len(unknown)}, for example"
        f" {number} (`{text}`). The model has {agreement.vocab_size} token ids. A prompt that"
        " contains such a token is rejected. Resize the embedding of the model, or remove the"
        " tokens from tokenizer.json."
    )


def _output_formats(
    options: ServeOptions, tokenizer: Tokenizer, chat_template: ChatTemplate | None
) -> OutputFormats:
    """Choose the formats of tool calls and reasoning from all chat templates of the model, unless
    options name the formats.
    """
    sources = {} if chat_template is None else chat_template.sources
    # The texts are not decoded, because some tokenizers cannot decode a single special token.
    texts = {
        number: tokenizer.backend.id_to_token(number)
        for number in tokenizer.special_ids
        if number >= 0
    }
    special_ids = {text: number for number, text in texts.items() if text is not None}
    return OutputFormats.detect(
        "\n".join(sources.values()),
        special_ids,
        tool_call_parser=options.tool_call_parser,
        reasoning_parser=options.reasoning_parser,
    )


def _start_traces(options: ServeOptions, parts: AsyncExitStack) -> SpanExporter | None:
    if options.otlp_endpoint is None:
        return None
    exporter = OtlpExporter(options.otlp_endpoint, options.otlp_service_name, __version__)
    parts.callback(exporter.close)
    return exporter


async def _start_chat_template(
    chat_template: ChatTemplate | None, parts: AsyncExitStack
) -> ChatTemplateRenderer | None:
    if chat_template is None:
        return None
    renderer = ChatTemplateRenderer(chat_template)
    parts.callback(renderer.close)
    await renderer.start()
    return renderer


def _server_config(frontend: Frontend, chosen: Candidate, agreement: Agreement) -> ServerConfig:
    """Return the settings of the routes. The negotiated limit is used if the user set no limit.
    Raises `ConfigError` if the limits contradict each other.
    """
    options, environment = frontend.options, frontend.environment
    source, spec = frontend.model.source, frontend.model.spec
    max_total_tokens = agreement.limits.max_total_tokens
    max_input_tokens = (
        options.max_input_length if options.max_input_tokens is None else options.max_input_tokens
    )
    if max_input_tokens is None:
        max_input_tokens = max_total_tokens - 1
    if max_input_tokens >= max_total_tokens:
        raise ConfigError(
            f"`max_input_tokens`({max_input_tokens}) must be <"
            f" `max_total_tokens`({max_total_tokens})"
        )
    gamma, delta = options.watermark_gamma, options.watermark_delta
    return ServerConfig(
        model_id=source.model_id,
        model_sha=source.revision,
        model_pipeline_tag=source.pipeline_tag,
        max_input_tokens=max_input_tokens,
        max_total_tokens=max_total_tokens,
        backend_name=chosen.name,
        version=__version__,
        compute_type=environment.compute_type or _compute_type(options, chosen),
        max_concurrent_requests=options.max_concurrent_requests,
        max_concurrent_requests_per_client=options.max_concurrent_requests_per_client,
        max_best_of=options.max_best_of,
        max_stop_sequences=options.max_stop_sequences,
        max_top_n_tokens=options.max_top_n_tokens,
        validation_workers=options.validation_workers,
        max_client_batch_size=options.max_client_batch_size,
        payload_limit=options.payload_limit,
        api_key=options.api_key,
        cors_allow_origin=options.cors_allow_origin,
        enable_prefill_logprobs=options.enable_prefill_logprobs or frontend.model.scores_prompts,
        disable_grammar_support=options.disable_grammar_support,
        docker_label=environment.docker_label,
        aip_predict_route=environment.aip_predict_route,
        aip_health_route=environment.aip_health_route,
        watermark_gamma=ServerConfig.watermark_gamma if gamma is None else gamma,
        watermark_delta=ServerConfig.watermark_delta if delta is None else delta,
        decoder_start_token_id=spec.decoder_start_token_id if isinstance(spec, ModelSpec) else None,
    )


def _compute_type(options: ServeOptions, chosen: Candidate) -> str:
    """Return the number of devices and the name of the first device in TGI's form, for example
    `1-nvidia-l4`.
    """
    devices = () if chosen.probe is None else chosen.probe.devices
    label = devices[0].label if devices else chosen.name
    return f"{num_shard_of(options)}-{'-'.join(label.lower().split())}"
