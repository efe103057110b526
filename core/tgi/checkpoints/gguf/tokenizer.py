"""Builds tokenizer.json from the metadata of a GGUF file.

Two kinds of tokenizers are read: `llama` is the BPE of SentencePiece with a score per token, and
`gpt2` is byte-level BPE with merges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tgi.architectures.file_reader import shown
from tgi.checkpoints.gguf.container import GgufHeader
from tgi.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from tgi.checkpoints.gguf.vocabulary import TokenType, Vocabulary, tokenizer_error

__all__ = ["tokenizer_of"]

Json = dict[str, Any]

_MODEL, _PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_SPACE = "\u2581"  # represents a space in the tokens of SentencePiece
_PHI3_NAMES = ("phi-3", "phi3")


def tokenizer_of(header: GgufHeader) -> tuple[Json, Vocabulary]:
    """Return the content of tokenizer.json, and the vocabulary. Raises `ModelError` if the kind of
    tokenizer or its pre-tokenizer is unknown, or if a value is missing or wrong.
    """
    kind = header.metadata.text(_MODEL, default="none")
    match kind:
        case "llama":
            vocabulary = Vocabulary(header, has_default_ids=True)
            parts = _sentence_pieces(vocabulary)
        case "gpt2":
            vocabulary = Vocabulary(header, has_default_ids=False)
            parts = _byte_level(vocabulary)
        case _:
            raise tokenizer_error(
                header,
                f"the kind of tokenizer is `{shown(kind)}`, and only gpt2 and llama are read",
            )
    strips_right = kind == "llama" and _is_phi3(header)
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(strips_right=strips_right),
        **parts,
    }
    return whole, vocabulary


def _sentence_pieces(vocabulary: Vocabulary) -> Json:
    """The parts of a tokenizer that applies the merge with the highest score first."""
    metadata = vocabulary.metadata
    scores = metadata.numbers("tokenizer.ggml.scores", len(vocabulary.tokens))
    has_prefix = metadata.boolean("tokenizer.ggml.add_space_prefix", default=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizers = [replace]
    decoders: list[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": vocabulary.template(adds_bos=True),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            vocabulary,
            [list(pair) for pair in _merges(vocabulary, scores)],
            unk_token=vocabulary.special_fields.get("unk_token"),
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _merges(vocabulary: Vocabulary, scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tokens whose concatenation is a token, by decreasing score of this token.
    Added tokens are left out, because they are recognized before merges are applied.
    """
    mergeable = dict(_mergeable(vocabulary))
    known = set(mergeable.values())
    for number in sorted(mergeable, key=lambda number: (-scores[number], number)):
        token = mergeable[number]
        for end in range(len(token) - 1, 0, -1):
            if token[:end] in known and token[end:] in known:
                yield token[:end], token[end:]


def _mergeable(vocabulary: Vocabulary) -> Iterator[tuple[int, str]]:
    yield from vocabulary.of_type(TokenType.NORMAL, TokenType.UNUSED, TokenType.BYTE)


def _byte_level(vocabulary: Vocabulary) -> Json:
    """The parts of a tokenizer whose tokens are sequences of bytes."""
    pre_tokenizer = _pre_tokenizer(vocabulary)
    merges = [_pair(merge) for merge in vocabulary.metadata.strings("tokenizer.ggml.merges")]
    known = set(vocabulary.tokens)
    for pair in merges:
        for text in (*pair, "".join(pair)):
            if text not in known:
                raise tokenizer_error(
                    vocabulary.header, f"the merge {pair} or its result is not in the vocabulary"
                )
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    return {
        "normalizer": {"type": pre_tokenizer.normalizer} if pre_tokenizer.normalizer else None,
        "pre_tokenizer": pre_tokenizer.json,
        "post_processor": vocabulary.template(adds_bos=pre_tokenizer.adds_bos),
        "decoder": decoder | {"use_regex": True},
        "model": _bpe(vocabulary, merges, ignore_merges=pre_tokenizer.ignores_merges),
    }


def _pre_tokenizer(vocabulary: Vocabulary) -> PreTokenizer:
    name = vocabulary.metadata.text(_PRE, default="default")
    if name not in PRE_TOKENIZERS:
        raise tokenizer_error(
            vocabulary.header,
            f"the pre-tokenizer `{shown(name)}` is unknown; known are {', '.join(PRE_TOKENIZERS)}",
        )
    return PRE_TOKENIZERS[name]


def _pair(merge: str) -> list[str]:
    """Split a merge at its first space. A token may begin with a space."""
    end = merge.find(" ", 1)
    return [merge[:end], merge[end + 1 :]] if end > 0 else [merge, ""]


def _bpe(vocabulary: Vocabulary, merges: list[list[str]], **options: object) -> Json:
    defaults: Json = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    vocab = {token: number for number, token in enumerate(vocabulary.tokens)}
    return defaults | options | {"vocab": vocab, "merges": merges}


def _is_phi3(header: GgufHeader) -> bool:
    """Whether the model is Phi-3. Its tokenizer removes spaces after added tokens, which no key of
    the metadata describes. llama.cpp recognizes the model by its name, too.
    """
    name = header.metadata.text("general.name", default="").lower()
    return any(part in name for part in _PHI3_NAMES)
