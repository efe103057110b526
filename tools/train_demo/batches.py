"""Batches of tokens: conversations packed into rows of a few fixed lengths, so that each length is
compiled once.
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
from tools.train_demo.generator import conversations

__all__ = ["Batch", "pool_batches"]

LENGTHS = (96, 256, 768)
"""Tokens of a row. Most conversations fit into the shortest, where attention costs least; what fits
into none is cut.
"""
IGNORED = -100

Row = list[tuple[list[int], list[int]]]
"""The conversations of a row, each as its tokens and targets."""


class Batch(NamedTuple):
    """Arrays [rows, length] of int64."""

    tokens: Tensor
    targets: Tensor
    """The next token, or -100 where nothing is learned."""
    documents: Tensor
    """Which conversation of its row a token belongs to; -1 behind the last."""

    @property
    def num_tokens(self) -> int:
        """Tokens of conversations, without the padding."""
        return int((self.documents >= 0).sum())


def pool_batches(
    tokenizer: Tokenizer, seed: int, pool: int, pool_size: int, batch_tokens: int
) -> Iterator[Batch]:
    """The batches of one pool of conversations, in an order that the seed fixes; each has
    `batch_tokens` places.
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
    """Rows by their length: the longest conversations first, each into the row with the least room
    that suffices.
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
