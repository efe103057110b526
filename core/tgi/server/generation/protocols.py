"""The names and error messages that depend on the API of the client: TGI's own API, or one of those
below `/v1/`.
"""

from __future__ import annotations

from typing import final

import msgspec

from tgi.errors import ContextLengthError, RequestError, ValidationError

__all__ = [
    "ANTHROPIC",
    "CHAT",
    "COMPLETIONS",
    "NATIVE",
    "RESPONSES",
    "ClientProtocol",
]


@final
class ClientProtocol(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the request fields in one API, and its messages about lengths. The defaults are
    those of TGI's own API.

    The messages contain these placeholders: `tokens` is the number of prompt tokens, `new` the
    number of requested tokens, `total` the sum of both, `max_prompt` and `max_total` the limits.
    """

    prompt: str = "inputs"
    max_new_tokens: str = "max_new_tokens"
    stop: str = "stop"
    top_n_tokens: str = "top_n_tokens"
    is_native: bool = False
    length_error: type[RequestError] = ContextLengthError
    prompt_too_long: str
    total_too_long: str


NATIVE = ClientProtocol(
    is_native=True,
    length_error=ValidationError,
    prompt_too_long="`inputs` must have less than {max_prompt} tokens. Given: {tokens}",
    total_too_long=(
        "`inputs` tokens + `max_new_tokens` must be <= {max_total}. "
        "Given: {tokens} `inputs` tokens and {new} `max_new_tokens`"
    ),
)

# The first sentence is OpenAI's. Several clients search for its words.
COMPLETIONS = ClientProtocol(
    prompt="prompt",
    max_new_tokens="max_tokens",
    top_n_tokens="logprobs",
    prompt_too_long=(
        "This model's maximum context length is {max_total} tokens, and a prompt may have"
        " {max_prompt} of them. However, your prompt has {tokens} tokens. Reduce the length of the"
        " prompt."
    ),
    total_too_long=(
        "This model's maximum context length is {max_total} tokens. However, you requested {total}"
        " tokens: {tokens} in the prompt and {new} in the output. Reduce the length of the prompt"
        " or of the output."
    ),
)
CHAT = msgspec.structs.replace(COMPLETIONS, prompt="messages", top_n_tokens="top_logprobs")
RESPONSES = msgspec.structs.replace(CHAT, prompt="input", max_new_tokens="max_output_tokens")
ANTHROPIC = ClientProtocol(
    prompt="messages",
    max_new_tokens="max_tokens",
    stop="stop_sequences",
    prompt_too_long="prompt is too long: {tokens} tokens > {max_prompt} maximum",
    total_too_long=(
        "input length and `max_tokens` exceed context limit: {tokens} + {new} > {max_total},"
        " decrease input length or `max_tokens` and try again"
    ),
)
