"""Log probabilities of the OpenAI routes.

The name of a token is its text. If its bytes are only a part of a character, the name contains the
bytes as escape sequences, as in OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tgi.server.generation.output import GeneratedSequence, GeneratedToken, ScoredToken
from tgi.server.native.response_bodies import json_f32
from tgi.server.native.response_schemas import JsonF32
from tgi.server.openai.response_schemas import (
    ChatLogprob,
    ChatLogprobs,
    ChatTopLogprob,
    CompletionLogprobs,
)

__all__ = ["chat_logprobs", "completion_logprobs", "token_logprobs", "with_prompt_logprobs"]

_PART_PREFIX = "bytes:"  # prefix of the escape sequences, used on `/v1/completions` only


def chat_logprobs(tokens: Sequence[GeneratedToken]) -> ChatLogprobs:
    """The log probabilities of a chat completion."""
    return ChatLogprobs(token_logprobs(tokens), None)


def token_logprobs(tokens: Iterable[GeneratedToken]) -> list[ChatLogprob]:
    """The log probability, the bytes and the alternatives of each token."""
    return [
        ChatLogprob(
            _name(token.data),
            json_f32(token.logprob),
            list(token.data),
            [
                ChatTopLogprob(_name(t.data), json_f32(t.logprob), list(t.data))
                for t in token.top_tokens
            ],
        )
        for token in tokens
    ]


def completion_logprobs(
    tokens: Sequence[GeneratedToken], text_offset: int = 0
) -> CompletionLogprobs:
    """The log probabilities of a completion as four lists. Offsets are positions in the text of the
    choice, in characters.
    """
    offsets = []
    for token in tokens:
        offsets.append(text_offset)
        text_offset += 0 if token.special else len(token.piece)
    return CompletionLogprobs(
        tokens=[_name(token.data, _PART_PREFIX) for token in tokens],
        token_logprobs=[json_f32(token.logprob) for token in tokens],
        top_logprobs=[_alternatives(token, token.top_tokens) for token in tokens],
        text_offset=offsets,
    )


def with_prompt_logprobs(
    logprobs: CompletionLogprobs, sequence: GeneratedSequence, prompt: str
) -> CompletionLogprobs:
    """Insert the tokens of the echoed prompt before the generated tokens. The first token of the
    prompt has no log probability and no alternatives. If the backend returns no top tokens of
    prompts, the alternatives of a prompt token contain only the token itself.
    """
    prefill, tops = sequence.prefill, sequence.prefill_top
    return CompletionLogprobs(
        tokens=[_name(token.data, _PART_PREFIX) for token in prefill] + logprobs.tokens,
        token_logprobs=[json_f32(token.logprob) for token in prefill] + logprobs.token_logprobs,
        top_logprobs=[
            *(
                None if token.logprob is None else _alternatives(token, top)
                for token, top in zip(prefill, tops, strict=True)
            ),
            *logprobs.top_logprobs,
        ],
        text_offset=_prompt_offsets(prefill, prompt)
        + [len(prompt) + offset for offset in logprobs.text_offset],
    )


def _alternatives(
    token: GeneratedToken | ScoredToken, top_tokens: Sequence[ScoredToken]
) -> dict[str, JsonF32]:
    """The alternatives of a token and the token itself, by name."""
    return {
        _name(scored.data, _PART_PREFIX): json_f32(scored.logprob)
        for scored in (*top_tokens, token)
    }


def _name(data: bytes, part_prefix: str = "") -> str:
    """The name of a token with these bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return part_prefix + "".join(f"\\x{byte:02x}" for byte in data)


def _prompt_offsets(tokens: Sequence[ScoredToken], prompt: str) -> list[int]:
    """The position of each token in the prompt, in characters. The position of a token that is
    a part of a character is the position of the character.
    """
    text = prompt.encode()
    starts = [index for index, c in enumerate(prompt) for _ in c.encode()] + [len(prompt)]
    offsets, position = [], 0
    for token in tokens:
        # A tokenizer may add a space before the text, and special tokens that are not in the text.
        data = token.data
        bare = data.removeprefix(b" ")
        if not text.startswith(data, position) and text.startswith(bare, position):
            data = bare
        offsets.append(starts[position])
        if text.startswith(data, position) or not token.special:
            position = min(position + len(data), len(text))
    return offsets
