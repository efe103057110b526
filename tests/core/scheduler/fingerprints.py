"""The fingerprints of `CheckingWorker`, and the tokens and scores that it derives from them."""

from __future__ import annotations

import numpy as np

VOCAB_SIZE = 11


def fingerprint(before, token):
    return hash((before, token))


def start_print(adapter, encoder_tokens):
    """Return the fingerprint before the first token."""
    return fingerprint(adapter, tuple(encoder_tokens)) if len(encoder_tokens) else adapter


def choose(print_, draw, allowed=None):
    """Return one of the token ids `allowed`, or any token id if it is None."""
    number = hash((print_, round(float(draw) * 2**24))) & 0xFFFF
    return number % VOCAB_SIZE if allowed is None else sorted(allowed)[number % len(allowed)]


def allowed_tokens(step):
    """Return the token ids that the masks of a step allow, by row."""
    if step.masks is None or not len(step.masks.row):
        return {}
    words = step.masks.words.reshape(len(step.masks.row), -1).view(np.uint8)
    bits = np.unpackbits(words, axis=1, bitorder="little")
    rows = step.masks.row.tolist()
    return {row: np.flatnonzero(bits[i]).tolist() for i, row in enumerate(rows)}


def top_tokens(value, count):
    """Return the top tokens of a prompt position with this score."""
    return tuple((rank, float(np.float32(value - rank))) for rank in range(count))


def top_arrays(values, count):
    pairs = [pair for value in values for pair in top_tokens(value, count)]
    return np.array([i for i, _ in pairs], np.int32), np.array([v for _, v in pairs], np.float32)


def score(print_):
    return -float(print_ & 0xFF)


def open_handles(rows):
    """Return the handles of the rows that may generate several tokens."""
    return set(rows.sequence[rows.max_tokens > 1].tolist()) if len(rows.max_tokens) else set()
