"""The parameters of a generation with the checks of their values, and the request record to which
each generation route converts its request body.

The `title` of a number type is the name of the type in error messages, for example `expected u32`.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

import msgspec

from tgi.backend import SamplingParams
from tgi.errors import ValidationError
from tgi.grammar.constraint import Constraint
from tgi.server.generation.protocols import NATIVE, ClientProtocol
from tgi.server.http.json_format import round_f32
from tgi.text.output import PLAIN, OutputStyle

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
    "OtherConstraints",
    "StopStyle",
    "TextRequest",
    "Usize",
    "check_prompt_ids",
    "check_sent_ids",
    "check_u64",
    "generate_parameters",
    "reject_constraints",
    "reject_unsupported",
]

MAX_SALT_LENGTH = 256
"""Maximum number of characters of `cache_salt`."""

_MAX_U64 = 2**64 - 1  # msgspec cannot check this bound, because its own bounds are 64-bit signed
_PROCESSED_LOGPROBS = SamplingParams(logprobs="processed")  # as in TGI
_NUM_SEED_BITS = 64
_MIN_TOP_P = 1e-9  # used for OpenAI's `top_p` of 0; only the most likely token is allowed

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1, title="u32")]
U64 = Annotated[int, msgspec.Meta(ge=0, title="u64")]
Usize = Annotated[int, msgspec.Meta(ge=0, title="usize")]
I32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1, title="i32")]
F32 = Annotated[float, msgspec.Meta(title="f32")]
CacheSalt = Annotated[
    str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_SALT_LENGTH})
]


def check_u64(*values: int | None) -> None:
    """Raise `ValueError` if a number exceeds the range of an unsigned 64-bit integer."""
    if any(value is not None and value > _MAX_U64 for value in values):
        raise ValueError("an integer exceeds 64 bits")


def check_sent_ids(token_ids: Iterable[int], vocab_size: int, field: str) -> None:
    """Check ids that a client sent. Raises `ValidationError` with the field and the first id that
    the model does not have.
    """
    outside = _first_outside(token_ids, vocab_size)
    if outside is not None:
        raise ValidationError(
            f"`{field}` must contain token ids >= 0 and < {vocab_size}. Given: {outside}"
        )


def check_prompt_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """Check the ids of a whole prompt. Raises `ValidationError` with the first id that the model
    does not have.

    Ids from the tokenizer are checked too: it may have ids for which the embedding has no row, for
    example if tokens were added without resizing the embedding.
    """
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        outside = _first_outside(token_ids, vocab_size)
        raise ValidationError(
            f"the prompt contains token id {outside}, but the model has {vocab_size} token ids"
        )


def _first_outside(token_ids: Iterable[int], vocab_size: int) -> int | None:
    return next((token for token in token_ids if not 0 <= token < vocab_size), None)


GrammarType = Annotated[
    Literal["json", "json_object", "regex", "json_schema"],
    # The values in the order in which error messages list them.
    msgspec.Meta(extra_json_schema={"enum": ["json", "json_object", "regex", "json_schema"]}),
]


class Grammar(msgspec.Struct, frozen=True):
    """A constraint on the output: a JSON schema or a regular expression."""

    type: GrammarType
    value: msgspec.Raw


class GenerateParameters(msgspec.Struct, frozen=True):
    """The parameters of a generation, as in the bodies of the native routes. TGI 3 has all fields
    except `ignore_eos` and `cache_salt`.
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
        """Check the upper bound of the unsigned 64-bit integers."""
        check_u64(self.best_of, self.truncate, self.seed)

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are sampled. If tokens are not sampled, decoding is greedy. Sampling is
        enabled by `do_sample`, `top_k`, `top_p`, `typical_p`, and by a `temperature` other than 1.
        """
        has_temperature = self.temperature is not None and round_f32(self.temperature) != 1.0
        others = (self.top_k, self.top_p, self.typical_p)
        return self.do_sample or has_temperature or any(value is not None for value in others)


class ExtensionFields(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of the `/v1` bodies, with the parameters that are extensions of this server."""

    ignore_eos: bool | None = False
    cache_salt: CacheSalt | None = None


