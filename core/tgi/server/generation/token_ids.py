"""Checks the token ids of a request.

The tokenizer of a model may have ids for which the embedding has no row, for example if tokens were
added without resizing the embedding. Ids from the client and ids from the tokenizer are therefore
both checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tgi.errors import ValidationError

__all__ = ["check_prompt_ids", "check_sent_ids"]


def check_sent_ids(token_ids: Iterable[int], vocab_size: int, field: str) -> None:
    """Check ids that a client sent. Raises `ValidationError` with the field and the first id that
    the model does not have.
    """
    outside = _first_outside(token_ids, vocab_size)
    if outside is not None:
        raise ValidationError(
            f"`{field}` must contain token ids >= 0 and < {vocab_size}. Given: {outside}"
        )


def check_prompt_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """Check the ids of a whole prompt. Raises `ValidationError` with the first id that the model
    does not have.
    """
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        outside = _first_outside(token_ids, vocab_size)
        raise ValidationError(
            f"the prompt contains token id {outside}, the model has {vocab_size} token ids"
        )


def _first_outside(token_ids: Iterable[int], vocab_size: int) -> int | None:
    return next((token for token in token_ids if not 0 <= token < vocab_size), None)
