"""The routes `/v1/models` and `/v1/models/{model}`, which OpenAI's and Anthropic's APIs share."""

from __future__ import annotations

from typing import final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tgi.errors import RequestError
from tgi.server.anthropic.response_schemas import AnthropicModel, AnthropicModels
from tgi.server.http.responses import json_response
from tgi.server.openai.response_schemas import ModelInfo, ModelsInfo

__all__ = ["ModelNotFoundError", "ModelRoutes"]

_MAX_SHOWN = 200  # characters of a model's name in an error message
_DEFAULT_NAME = "tgi"  # the name that requests use for the served model
_CREATED = "1970-01-01T00:00:00Z"  # the same time as 0, TGI's `created`


@final
class ModelNotFoundError(RequestError):
    """Error 404 for a model that the server does not serve."""

    status = 404
    error_type = "model_not_found"
    code = "model_not_found"


@final
class ModelRoutes:
    """Handlers of the routes about the served model. The response has Anthropic's schema if the
    client sends the header `anthropic-version`.
    """

    def __init__(self, model_id: str) -> None:
        self._model = ModelInfo(id=model_id, object="model", created=0, owned_by=model_id)
        self._anthropic = AnthropicModel("model", model_id, model_id, _CREATED)

    async def list(self, request: Request) -> Response:
        """Handle `GET /v1/models`. The response is a list that contains the one model of this
        server.
        """
        name = self._model.id
        return json_response(
            msgspec.json.encode(
                AnthropicModels([self._anthropic], has_more=False, first_id=name, last_id=name)
                if _is_anthropic(request)
                else ModelsInfo("list", [self._model])
            )
        )

    async def retrieve(self, request: Request) -> Response:
        """Handle `GET /v1/models/{model}`. The response is the served model. Raises
        `ModelNotFoundError` for any other model.
        """
        name = request.path_params["model"]
        if name not in (self._model.id, _DEFAULT_NAME):
            raise ModelNotFoundError(
                f"The model `{name[:_MAX_SHOWN]}` does not exist. This server serves"
                f" `{self._model.id}`."
            )
        model = self._anthropic if _is_anthropic(request) else self._model
        return json_response(msgspec.json.encode(model))


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers
