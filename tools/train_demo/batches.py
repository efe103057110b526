"""Batches of tokens: conversations are packed into rows of a few fixed lengths, so that the model
is compiled once per length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.train_demo.chat_format import segments
from tools.train_demo.text.generator import conversations

__all__ = ["Batch", "pool_batches"]

LENGTHS = (96, 256, 768)
"""The row lengths in tokens. Most conversations fit into the shortest length, in which attention
takes the least time. Conversations that do not fit into the longest row are truncated.
"""
IGNORED = -100

Row = list[tuple[list[int], list[int]]]
"""The conversations of a row, each as a pair of tokens and targets."""


class Batch(NamedTuple):
    """The arrays of a training step, each int64 (rows, length)."""

    tokens: Tensor
    targets: Tensor
    """The next token, or -100 if the position has no loss."""
    documents: Tensor
    """The number of the conversation in its row to which a token belongs, or -1 for padding."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens without padding."""
        return int((self.documents >= 0).sum())


def pool_batches(
    tokenizer: Tokenizer, seed: int, pool: int, pool_size: int, batch_tokens: int
) -> Iterator[Batch]:
    """Yield the batches of one pool of conversations, each with `batch_tokens` tokens including
    padding. Their order depends only on the seed and the pool.
    """
    drawn = [
        segments(conversation) for conversation in conversations(seed, pool * pool_size, pool_size)
    ]
    encoded = iter(
        tokenizer.encode_batch_fast(
            [text for parts in drawn for text, _ in parts], add_special_tokens=False
        )
    )
    found: Row = []
    for parts in drawn:
        ids: list[int] = []
        goals: list[int] = []
        for _, is_target in parts:
            piece = next(encoded).ids
            ids += piece
            goals += piece if is_target else [IGNORED] * len(piece)
        found.append((ids[:-1][: LENGTHS[-1]], goals[1:][: LENGTHS[-1]]))
    rng = random.Random(f"{seed}/{pool}")
    groups = []
    for length, rows in _packed(found).items():
        rng.shuffle(rows)
        count = batch_tokens // length
        groups += [
            (length, count, rows[start : start + count]) for start in range(0, len(rows), count)
        ]
    rng.shuffle(groups)
    for length, count, group in groups:
        yield _arrays(length, count, group)


def _packed(found: Row) -> dict[int, list[Row]]:
    """Return packed rows by length. Conversations are placed from the longest to the shortest, each
    into the row with the least free space that is sufficient (best fit).
    """
    rows: dict[int, list[Row]] = {length: [] for length in LENGTHS}
    by_room: list[list[Row]] = [[] for _ in range(LENGTHS[-1])]
    for conversation in sorted(found, key=lambda pair: -len(pair[0])):
        need = len(conversation[0])
        room = next((room for room in range(need, LENGTHS[-1]) if by_room[room]), 0)
        if room:
            row = by_room[room].pop()
        else:
            room = next(length for length in LENGTHS if need <= length)
            row = []
            rows[room].append(row)
        row.append(conversation)
        by_room[room - need].append(row)
    return rows


def _arrays(length: int, count: int, rows: list[Row]) -> Batch:
    tokens: npt.NDArray[np.int64] = np.zeros((count, length), np.int64)
    targets = np.full((count, length), IGNORED, np.int64)
    documents = np.full((count, length), -1, np.int64)
    for row, conversations_of_row in enumerate(rows):
        start = 0
        for document, (ids, goals) in enumerate(conversations_of_row):
            end = start + len(ids)
            tokens[row, start:end], targets[row, start:end], documents[row, start:end] = (
                ids,
                goals,
                document,
            )
            start = end
    return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(documents))
