"""Bodies of the native routes. Unknown fields are ignored; the order of fields is TGI's (a JSON
array fills them in order).

The title of a number or of a choice is the name that a rejection gives it (`expected u32`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = [
    "F32",
    "I32",
    "U32",
    "U64",
    "CompatGenerateRequest",
    "GenerateParameters",
    "GenerateRequest",
    "Grammar",
    "GrammarType",
    "Usize",
    "check_u64",
    "sampled_parameters",
]

_MAX_U64 = 2**64 - 1  # above msgspec's own bounds, which are those of an i64

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1, title="u32")]
U64 = Annotated[int, msgspec.Meta(ge=0, title="u64")]
Usize = Annotated[int, msgspec.Meta(ge=0, title="usize")]
I32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1, title="i32")]
F32 = Annotated[float, msgspec.Meta(title="f32")]


def check_u64(*values: int | None) -> None:
    """Raises `ValueError` for a number that does not fit an unsigned integer of 64 bits."""
    if any(value is not None and value > _MAX_U64 for value in values):
        raise ValueError("an integer exceeds 64 bits")


GrammarType = Annotated[
    Literal["json", "json_object", "regex", "json_schema"],
    msgspec.Meta(
        extra_json_schema={"enum": ["json", "json_object", "regex", "json_schema"]}
    ),  # in the order of a rejection
]


class Grammar(msgspec.Struct, frozen=True):
    """Constrained decoding: a JSON schema or a regular expression."""

    type: GrammarType
    value: msgspec.Raw


class GenerateParameters(msgspec.Struct, frozen=True):
    """How to generate; `ignore_eos` is an extension of ours, the rest is TGI's."""

    best_of: Usize | None = None
    temperature: F32 | None = None
    repetition_penalty: F32 | None = None
    frequency_penalty: F32 | None = None
    top_k: I32 | None = None
    top_p: F32 | None = None
    typical_p: F32 | None = None
    do_sample: bool = False
    max_new_tokens: U32 | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: Usize | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: U64 | None = None
    top_n_tokens: U32 | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Complete the integer bounds."""
        check_u64(self.best_of, self.truncate, self.seed)


def sampled_parameters() -> GenerateParameters:
    """What a request without `parameters` means: everything default, but sampling on."""
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
