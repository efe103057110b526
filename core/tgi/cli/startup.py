"""A start and the serving after it: options → model → tokenizer → backend → engine → HTTP. The port opens last."""

from __future__ import annotations

import asyncio
import gc
import logging
import platform
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

import uvloop

from tgi import __version__
from tgi.architectures import GenericSpec, ModelSpec, load_spec
from tgi.backend import Agreement, Wish
from tgi.cli.backend_choice import select_backend
from tgi.cli.http_server import HttpServer, bind
from tgi.cli.model_files import ModelFiles, find_model
from tgi.cli.start_display import StartDisplay, memory_lines
from tgi.config import (
    Environment,
    ParsedArguments,
    ServeOptions,
    bind_address,
    notes_on_options,
    num_shard_of,
)
from tgi.engine.client import EngineClient
from tgi.engine.messages import Start
from tgi.errors import ConfigError
from tgi.plugins import BackendRegistry, Candidate
from tgi.scheduler.records import SchedulerConfig
from tgi.server.app import create_app
from tgi.server.metrics import Metrics
from tgi.server.otlp import OtlpExporter
from tgi.server.state import ServerConfig, ServerState
from tgi.server.tracing import SpanExporter
from tgi.text import ChatTemplate, ChatTemplateRenderer, Tokenizer, TokenizerPool

__all__ = ["serve"]

_logger = logging.getLogger("tgi")


def serve(parsed: ParsedArguments, environment: Environment, variables: Mapping[str, str], registry: BackendRegistry) -> int:
    """Start and serve until a signal comes. Returns the exit code; raises `StartError` if the server cannot start."""
    context = _Context(parsed.options, parsed, environment, variables, registry, StartDisplay())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(context))


@final
@dataclass(frozen=True)
class _Context:
    """What the user said and what is installed."""

    options: ServeOptions
    parsed: ParsedArguments
    environment: Environment
    variables: Mapping[str, str]
    registry: BackendRegistry
    display: StartDisplay


async def _serve(context: _Context) -> int:
    options, display = context.options, context.display
    server = HttpServer(options.graceful_termination_timeout)
    address, note = bind_address(options)
    if note:
        display.log(note)
    async with AsyncExitStack() as parts:
        parts.callback(display.close)
        port = context.environment.aip_http_port
        with bind(address, options.port if port is None else port) as listening:
            starting = asyncio.ensure_future(_start(context, parts))
            server.watch_signals(starting)
            try:
                state = await starting
            except asyncio.CancelledError:
                if not server.is_stopping:
                    raise
                display.log("Stopped while starting.")
                return 0
            app = create_app(state)
            # What exists now lives as long as the process: the collector need not walk it again and again.
            gc.collect()
            gc.freeze()
            display.ready(f"http://{address}:{listening.getsockname()[1]}")
            await server.serve(app, [listening])
            _logger.info("Shutting down")
    return 0


async def _start(context: _Context, parts: AsyncExitStack) -> ServerState:
    """Everything up to the open port. What has to be closed is added to `parts`."""
    options, display = context.options, context.display
    for note in notes_on_options(options):
        display.log(note)
    if options.env:
        _log_machine(context)
    exporter = _start_traces(options, parts)
    model = await asyncio.to_thread(_read_model, context)
    chat_template = await _start_chat_template(model, parts)
    display.phase("backend", options.backend)
    config, selection = select_backend(
        model.spec, model.files.path, context.parsed, context.environment, context.variables, registry=context.registry
    )
    for candidate in selection.candidates:
        display.log(f"  {candidate.name}: {candidate.verdict}")
    start = Start(config, _wish(options, model.spec), _scheduler_config(options, context.environment))
    engine = EngineClient(start, display.progress)
    parts.push_async_callback(engine.close)
    agreement = await engine.start()
    server_config = _server_config(context, model, selection.chosen, agreement)
    for line in memory_lines(agreement):
        display.log(line)
    metrics = Metrics(server_config.max_input_tokens, server_config.max_total_tokens)
    pool = TokenizerPool(model.tokenizer, options.validation_workers)
    parts.callback(pool.close)
    return ServerState(server_config, engine, pool, chat_template, metrics, exporter)


@final
@dataclass(frozen=True)
class _LoadedModel:
    """What the front itself needs of a model."""

    files: ModelFiles
    spec: ModelSpec | GenericSpec
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None


def _read_model(context: _Context) -> _LoadedModel:
    options, display = context.options, context.display
    display.phase("model", options.model_id or "demo")
    files = find_model(options, context.environment, display.log)
    spec = load_spec(files.path, rope_scaling=options.rope_scaling, rope_factor=options.rope_factor)
    _check_trust(options, files, spec)
    display.phase("tokenizer", str(files.path))
    template_file = None if options.tokenizer_config_path is None else Path(options.tokenizer_config_path)
    return _LoadedModel(files, spec, Tokenizer.load(files.path), ChatTemplate.load(files.path, template_file))


