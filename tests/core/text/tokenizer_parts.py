"""Small tokenizers with the pre-tokenizers, normalizers and decoders of published models."""

import functools
import json

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 1234567890 o'clock, isn't it?\n",
    "def main(argument):\n    return [argument, 3.14159, 'text']\n\n\nmain(12)\n",
    "Größe, naïve, façade, Übermäßig; 東京は大きい。 Привет, мир! ¿Qué tal? 🙂🙃",
    "Hello world, hello moon, hello sun. The world is round, and the moon is far away.",
]

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = rf"{_SHORT}|{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS}"
QWEN2 = rf"{_SHORT}|{_LETTERS}|\p{{N}}|{_SIGNS}"
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
NEMOTRON = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_words(pattern=None, **options):
    """The pre-tokenizer of Llama 3 and Qwen: a pattern, then bytes."""
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits_apart(individual=True):
    """The pre-tokenizer of StarCoder, SmolLM and Granite."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=individual), byte_level_words()]
    )


def falcon_words():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation(behavior="contiguous"),
            byte_level_words(),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex(r"[0-9][0-9][0-9]"), "isolated"),
        ]
    )


def deepseek_words():
    patterns = ["[\r\n]", r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6]+", r"\s?[!-/:-~]+", r"\s+$"]
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence(
        [
            *splits,
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_level(words, special, *, normalizer=None, size=420, word_suffix=""):
    """A byte-level BPE tokenizer. `special` are the first ids."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=word_suffix))
    tokenizer.pre_tokenizer = words
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=word_suffix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@functools.cache
def _merges():
    """Merges over words that begin with ▁, and their characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    tokenizer.train_from_iterator([text.replace("🙂🙃", "") for text in CORPUS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return list(model["vocab"]), [tuple(merge) for merge in model["merges"]]


def byte_fallback(special, *, unk="<unk>"):
    """The model of Llama 2 and Gemma: pieces that begin with ▁, and tokens for single bytes."""
    pieces, merges = _merges()
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *pieces]
    vocab = {name: number for number, name in enumerate(dict.fromkeys(names))}
    model = models.BPE(vocab=vocab, merges=merges, unk_token=unk, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    return tokenizer


def llama2(special, *, is_legacy=True):
    tokenizer = byte_fallback(special)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    if is_legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return with_template(tokenizer, [special[1]])


def gemma(special):
    tokenizer = byte_fallback(special)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return with_template(tokenizer, [special[2]])


def unigram(special, *, extra=()):
    """The tokenizer of T5: Unigram with ▁, and an EOS token after the text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (*special, *extra)])
    return with_template(tokenizer, [], ["</s>"])


def with_template(tokenizer, before, after=(), *, is_byte_level=False):
    """Add special tokens around each text."""
    names = [*before, *after]
    template = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)],
    )
    tokenizer.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
        if is_byte_level
        else template
    )
    return tokenizer


def with_tokens(tokenizer, special=(), ordinary=(), **options):
    """Add tokens after the vocabulary."""
    tokenizer.add_special_tokens([AddedToken(text, special=True, **options) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False, **options) for text in ordinary])
    return tokenizer
