"""Schemas of the responses of the hosting platforms' routes.

The routes write these records, and the OpenAPI document describes them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tgi.server.generation.parameters import Usize
from tgi.server.platforms.schemas import Byte

__all__ = [
    "InferOutputTensor",
    "InferResponse",
    "LiveResponse",
    "MetadataResponse",
    "VertexResponse",
]


class VertexResponse(msgspec.Struct):
    """One text per instance."""

    predictions: list[str]


class LiveResponse(msgspec.Struct):
    """The state of the server."""

    live: bool


class MetadataResponse(msgspec.Struct):
    """The name and the version of the server or of a model."""

    name: str
    version: str
    extensions: list[str]


class InferOutputTensor(msgspec.Struct):
    """A tensor of KServe's protocol. `data` contains the UTF-8 bytes of a text."""

    name: str
    shape: list[Usize]
    datatype: Literal["BYTES"]
    data: list[Byte]


class InferResponse(msgspec.Struct):
    """The texts as arrays of bytes."""

    id: str
    outputs: list[InferOutputTensor]