def _check_trust(options: ServeOptions, files: ModelFiles, spec: ModelSpec | GenericSpec) -> None:
    """Code that comes with a model may run only if nobody can exchange it. Raises `ConfigError`."""
    runs_code = options.trust_remote_code and isinstance(spec, GenericSpec) and bool(spec.config.get("auto_map"))
    if runs_code and not files.is_pinned:
        raise ConfigError(
            f"`--trust-remote-code` would run the code of `{files.model_id}`, so `--revision` must be a commit of 40 digits."
            f" Given: {options.revision or 'none'}.",
            f"Read the code, then add `--revision {files.revision or '<commit>'}`.",
        )


def _start_traces(options: ServeOptions, parts: AsyncExitStack) -> SpanExporter | None:
    if options.otlp_endpoint is None:
        return None
    exporter = OtlpExporter(options.otlp_endpoint, options.otlp_service_name, __version__)
    parts.callback(exporter.close)
    return exporter


async def _start_chat_template(model: _LoadedModel, parts: AsyncExitStack) -> ChatTemplateRenderer | None:
    if model.chat_template is None:
        return None
    renderer = ChatTemplateRenderer(model.chat_template)
    parts.callback(renderer.close)
    await renderer.start()
    return renderer


def _wish(options: ServeOptions, spec: ModelSpec | GenericSpec) -> Wish:
    features = ["prefix_cache", "mask", "device_token", "logprobs"]
    if options.enable_prefill_logprobs:
        features.append("prompt_logprobs")
    return Wish(
        max_input_tokens=_max_input_tokens(options),
        max_total_tokens=options.max_total_tokens,
        max_batch_prefill_tokens=options.max_batch_prefill_tokens,
        max_batch_total_tokens=options.max_batch_total_tokens,
        max_batch_size=options.max_batch_size,
        max_concurrent_requests=options.max_concurrent_requests,
        model_max_total_tokens=spec.max_positions,
        features=tuple(features),
    )


def _scheduler_config(options: ServeOptions, environment: Environment) -> SchedulerConfig:
    return SchedulerConfig(options.waiting_served_ratio, options.max_waiting_tokens, environment.prefix_caching)


def _max_input_tokens(options: ServeOptions) -> int | None:
    return options.max_input_length if options.max_input_tokens is None else options.max_input_tokens


def _server_config(context: _Context, model: _LoadedModel, chosen: Candidate, agreement: Agreement) -> ServerConfig:
    """Limits of the routes: the user's where given, else what was agreed. Raises `ConfigError` if they contradict."""
    options = context.options
    max_total_tokens = agreement.limits.max_total_tokens
    max_input_tokens = _max_input_tokens(options)
    if max_input_tokens is None:
        max_input_tokens = max_total_tokens - 1
    if max_input_tokens >= max_total_tokens:
        raise ConfigError(f"`max_input_tokens`({max_input_tokens}) must be < `max_total_tokens`({max_total_tokens})")
    gamma, delta = options.watermark_gamma, options.watermark_delta
    return ServerConfig(
        model_id=model.files.model_id,
        model_sha=model.files.revision,
        model_pipeline_tag=model.files.pipeline_tag,
        max_input_tokens=max_input_tokens,
        max_total_tokens=max_total_tokens,
        backend_name=chosen.name,
        version=__version__,
        compute_type=context.environment.compute_type or _compute_type(options, chosen),
        max_concurrent_requests=options.max_concurrent_requests,
        max_best_of=options.max_best_of,
        max_stop_sequences=options.max_stop_sequences,
        max_top_n_tokens=options.max_top_n_tokens,
        validation_workers=options.validation_workers,
        max_client_batch_size=options.max_client_batch_size,
        payload_limit=options.payload_limit,
        api_key=options.api_key,
        cors_allow_origin=options.cors_allow_origin,
        enable_prefill_logprobs=options.enable_prefill_logprobs,
        disable_grammar_support=options.disable_grammar_support,
        docker_label=context.environment.docker_label,
        aip_predict_route=context.environment.aip_predict_route,
        aip_health_route=context.environment.aip_health_route,
        watermark_gamma=ServerConfig.watermark_gamma if gamma is None else gamma,
        watermark_delta=ServerConfig.watermark_delta if delta is None else delta,
        decoder_start_token_id=model.spec.decoder_start_token_id if isinstance(model.spec, ModelSpec) else None,
    )


def _compute_type(options: ServeOptions, chosen: Candidate) -> str:
    """TGI's form, e.g. `1-nvidia-l4`: the number of devices and the name of the first one."""
    devices = () if chosen.probe is None else chosen.probe.devices
    label = devices[0].label if devices else chosen.name
    return f"{num_shard_of(options)}-{'-'.join(label.lower().split())}"


def _log_machine(context: _Context) -> None:
    display = context.display
    display.phase("machine", f"tgi {__version__}, python {platform.python_version()}, {platform.platform()}")
    display.log(f"python at {sys.executable}")
    for candidate in context.registry.candidates():
        display.log(f"  {candidate.name} ({candidate.package} {candidate.version}): {candidate.verdict}")
