"""Tokenizers of the two common kinds, trained when the tests run."""

import json

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = [
    "The quick brown fox jumps over the lazy dog. ",
    "Größe, naïve, façade, 東京 🙂🙃 — and so on; 1234567890 {}[]()<>!?",
    "Hello world, hello moon, hello sun.",
]
SPECIAL = ["<s>", "</s>", "<|im_end|>"]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def sentencepiece_like():
    """A tokenizer like that of Llama 2: words begin with ▁, unknown characters become byte tokens,
    and a BOS token is added.
    """
    characters = sorted(set("".join(TEXT)) - set("東京🙂🙃"))
    pieces = [
        *SPECIAL,
        "<unk>",
        *[f"<0x{i:02X}>" for i in range(256)],
        "▁",
        *characters,
        "▁hello",
        "▁world",
        "▁The",
    ]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    return tokenizer


def metaspace():
    """A tokenizer like that of T5: words begin with ▁, and unknown characters have no tokens."""
    words = ["▁", "▁The", "▁hello", "▁world", "wor", "ld", "\ufffd", ",", "."]
    vocab = [("<unk>", 0.0), *((word, -1.0 - place) for place, word in enumerate(words))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer


KINDS = {
    "byte_level": byte_level,
    "metaspace": metaspace,
    "sentencepiece_like": sentencepiece_like,
}


@pytest.fixture(scope="session", params=sorted(KINDS))
def model_path(request, tmp_path_factory):
    return save(KINDS[request.param](), tmp_path_factory.mktemp(request.param))


def save(tokenizer, path, **files):
    tokenizer.save(str(path / "tokenizer.json"))
    files = {"tokenizer_config": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}} | files
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path
