"""Builds a byte-level BPE tokenizer from vocab.json and merges.txt, by the rules of the
`transformers` class that the model's files name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from tgi.architectures.file_reader import read_limited, shown
from tgi.errors import ModelError

__all__ = [
    "MAX_TOKENIZER_BYTES",
    "NO_TOKENIZER_REMEDY",
    "TokenizerClass",
    "add_template",
    "build_tokenizer",
    "tokenizer_class",
]

MAX_TOKENIZER_BYTES = 256 << 20
"""Maximum size of a tokenizer file. The largest published tokenizer.json has 40 MB."""

NO_TOKENIZER_REMEDY = (
    "Save the tokenizer as tokenizer.json (transformers:"
    " AutoTokenizer.from_pretrained(…).save_pretrained(…))."
)

_END_OF_TEXT = "<|endoftext|>"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REST = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2_PATTERN = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + _REST
_QWEN3_5_PATTERN = (
    _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _REST
)
_CLIP_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@final
@dataclass(frozen=True)
class TokenizerClass:
    """A class of byte-level BPE tokenizers. `special_tokens` are used if the model's files name no
    others. `template` is the sequence of the fields of special tokens, other special tokens, and
    the text (`$A`). It is empty if the options `add_bos_token` and `add_eos_token` decide.
    """

    special_tokens: Mapping[str, str]
    normalizer: str = ""  # empty, `NFC` or `CLIP`
    pattern: str = ""  # splits a text into words; empty for the pattern of GPT-2
    word_suffix: str = ""  # is appended to the last token of each word
    template: tuple[str, ...] = ()


_GPT2 = TokenizerClass(
    {"bos_token": _END_OF_TEXT, "eos_token": _END_OF_TEXT, "unk_token": _END_OF_TEXT}
)
_GPT_NEOX = TokenizerClass({**_GPT2.special_tokens, "pad_token": "<|padding|>"}, normalizer="NFC")
_QWEN_TOKENS = {"eos_token": _END_OF_TEXT, "unk_token": _END_OF_TEXT, "pad_token": _END_OF_TEXT}
_ROBERTA = TokenizerClass(
    {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    },
    template=("cls_token", "$A", "sep_token"),
)
_CLASSES = {
    "BartTokenizer": _ROBERTA,
    "CLIPTokenizer": TokenizerClass(
        {**_QWEN_TOKENS, "bos_token": "<|startoftext|>"},
        normalizer="CLIP",
        pattern=_CLIP_PATTERN,
        word_suffix="</w>",
        template=("bos_token", "$A", "eos_token"),
    ),
    "CodeGenTokenizer": _GPT2,
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": _GPT_NEOX,
    "Qwen2Tokenizer": TokenizerClass(_QWEN_TOKENS, normalizer="NFC", pattern=_QWEN2_PATTERN),
    "Qwen3_5Tokenizer": TokenizerClass(_QWEN_TOKENS, normalizer="NFC", pattern=_QWEN3_5_PATTERN),
    "RobertaTokenizer": _ROBERTA,
    "WhisperTokenizer": TokenizerClass(
        _GPT2.special_tokens,
        template=("<|startoftranscript|>", "<|notimestamps|>", "$A", "eos_token"),
    ),
}
_CLASS_OF_MODEL = {
    "bart": "BartTokenizer",
    "clip": "CLIPTokenizer",
    "codegen": "GPT2Tokenizer",
    "falcon_mamba": "GPTNeoXTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "gptj": "GPT2Tokenizer",
    "mamba": "GPTNeoXTokenizer",
    "mamba2": "GPTNeoXTokenizer",
    "mpt": "GPTNeoXTokenizer",
    "olmo": "GPTNeoXTokenizer",
    "olmoe": "GPTNeoXTokenizer",
    "opt": "GPT2Tokenizer",
    "phi": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_5": "Qwen3_5Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "qwen3_next": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "starcoder2": "GPT2Tokenizer",
    "whisper": "WhisperTokenizer",
}
"""Maps `model_type` to the tokenizer class of a model whose files name no class."""

_OWN_CLASS_WINS = {"qwen2", "qwen3_5"}
"""Values of `model_type` whose published files name a wrong tokenizer class."""


def tokenizer_class(
    model_path: Path, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> TokenizerClass:
    """Return the class that the files of the model name. If they name neither a class nor a
    `model_type`, the class is GPT-2's. Raises `ModelError` if the class is not in the table.
    """
    model_type = config.get("model_type")
    by_model = _CLASS_OF_MODEL.get(model_type) if isinstance(model_type, str) else None
    named = tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class")
    if model_type in _OWN_CLASS_WINS or named is None:
        named = by_model if model_type is not None else "GPT2Tokenizer"
    name = named.removesuffix("Fast") if isinstance(named, str) else ""
    if name not in _CLASSES:
        owner = f"the class `{shown(name)}`" if name else f"a `{shown(str(model_type))}` model"
        raise ModelError(
            f"{model_path}: the folder contains no tokenizer.json, and the tokenizer of {owner}"
            " cannot be built from vocab.json and merges.txt.",
            NO_TOKENIZER_REMEDY,
        )
    return _CLASSES[name]


def build_tokenizer(
    model_path: Path, recipe: TokenizerClass, tokenizer_config: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """Build the tokenizer from vocab.json and merges.txt, without special tokens."""
    vocab, merges = model_path / "vocab.json", model_path / "merges.txt"
    for path in (vocab, merges):
        read_limited(path, MAX_TOKENIZER_BYTES)
    options: dict[str, Any] = {"fuse_unk": False}
    if recipe.word_suffix:
        options |= {
            "end_of_word_suffix": recipe.word_suffix,
            "unk_token": recipe.special_tokens["unk_token"],
        }
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges), **options))
    prefix = tokenizer_config.get("add_prefix_space") is True and not recipe.word_suffix
    byte_level = pre_tokenizers.ByteLevel(
        add_prefix_space=prefix, use_regex=not recipe.pattern or bool(recipe.word_suffix)
    )
    if recipe.normalizer == "NFC":
        backend.normalizer = normalizers.NFC()
    elif recipe.normalizer == "CLIP":
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
    if recipe.pattern:
        split = pre_tokenizers.Split(
            Regex(recipe.pattern),
            "removed" if recipe.word_suffix else "isolated",
            invert=bool(recipe.word_suffix),
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    if recipe.word_suffix:
        spaces = decoders.Replace(recipe.word_suffix, " ")
        backend.decoder = decoders.Sequence([decoders.ByteLevel(), spaces])
    return backend


def add_template(
    backend: tokenizers.Tokenizer,
    recipe: TokenizerClass,
    tokenizer_config: Mapping[str, Any],
    special_tokens: Mapping[str, str],
) -> None:
    """Set the special tokens that the tokenizer adds to each text. These tokens must already be in
    the vocabulary.
    """
    template = recipe.template
    if not template:
        before = ("bos_token",) if tokenizer_config.get("add_bos_token") is True else ()
        after = ("eos_token",) if tokenizer_config.get("add_eos_token") is True else ()
        template = (*before, "$A", *after)
    texts = [special_tokens.get(part, part) for part in template]
    known = [(text, backend.token_to_id(text)) for text in texts if text != "$A"]
    missing = {text for text, number in known if number is None}
    backend.post_processor = processors.TemplateProcessing(
        single=[text for text in texts if text not in missing],
        special_tokens=[(text, number) for text, number in known if number is not None],
    )
