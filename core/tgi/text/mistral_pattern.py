"""Replaces the wrong pre-tokenizer pattern that some Mistral models were published with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

__all__ = ["fix_mistral_pattern"]

_FIELD = "fix_mistral_regex"
_MIN_TOKENS = 100_000  # the affected vocabularies have more tokens
_MODEL_TYPES = frozenset({"mistral", "mistral3", "voxtral", "ministral", "pixtral"})
_FIXED_MAJOR_VERSION = 5  # this version of transformers saves the right pattern
# The pattern of Mistral's own tokenizer, as transformers 5 sets it.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
_PATTERN = (
    rf"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def fix_mistral_pattern(
    backend: Tokenizer, config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> None:
    """Replace the pattern by the rules of `transformers`: only if tokenizer_config.json (`config`)
    has the field `fix_mistral_regex`, and config.json (`model_config`) is that of a Mistral model
    which an old version of transformers saved.
    """
    words = backend.pre_tokenizer
    if config.get(_FIELD) is not True or words is None or not model_config:
        return
    if backend.get_vocab_size() <= _MIN_TOKENS or not _is_affected(model_config):
        return
    split = pre_tokenizers.Split(Regex(_PATTERN), "isolated")
    if isinstance(words, pre_tokenizers.Sequence):
        words[0] = split
        backend.pre_tokenizer = words
        return
    if isinstance(words, pre_tokenizers.Metaspace):
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, words])


def _is_affected(model_config: Mapping[str, Any]) -> bool:
    version = model_config.get("transformers_version")
    if isinstance(version, str) and version:
        major = version.partition(".")[0]
        if major.isdigit() and int(major) >= _FIXED_MAJOR_VERSION:
            return False
    return model_config.get("model_type") in (None, *_MODEL_TYPES)
