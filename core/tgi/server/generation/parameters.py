"""The parameters of a generation, and the request that every generation route makes of its body.

The title of a number or of a choice is the name that a rejection gives it (`expected u32`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import msgspec

from tgi.backend import SamplingParams
from tgi.server.http.json_format import round_f32

__all__ = [
    "F32",
    "I32",
    "MAX_SALT_LENGTH",
    "U32",
    "U64",
    "ExtensionFields",
    "GenerateParameters",
    "Grammar",
    "GrammarType",
    "StopStyle",
    "TextRequest",
    "Usize",
    "check_u64",
    "generate_parameters",
]

MAX_SALT_LENGTH = 256
"""Maximum number of characters of `cache_salt`."""

_MAX_U64 = 2**64 - 1  # above msgspec's own bounds, which are those of an i64
_PROCESSED_LOGPROBS = SamplingParams(logprobs="processed")  # as TGI's
_LEAST_TOP_P = 1e-9  # the meaning of OpenAI's 0: only the most likely token

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1, title="u32")]
U64 = Annotated[int, msgspec.Meta(ge=0, title="u64")]
Usize = Annotated[int, msgspec.Meta(ge=0, title="usize")]
I32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1, title="i32")]
F32 = Annotated[float, msgspec.Meta(title="f32")]
CacheSalt = Annotated[
    str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_SALT_LENGTH})
]


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
    """How to generate. `ignore_eos` and `cache_salt` are extensions of ours, the other fields are
    TGI's.
    """

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
    cache_salt: CacheSalt | None = None  # requests with different salts share no cached blocks

    def __post_init__(self) -> None:
        """Complete the integer bounds."""
        check_u64(self.best_of, self.truncate, self.seed)

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn rather than the most likely one taken: `do_sample`, or a
        parameter that only matters to a draw.
        """
        has_temperature = self.temperature is not None and round_f32(self.temperature) != 1.0
        others = (self.top_k, self.top_p, self.typical_p)
        return self.do_sample or has_temperature or any(value is not None for value in others)


class ExtensionFields(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the `/v1` bodies: parameters that are extensions of ours on each of these routes."""

    ignore_eos: bool | None = False
    cache_salt: CacheSalt | None = None


def generate_parameters(
    extensions: ExtensionFields,
    *,
    temperature: float | None,
    top_p: float | None,
    max_new_tokens: int | None,
    stop: Sequence[str] = (),
    seed: int | None = None,
    top_k: int | None = None,
    top_n_tokens: int | None = None,
    repetition_penalty: float | None = None,
) -> GenerateParameters:
    """Native parameters from those of a `/v1` body, with OpenAI's meaning: sampling is on unless
    the temperature is 0, and a `top_p` of 1 is off.
    """
    is_greedy = temperature == 0.0
    if top_p is not None and top_p in (0.0, 1.0):
        top_p = None if top_p else _LEAST_TOP_P
    return GenerateParameters(
        do_sample=not is_greedy,
        temperature=None if is_greedy else temperature,
        top_k=None if is_greedy else top_k,
        top_p=None if is_greedy else top_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        stop=list(stop),
        seed=seed,
        top_n_tokens=top_n_tokens,
        ignore_eos=bool(extensions.ignore_eos),
        cache_salt=extensions.cache_salt,
    )


class StopStyle(enum.Enum):
    """Whether the text of a stop string is shown."""

    NATIVE = "native"  # the text ends right after it; the last token event keeps its whole text
    OPENAI = "openai"  # the text ends right before it, and no part of it is ever streamed


@final
@dataclass(frozen=True)
class TextRequest:
    """One prompt and how to continue it, as a route asks for it: not validated yet.

    Admission makes a `Request` of it for each sequence. The facts about text, such as the stop
    strings, are needed in the front end only and stay here.
    """

    prompt: str
    parameters: GenerateParameters
    stop_style: StopStyle
    # The token ids that the client sent instead of a text; `prompt` is then their text.
    prompt_token_ids: tuple[int, ...] | None = None
    # False for a rendered chat template, which writes the special tokens itself.
    add_special_tokens: bool = True
    num_sequences: int = 1
    # Sampling that `parameters` cannot express: OpenAI's penalties, the logit bias, and which log
    # probabilities are returned. Admission fills in the other fields.
    sampling: SamplingParams = _PROCESSED_LOGPROBS
