"""The pre-tokenizers of byte-level BPE tokenizers by the names of llama.cpp, in the format of
tokenizer.json. A pre-tokenizer splits a text into words before the merges are applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

__all__ = ["PRE_TOKENIZERS", "PreTokenizer"]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATHS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"

_QWEN2_PATTERN = _CONTRACTIONS + _LETTERS + r"|\p{N}" + _SYMBOLS + _SPACES
_LLAMA3_PATTERN = _CONTRACTIONS + _LETTERS + r"|\p{N}{1,3}" + _SYMBOLS + _SPACES
_TEKKEN_PATTERN = (
    f"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*" + r"|\p{N}" + _PATHS + _SPACES
)
_GPT4O_PATTERN = (
    f"{_START}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_START}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    + r"|\p{N}{1,3}"
    + _PATHS
    + _SPACES
)


@final
@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer. Without a pattern, words are split as in GPT-2. With `splits_digits`, each
    digit is a word. With `ignores_merges`, a word that is a token is not built by merges.
    `adds_bos` is the default of `tokenizer.ggml.add_bos_token`.
    """

    pattern: str = ""
    splits_digits: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False
    normalizer: str = ""  # empty or NFC

    @property
    def json(self) -> dict[str, Any]:
        """The pre-tokenizer in the format of tokenizer.json."""
        steps: list[dict[str, Any]] = []
        if self.splits_digits:
            steps.append({"type": "Digits", "individual_digits": True})
        if self.pattern:
            pattern = {"Regex": self.pattern}
            split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
            steps.append(split)
        steps.append(
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": not self.pattern,
            }
        )
        return {"type": "Sequence", "pretokenizers": steps}


_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(splits_digits=True)
_LLAMA3 = PreTokenizer(_LLAMA3_PATTERN, ignores_merges=True, adds_bos=True)
_TIKTOKEN = PreTokenizer(_LLAMA3_PATTERN)
_QWEN2 = PreTokenizer(_QWEN2_PATTERN, normalizer="NFC")
_GPT4O = PreTokenizer(_GPT4O_PATTERN)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "default": _GPT2,
        "gpt-2": _GPT2,
        "mpt": _GPT2,
        "olmo": _GPT2,
        "phi-2": _GPT2,
        "command-r": _DIGITS,
        "exaone": _DIGITS,
        "minerva-7b": _DIGITS,
        "refact": _DIGITS,
        "smollm": _DIGITS,
        "starcoder": _DIGITS,
        "falcon3": _LLAMA3,
        "llama-bpe": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama3": _LLAMA3,
        "pixtral": _LLAMA3,
        "dbrx": _TIKTOKEN,
        "smaug-bpe": _TIKTOKEN,
        "deepseek-r1-qwen": _QWEN2,
        "megrez": _QWEN2,
        "qwen2": _QWEN2,
        "tekken": PreTokenizer(_TEKKEN_PATTERN, ignores_merges=True, adds_bos=True),
        "gpt-4o": _GPT4O,
        "llama4": _GPT4O,
    }
)
"""The pre-tokenizers by `tokenizer.ggml.pre`."""
