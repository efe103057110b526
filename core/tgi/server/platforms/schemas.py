"""Request bodies of the hosting platforms' routes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tgi.server.generation.parameters import GenerateParameters, Usize
from tgi.server.native.schemas import sampled_parameters

__all__ = [
    "Byte",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "VertexGenerateInstance",
    "VertexRequest",
]

Byte = Annotated[int, msgspec.Meta(ge=0, le=255, title="u8")]


class VertexRequest(msgspec.Struct, frozen=True):
    """Body of `/vertex`. Each instance is a `VertexGenerateInstance` or a `ChatRequest`."""

    instances: list[msgspec.Raw]


class VertexGenerateInstance(msgspec.Struct, frozen=True):
    """A native request. Sampling is enabled if there are no parameters."""

    inputs: str
    parameters: GenerateParameters | None = None


class InferInput(msgspec.Struct, frozen=True):
    """A tensor of KServe's protocol. `data` contains the UTF-8 bytes of a prompt."""

    name: str
    shape: list[Usize]
    datatype: str
    data: list[Byte]


class InferOutput(msgspec.Struct, frozen=True):
    """The name of the tensor in the response that contains the text."""

    name: str


class InferRequest(msgspec.Struct, frozen=True):
    """Body of `/v2/models/{model}/versions/{version}/infer`."""

    id: str
    inputs: list[InferInput]
    outputs: list[InferOutput]
    parameters: GenerateParameters = msgspec.field(default_factory=sampled_parameters)
