"""Request bodies of the native routes. Unknown fields are ignored.

The fields are in TGI's order, because a body may also be a JSON array of the values of its fields.
"""

from __future__ import annotations

import msgspec

from tgi.server.generation.parameters import GenerateParameters

__all__ = ["CompatGenerateRequest", "GenerateRequest", "sampled_parameters"]


def sampled_parameters() -> GenerateParameters:
    """The parameters of a body without `parameters`: the defaults, but with sampling."""
    return GenerateParameters(do_sample=True)


class GenerateRequest(msgspec.Struct, frozen=True):
    """Body of `/generate`, `/generate_stream` and `/tokenize`. Sampling is enabled if the body has
    no `parameters`, but not if `parameters` is `{}`.
    """

    inputs: str
    parameters: GenerateParameters = msgspec.field(default_factory=sampled_parameters)


class CompatGenerateRequest(msgspec.Struct, frozen=True):
    """Body of `POST /`: the fields of `/generate`, and `stream` to request a stream."""

    inputs: str
    parameters: GenerateParameters = msgspec.field(default_factory=sampled_parameters)
    stream: bool = False
