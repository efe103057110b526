"""Greedy decoding with a model in training, without a server and without a KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.train_demo.chat_format import END
from tools.train_demo.model import Llama

__all__ = ["agreement", "greedy", "greedy_ids"]


ROWS = 32


def greedy(
    model: Llama, tokenizer: Tokenizer, texts: Sequence[str], max_new_tokens: int
) -> list[tuple[str, bool]]:
    """Return the continuation of each text, and whether it ended with the end token."""
    prompts = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return [
        (tokenizer.decode(ids), is_ended)
        for ids, is_ended in greedy_ids(model, tokenizer, prompts, max_new_tokens)
    ]


@torch.inference_mode()
def greedy_ids(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[list[int]], max_new_tokens: int
) -> list[tuple[list[int], bool]]:
    """Return the tokens of each continuation without the end token, and whether it ended with the
    end token. Prompts of similar length are batched.
    """
    end = tokenizer.token_to_id(END)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: list[tuple[list[int], bool]] = [([], False)] * len(prompts)
    for start in range(0, len(order), ROWS):
        indices = order[start : start + ROWS]
        written: dict[int, list[int]] = {index: [] for index in indices}
        is_open = dict.fromkeys(indices, True)
        for _ in range(max_new_tokens):
            active = [index for index in indices if is_open[index]]
            if not active:
                break
            next_tokens = _next_tokens(
                model, [prompts[index] + written[index] for index in active]
            ).tolist()
            for index, token in zip(active, next_tokens, strict=True):
                is_open[index] = token != end
                if token != end:
                    written[index].append(token)
        for index in indices:
            found[index] = (written[index], not is_open[index])
    return found


@torch.inference_mode()
def agreement(draft: Llama, answers: Sequence[tuple[list[int], list[int]]]) -> tuple[int, int]:
    """Return how many tokens of another model's greedy answers the draft model predicts, and the
    number of all tokens.

    `answers` are pairs (prompt, answer). The draft model predicts each token from the prompt and
    the preceding tokens of the answer, as in speculative decoding.
    """
    hits = total = 0
    for prompt, answer in answers:
        hidden: Tensor = draft(torch.tensor([prompt + answer[:-1]]))
        draft_tokens = draft.logits(hidden[0, len(prompt) - 1 :]).argmax(-1)
        hits += int((draft_tokens == torch.tensor(answer)).sum())
        total += len(answer)
    return hits, total


def _next_tokens(model: Llama, rows: list[list[int]]) -> Tensor:
    """Return the most likely next token of each row, (rows)."""
    last = torch.tensor([len(row) - 1 for row in rows])
    padded = torch.zeros(len(rows), int(last.max()) + 1, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row)
    hidden: Tensor = model(padded)
    return model.logits(hidden[torch.arange(len(rows)), last]).argmax(-1)
