"""The tokenizer: byte-level BPE learned from the generated text, every digit a token of its own."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.train_demo.chat_format import SPECIAL_TOKENS, segments
from tools.train_demo.generator import conversations

__all__ = ["train_tokenizer"]

VOCAB_SIZE = 2048
SEED = 1
NUM_CONVERSATIONS = 60_000


def train_tokenizer() -> Tokenizer:
    """Learn the merges from conversations of a seed of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            # Punctuation alone: a quotation mark never melts with a brace, so that JSON is copied piece by piece.
            pre_tokenizers.Split(Regex(r"[^\s\p{L}\p{N}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for conversation in conversations(SEED, 0, NUM_CONVERSATIONS) for text, _ in segments(conversation))
    tokenizer.train_from_iterator((text.replace(SPECIAL_TOKENS[2], "") for text in texts), trainer)
    return tokenizer
