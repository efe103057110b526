"""Greedy text from a model in training, without a server: every step runs the whole sequence again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.train_demo.chat_format import END
from tools.train_demo.model import Llama

__all__ = ["greedy"]


@torch.inference_mode()
def greedy(model: Llama, tokenizer: Tokenizer, texts: Sequence[str], max_new_tokens: int) -> list[tuple[str, bool]]:
    """The continuation of each text, and whether it ended by itself."""
    end = tokenizer.token_to_id(END)
    rows = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    starts = [len(row) for row in rows]
    is_open = [True] * len(rows)
    for _ in range(max_new_tokens):
        active = [index for index, is_on in enumerate(is_open) if is_on]
        if not active:
            break
        for index, token in zip(active, _next_tokens(model, [rows[index] for index in active]).tolist(), strict=True):
            is_open[index] = token != end
            if token != end:
                rows[index].append(token)
    return [(tokenizer.decode(row[start:]), not is_on) for row, start, is_on in zip(rows, starts, is_open, strict=True)]


def _next_tokens(model: Llama, rows: list[list[int]]) -> Tensor:
    """The most likely next token of each row [rows]."""
    last = torch.tensor([len(row) - 1 for row in rows])
    padded = torch.zeros(len(rows), int(last.max()) + 1, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row)
    hidden: Tensor = model(padded)
    return model.logits(hidden[torch.arange(len(rows)), last]).argmax(-1)
