"""Routes that report the state of the server: information, health and metrics."""

from __future__ import annotations

from typing import final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tgi.errors import UnhealthyError
from tgi.server.http.responses import empty_response, json_response
from tgi.server.native.response_schemas import (
    BackendInfo,
    Info,
    KVCacheInfo,
    MemoryInfo,
)
from tgi.server.native.start_page import is_browser, start_page
from tgi.server.state import ServerState
from tgi.server.telemetry.exposition import CONTENT_TYPE

__all__ = ["InfoRoutes"]


@final
class InfoRoutes:
    """Handlers that require neither an API key nor a concurrency slot."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def info(self, request: Request) -> Response:
        """Handle `GET /info`. The response has exactly TGI's 14 keys, in TGI's order."""
        del request
        config = self._state.config
        info = Info(
            model_id=config.model_id,
            model_sha=config.model_sha,
            model_pipeline_tag=config.model_pipeline_tag,
            max_concurrent_requests=config.max_concurrent_requests,
            max_best_of=config.max_best_of,
            max_stop_sequences=config.max_stop_sequences,
            max_input_tokens=config.max_input_tokens,
            max_total_tokens=config.max_total_tokens,
            validation_workers=config.validation_workers,
            max_client_batch_size=config.max_client_batch_size,
            router="text-generation-router",
            version=config.version,
            sha=config.sha,
            docker_label=config.docker_label,
        )
        return json_response(msgspec.json.encode(info))

    async def backend(self, request: Request) -> Response:
        """Handle `GET /info/backend`. The response contains the backend in use, the limits and
        features negotiated with it, and the parsers of the output.
        """
        del request
        agreement = self._state.engine.agreement
        limits, plan = agreement.limits, agreement.kv_cache
        info = BackendInfo(
            backend=self._state.config.backend_name,
            api=list(agreement.api),
            features=sorted(agreement.features),
            sampling=sorted(agreement.sampling),
            sampling_caps=agreement.sampling_caps,
            max_total_tokens=limits.max_total_tokens,
            max_sequences=limits.max_sequences,
            max_step_tokens=limits.max_step_tokens,
            mixed=limits.mixed,
            chunked=limits.chunked,
            depth=limits.depth,
            kv_cache=KVCacheInfo(plan.mode, plan.block_size, plan.max_batch_total_tokens),
            vocab_size=agreement.vocab_size,
            memory=[MemoryInfo(i.label, i.num_bytes, i.detail) for i in agreement.memory],
            facts=agreement.facts,
            tool_call_parser=self._state.output_formats.tool_call_parser,
            reasoning_parser=self._state.output_formats.reasoning_parser,
        )
        return json_response(msgspec.json.encode(info))

    async def health(self, request: Request) -> Response:
        """`GET /health`: 200 without a body, or 503. The state of the engine is observed all the
        time, so the response does not wait for the engine.
        """
        del request
        if not self._state.engine.is_healthy:
            raise UnhealthyError
        return empty_response(200)

    async def root(self, request: Request) -> Response:
        """`GET /`: as `GET /health`, with a page for browsers."""
        response = await self.health(request)
        if is_browser(request):
            return start_page(self._state.config, str(request.base_url))
        return response

    async def metrics(self, request: Request) -> Response:
        """Handle `GET /metrics`. The response is the Prometheus text exposition."""
        del request
        return Response(self._state.metrics.render(), headers={"content-type": CONTENT_TYPE})
