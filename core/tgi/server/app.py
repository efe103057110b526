"""The application: which path leads where."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tgi.server.cors import CorsLayer
from tgi.server.info import InfoRoutes
from tgi.server.native import NativeRoutes
from tgi.server.openai import OpenAIRoutes
from tgi.server.permits import Permits
from tgi.server.pipeline import GenerationPipeline
from tgi.server.responses import empty_response
from tgi.server.routing import PathRoute
from tgi.server.state import ServerState

__all__ = ["create_app"]


def create_app(state: ServerState) -> ASGIApp:
    """The ASGI application over a started engine. The engine's figures feed the metrics from now on."""
    state.engine.add_stats_listener(state.metrics.observe_step)
    pipeline = GenerationPipeline(state, Permits(state.config.max_concurrent_requests))
    native, openai, info = NativeRoutes(state, pipeline), OpenAIRoutes(state, pipeline), InfoRoutes(state)
    key = state.config.api_key
    paths = {
        "/": PathRoute(post=native.generate_compatible, get=info.health, api_key=key),
        "/generate": PathRoute(post=native.generate, api_key=key),
        "/generate_stream": PathRoute(post=native.generate_stream, api_key=key),
        "/tokenize": PathRoute(post=native.tokenize, api_key=key),
        "/v1/completions": PathRoute(post=openai.completions, api_key=key),
        "/v1/chat/completions": PathRoute(post=openai.chat_completions, api_key=key),
        "/chat_tokenize": PathRoute(post=openai.chat_tokenize),
        "/v1/models": PathRoute(get=info.models),
        "/info": PathRoute(get=info.info),
        "/info/backend": PathRoute(get=info.backend),
        "/health": PathRoute(get=info.health),
        "/ping": PathRoute(get=info.health),
        "/metrics": PathRoute(get=info.metrics),
    }
    app = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        routes=[Route(path, route) for path, route in paths.items()],
        exception_handlers={404: _not_found},
    )
    return CorsLayer(app, state.config.cors_allow_origin)


async def _not_found(request: Request, error: Exception) -> Response:
    del request, error
    return empty_response(404)
