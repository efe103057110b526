"""Limits the memory that the normalizer, the template or the decoder of a tokenizer can use.

These components may replace a short text by a long text, or repeat the text. A failed allocation in
the tokenizers library would end the process. The limits are computed from the description of the
tokenizer, before the tokenizer runs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tgi.errors import ModelError

__all__ = ["MAX_NORMALIZED_LENGTH", "check_decoder", "check_template", "growth"]

MAX_NORMALIZED_LENGTH = 1 << 28
"""Maximum length of a normalized text in characters."""

_MAX_TOKEN_TEXT = 1 << 20  # maximum number of characters of one token after the decoder
_UNICODE_GROWTH = 18  # NFKC and NFKD of U+FDFA
_BYTE_GROWTH = 4  # a character has at most 4 bytes
_GROWTH = {
    "ByteLevel": _BYTE_GROWTH,
    "BertNormalizer": 4,  # spaces around CJK characters, and lower case
    "Lowercase": 3,
    "Nmt": 1,
    "Strip": 1,
    "StripAccents": 1,
    "ByteFallback": 1,
    "CTC": 1,
    "Fuse": 1,
    "Metaspace": 1,
    "WordPiece": 2,
}
_UINT32_BYTES = 4
_MAX_TEMPLATE_PARTS = 4096  # special tokens and repetitions; published templates have fewer than 10


def growth(component: object) -> int:
    """The maximum number of characters into which a normalizer or a decoder turns one character. A
    text of n characters becomes a text of at most n times this number.
    """
    if component is None:
        return 1
    # The state of a component is its part of tokenizer.json.
    state: Any = component.__getstate__()
    return _growth(json.loads(state))


def check_decoder(model_path: Path, backend: tokenizers.Tokenizer) -> None:
    """Check that the text of every token is short. Raises `ModelError`."""
    factor = growth(backend.decoder)
    longest = max(map(len, backend.get_vocab()), default=0)
    if factor * longest > _MAX_TOKEN_TEXT and factor > _UNICODE_GROWTH:
        raise ModelError(
            f"{model_path / 'tokenizer.json'}: the decoder can turn a token of {longest} characters"
            f" into {factor * longest} characters, but the limit is {_MAX_TOKEN_TEXT}.",
            "Use the tokenizer of the original model.",
        )


def check_template(model_path: Path, backend: tokenizers.Tokenizer) -> None:
    """Check that the tokenizer adds few special tokens to a text and does not repeat the text.
    Raises `ModelError`.
    """
    if backend.post_processor is None:
        return
    state: Any = backend.post_processor.__getstate__()
    num_copies, num_added = _template_size(json.loads(state))
    if num_copies > 1 or num_added > _MAX_TEMPLATE_PARTS:
        raise ModelError(
            f"{model_path / 'tokenizer.json'}: the post-processor repeats a text {num_copies} times"
            f" and adds {num_added} special tokens, the limits are 1 and {_MAX_TEMPLATE_PARTS}.",
            "Use the tokenizer of the original model.",
        )


def _template_size(part: Mapping[str, Any]) -> tuple[int, int]:
    """Return how often a post-processor repeats a text, and how many special tokens it adds."""
    num_copies, num_added = 1, 0
    if part.get("type") == "Sequence":
        for inner in part["processors"]:
            copies, added = _template_size(inner)
            num_copies, num_added = num_copies * copies, num_added * copies + added
    elif part.get("type") == "TemplateProcessing":
        known = part["special_tokens"]
        names = [piece["SpecialToken"]["id"] for piece in part["single"] if "SpecialToken" in piece]
        num_copies = len(part["single"]) - len(names)
        num_added = sum(len(known[name]["ids"]) for name in names)
    return num_copies, num_added


def _growth(part: Mapping[str, Any]) -> int:
    match part.get("type"):
        case "Sequence":
            product = 1
            for inner in part.get("normalizers") or part.get("decoders") or ():
                product *= _growth(inner)
            return product
        case "Replace":
            # A regular expression may match before and after every character.
            num_replaced = len(part["pattern"].get("String") or "")
            length = len(part["content"])
            return max(1, -(-length // num_replaced) if num_replaced else 2 * length + 1)
        case "Prepend":
            # The text is prepended to each part between two added tokens.
            return 1 + len(part["prepend"])
        case "Precompiled":
            return _longest_replacement(part["precompiled_charsmap"])
        case kind:
            return _GROWTH.get(kind or "", _UNICODE_GROWTH)


def _longest_replacement(charsmap: str) -> int:
    """The length of the longest text in a map of SentencePiece. The map is the size of a trie, the
    trie, and texts that end with a zero byte.
    """
    data = base64.b64decode(charsmap)
    trie_bytes = int.from_bytes(data[:_UINT32_BYTES], "little")
    texts = data[_UINT32_BYTES + trie_bytes :].split(b"\0")
    return max(_UNICODE_GROWTH, *map(len, texts))
