"""Starts the server and stops it when a signal arrives.

The order of the startup is: options, model, backend, engine process, HTTP. The front end is
prepared while the engine process starts. The server accepts connections only at the end.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import ipaddress
import logging
import os
import platform
import sys
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import uvloop

from tgi import __version__
from tgi.backend import Agreement, RequestedLimits
from tgi.cli.http.cycle import server_ends
from tgi.cli.http.limits import HttpLimits, check_descriptors
from tgi.cli.http.server import HttpServer, bind
from tgi.cli.start_display import StartDisplay, memory_lines
from tgi.config import (
    Environment,
    ParsedArguments,
    ServeOptions,
    bind_address,
    notes_on_options,
)
from tgi.engine.client import EngineClient
from tgi.engine.messages import Start
from tgi.models import Model, StartRequest, choose_backend, find_source, read_model
from tgi.plugins import BackendRegistry
from tgi.scheduler.records import SchedulerConfig

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from tgi.cli.frontend import Frontend

__all__ = ["serve"]

_logger = logging.getLogger("tgi")


def serve(
    parsed: ParsedArguments,
    environment: Environment,
    variables: Mapping[str, str],
    registry: BackendRegistry,
) -> int:
    """Start the server and serve until the process receives a signal. Returns the exit code. Raises
    `StartError` if the server cannot start.
    """
    # Nearly all objects that are created during startup exist until the process ends. The garbage
    # collector would traverse these objects repeatedly.
    gc.disable()
    context = _Context(parsed.options, parsed, environment, variables, registry, StartDisplay())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(context))
    finally:
        gc.enable()


@final
@dataclass(frozen=True)
class _Context:
    """The options, the environment and the installed backends."""

    options: ServeOptions
    parsed: ParsedArguments
    environment: Environment
    variables: Mapping[str, str]
    registry: BackendRegistry
    display: StartDisplay


async def _run(context: _Context) -> int:
    """Serve until a signal arrives. Returns the exit code. A signal during startup ends the process
    here, because threads of a download cannot be cancelled and the interpreter would wait for them.
    """
    server = HttpServer(context.options.graceful_termination_timeout)
    async with AsyncExitStack() as parts:
        parts.callback(context.display.close)
        is_started = await _serve(context, server, parts)
    if is_started:
        return server.signal_status if server.is_forced else 0
    logging.shutdown()
    os._exit(server.signal_status)


async def _serve(context: _Context, server: HttpServer, parts: AsyncExitStack) -> bool:
    """Start the server and serve until a signal arrives. Returns False if the signal arrived during
    startup.
    """
    options, display = context.options, context.display
    check_descriptors()
    address, note = bind_address(options)
    if note:
        _logger.warning(note)
    port = context.environment.aip_http_port
    with bind(address, options.port if port is None else port) as listening:
        starting = asyncio.ensure_future(_start(context, server, parts))
        server.watch_signals(starting)
        try:
            app, engine = await starting
        except asyncio.CancelledError:
            if not server.is_stopping:
                raise
            display.log("Stopped while starting.")
            return False
        gc.freeze()
        gc.enable()
        _avoid_preempting_engine()
        url = f"http://{address}:{listening.getsockname()[1]}"
        is_open = options.api_key is None and not ipaddress.ip_address(address).is_loopback
        limits = HttpLimits.from_options(options, context.environment.aip_health_route)
        await server.serve(
            app,
            [listening],
            limits,
            on_listening=partial(display.ready, url, is_open=is_open),
            end_requests=lambda: engine.end_requests(server_ends()),
        )
    return True


def _avoid_preempting_engine() -> None:
    """On Linux, select a scheduling policy with which this thread does not preempt the engine
    process when a message arrives.

    With the default policy, this thread could delay the next step of the engine. New threads and
    child processes keep the default policy.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # the system call may be forbidden in a container
            os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))


