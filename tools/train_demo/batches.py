"""Batches of tokens: conversations of similar length side by side, each from position zero."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.train_demo.chat_format import segments
from tools.train_demo.generator import conversations

__all__ = ["Batch", "pool_batches"]

Batch = tuple[Tensor, Tensor]
"""Tokens [rows, length] and targets [rows, length], both int64; the target is -100 where nothing is learned."""

IGNORED = -100


def pool_batches(
    tokenizer: Tokenizer, seed: int, pool: int, pool_size: int, batch_tokens: int, max_length: int
) -> Iterator[Batch]:
    """The batches of one pool of conversations, in an order that the seed fixes."""
    rows = []
    drawn = [segments(conversation) for conversation in conversations(seed, pool * pool_size, pool_size)]
    encoded = iter(tokenizer.encode_batch_fast([text for parts in drawn for text, _ in parts], add_special_tokens=False))
    for parts in drawn:
        tokens: list[int] = []
        targets: list[int] = []
        for _, is_target in parts:
            ids = next(encoded).ids
            tokens += ids
            targets += ids if is_target else [IGNORED] * len(ids)
        rows.append((tokens[: max_length + 1], targets[: max_length + 1]))
    rows.sort(key=lambda row: len(row[0]))
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    random.Random(f"{seed}/{pool}").shuffle(groups)
    for group in groups:
        yield _pad(group)


def _pad(rows: list[tuple[list[int], list[int]]]) -> Batch:
    length = max(len(tokens) for tokens, _ in rows)
    tokens = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), IGNORED, np.int64)
    for index, (row, goals) in enumerate(rows):
        tokens[index, : len(row)] = row
        targets[index, : len(goals)] = goals
    return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(targets[:, 1:])
