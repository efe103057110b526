"""Bodies of the native routes. Unknown fields are ignored; the order of fields is TGI's (a JSON
array fills them in order).
"""

from __future__ import annotations

import msgspec

from tgi.server.generation.parameters import GenerateParameters

__all__ = ["CompatGenerateRequest", "GenerateRequest", "sampled_parameters"]


def sampled_parameters() -> GenerateParameters:
    """The parameters of a request without `parameters`: sampling is on, the rest is default."""
    return GenerateParameters(do_sample=True)


class GenerateRequest(msgspec.Struct, frozen=True):
    """`/generate`, `/generate_stream`, `/tokenize`. Without `parameters` sampling is on; with `{}`
    it is off.
    """

    inputs: str
    parameters: GenerateParameters = msgspec.field(default_factory=sampled_parameters)


class CompatGenerateRequest(msgspec.Struct, frozen=True):
    """`POST /`: as `/generate`, with a flag that selects the stream."""

    inputs: str
    parameters: GenerateParameters = msgspec.field(default_factory=sampled_parameters)
    stream: bool = False