async def _start(
    context: _Context, server: HttpServer, parts: AsyncExitStack
) -> tuple[ASGIApp, EngineClient]:
    """Start all parts. Returns the HTTP application and the client of the engine. Callbacks that
    close the parts are added to `parts`.
    """
    options, display = context.options, context.display
    for note in notes_on_options(options):
        display.log(note)
    if options.env:
        _log_machine(context)
    request = StartRequest(
        context.parsed, context.environment, context.variables, context.registry, display.log
    )
    model = await asyncio.to_thread(_find_model, context, request)
    display.phase("backend", options.backend)
    config, selection = choose_backend(request, model)
    for candidate in selection.candidates:
        display.log(f"  {candidate.name}: {candidate.status}")
    start = Start(
        config,
        _requested(options, model, context.environment),
        _scheduler_config(options, context.environment),
    )
    engine = EngineClient(start, display.progress)
    parts.push_async_callback(_close, engine, server)
    agreement, frontend = await _both(engine.start(), _prepare_frontend(context, model, parts))
    for line in memory_lines(agreement):
        display.log(line)
    return frontend.application(selection.chosen, agreement, engine, parts), engine


async def _close(engine: EngineClient, server: HttpServer) -> None:
    """End the engine process. A second signal kills the process."""
    forced = asyncio.ensure_future(server.wait_forced())
    closing = asyncio.ensure_future(engine.close())
    await asyncio.wait((forced, closing), return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        await engine.close(at_once=True)
    await closing
    forced.cancel()


async def _both(
    start: Coroutine[Any, Any, Agreement], frontend: Coroutine[Any, Any, Frontend]
) -> tuple[Agreement, Frontend]:
    """Await both coroutines concurrently. If one coroutine raises an error, the other coroutine is
    cancelled. The error of the front end takes precedence, as in `tgi.models.readiness`.
    """
    started = asyncio.ensure_future(start)
    try:
        prepared = await frontend
        return await started, prepared
    finally:
        started.cancel()
        await asyncio.gather(started, return_exceptions=True)


async def _prepare_frontend(context: _Context, model: Model, parts: AsyncExitStack) -> Frontend:
    # The import of the web framework takes half a second. It runs while the engine process imports
    # its own framework.
    await asyncio.to_thread(importlib.import_module, "tgi.cli.frontend")
    from tgi.cli.frontend import Frontend  # noqa: PLC0415

    frontend = await Frontend.prepare(context.options, context.environment, model, parts)
    gc.collect()  # does not delay the startup, because the start of the engine takes longer
    return frontend


def _find_model(context: _Context, request: StartRequest) -> Model:
    """Find the model to serve and read its description. The backends determine which files are
    required.
    """
    display = context.display
    display.phase("model", context.options.model_id or "demo")
    model = read_model(request, find_source(request))
    for notice in model.notices:
        display.log(notice)
    return model


def _requested(options: ServeOptions, model: Model, environment: Environment) -> RequestedLimits:
    features = ["device_token", "late_mask", "logprobs", "mask", "multi_token", "prefix_cache"]
    if environment.prefix_caching:
        features.append("state_snapshots")
    if options.enable_prefill_logprobs or model.scores_prompts:
        features.append("prompt_logprobs")
    return RequestedLimits(
        max_input_tokens=_max_input_tokens(options),
        max_total_tokens=options.max_total_tokens,
        max_batch_prefill_tokens=options.max_batch_prefill_tokens,
        max_batch_total_tokens=options.max_batch_total_tokens,
        max_batch_size=options.max_batch_size,
        max_concurrent_requests=options.max_concurrent_requests,
        model_max_total_tokens=model.spec.max_positions,
        features=tuple(features),
    )


def _scheduler_config(options: ServeOptions, environment: Environment) -> SchedulerConfig:
    return SchedulerConfig(
        options.waiting_served_ratio, options.max_waiting_tokens, environment.prefix_caching
    )


def _max_input_tokens(options: ServeOptions) -> int | None:
    return (
        options.max_input_length if options.max_input_tokens is None else options.max_input_tokens
    )


def _log_machine(context: _Context) -> None:
    display = context.display
    display.phase(
        "machine", f"tgi {__version__}, python {platform.python_version()}, {platform.platform()}"
    )
    display.log(f"python at {sys.executable}")
    for candidate in context.registry.candidates():
        display.log(
            f"  {candidate.name} ({candidate.package} {candidate.version}): {candidate.status}"
        )