class OtherConstraints(ExtensionFields, frozen=True, kw_only=True):
    """Base class of the bodies of APIs that have another field for a constraint on the output. The
    fields of this class are rejected, unless they are null: without its constraint, an output would
    be wrong.
    """

    grammar: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None

    @property
    def constraints(self) -> dict[str, object]:
        """The fields of this class with their values."""
        names = OtherConstraints.__struct_fields__[len(ExtensionFields.__struct_fields__) :]
        return {name: getattr(self, name) for name in names}


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
    """Convert the parameters of a `/v1` body to native parameters. As in OpenAI's API, decoding is
    greedy only if the temperature is 0, a `top_p` of 1 has no effect, and an empty stop string is
    ignored.
    """
    is_greedy = temperature is not None and round_f32(temperature) == 0.0
    if top_p is not None and round_f32(top_p) in (0.0, 1.0):
        top_p = None if top_p > _MIN_TOP_P else _MIN_TOP_P
    return GenerateParameters(
        do_sample=not is_greedy,
        temperature=None if is_greedy else temperature,
        top_k=None if is_greedy else top_k,
        top_p=None if is_greedy else top_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        stop=[text for text in stop if text],
        seed=seed,
        top_n_tokens=top_n_tokens,
        ignore_eos=bool(extensions.ignore_eos),
        cache_salt=extensions.cache_salt,
    )


def reject_unsupported(fields: Mapping[str, object]) -> None:
    """Raise `ValidationError` for the first field whose value is truthy."""
    for name, value in fields.items():
        if value:
            raise ValidationError(f"`{name}` is not supported by this version: leave it out")


def reject_constraints(constraints: Mapping[str, object], instead: str) -> None:
    """Raise `ValidationError` for the first field that is not null. `instead` is the field that has
    the same purpose in the API of the client.
    """
    for name, value in constraints.items():
        if value is not None:
            raise ValidationError(f"`{name}` is not supported by this route: use `{instead}`")


class StopStyle(enum.Enum):
    """Whether a response contains the stop string that ended it."""

    # The text ends directly after the stop string. The last token event contains the whole text of
    # its token, even if the token continues after the stop string.
    NATIVE = "native"
    # The text ends directly before the stop string. No part of the stop string is streamed.
    OPENAI = "openai"


@final
@dataclass(frozen=True)
class TextRequest:
    """One prompt and its parameters, before validation.

    Admission creates one `Request` for each sequence. Text settings, such as stop strings, are not
    sent to the engine, because only the front end needs them.
    """

    prompt: str
    parameters: GenerateParameters
    stop_style: StopStyle
    # The token ids, if the client sent token ids instead of text. `prompt` is then the text of
    # these ids.
    prompt_token_ids: tuple[int, ...] | None = None
    # False for the output of a chat template, because the template writes the special tokens.
    add_special_tokens: bool = True
    num_sequences: int = 1
    # Sampling settings that are not in `parameters`: OpenAI's penalties, the logit bias, and the
    # kind of log probabilities to return. Admission sets the other fields from `parameters`.
    sampling: SamplingParams = _PROCESSED_LOGPROBS
    protocol: ClientProtocol = NATIVE  # names the fields in error messages
    # The constraint on the text. The constraint of a native body is `parameters.grammar`.
    constraint: Constraint | None = None
    constraint_field: str = "grammar"  # names the constraint in error messages
    # A weaker constraint, if `constraint` cannot be expressed exactly.
    loose_constraint: Constraint | None = None
    # Whether the text may be unconstrained if the backend or the tokenizer requires it.
    is_constraint_optional: bool = False
    output_style: OutputStyle = PLAIN
    max_reasoning_tokens: int | None = None  # None = no limit
    reasoning_field: str = "thinking_token_budget"  # names the limit in error messages
    # Creates the same request without tools, if the model may decline all tools.
    without_tools: Callable[[], Awaitable[TextRequest]] | None = None

    @property
    def is_guided(self) -> bool:
        """Whether the output is constrained."""
        return (
            self.constraint is not None
            or self.parameters.grammar is not None
            or self.max_reasoning_tokens is not None
        )

    @property
    def guided_field(self) -> str:
        """The field of the body that constrains the output."""
        has_constraint = self.constraint is not None or self.parameters.grammar is not None
        if has_constraint and not self.is_constraint_optional:
            return self.constraint_field
        return self.reasoning_field

    def seeds(self) -> list[int]:
        """Return one seed per sequence. If the client sent a seed, it determines all of them."""
        seed, count = self.parameters.seed, self.num_sequences
        if seed is None:
            return [secrets.randbits(_NUM_SEED_BITS) for _ in range(count)]
        return [(seed + index) % (1 << _NUM_SEED_BITS) for index in range(count)]
