"""The tokenizer: byte-level BPE trained on the generated text. Every digit is a separate token.

The words of the exercises are excluded from the text for the tokenizer, unless the facts about tgi
contain them. The tokenizer therefore splits these words into pieces of a few letters, which many
words have in common. This lets the model spell words that were never spelled in training.
"""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.train_demo.chat_format import SPECIAL_TOKENS, segments
from tools.train_demo.text.exercises import WORDS
from tools.train_demo.text.generator import conversations
from tools.train_demo.text.tgi_facts import FACTS

__all__ = ["train_tokenizer"]

VOCAB_SIZE = 2048
SEED = 1
NUM_CONVERSATIONS = 60_000


def train_tokenizer() -> Tokenizer:
    """Train the tokenizer on conversations of a separate seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            # Punctuation characters are never merged with each other, for example a quotation mark
            # with a brace. This makes it easier to copy parts of JSON.
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
    texts = (
        text
        for conversation in conversations(SEED, 0, NUM_CONVERSATIONS)
        for text, _ in segments(conversation)
    )
    in_pieces = _words_in_pieces()
    without_end = (text.replace(SPECIAL_TOKENS[2], "") for text in texts)
    tokenizer.train_from_iterator(
        (
            re.sub("[A-Za-z]+", lambda word: "" if word[0].lower() in in_pieces else word[0], text)
            for text in without_end
        ),
        trainer,
    )
    return tokenizer


def _words_in_pieces() -> frozenset[str]:
    """Return the words of the exercises that do not occur in the facts about tgi."""
    known = {
        word
        for fact in FACTS
        for text in (fact.answer, *fact.questions)
        for word in re.findall("[a-z]+", text.lower())
    }
    return frozenset(WORDS) - known
