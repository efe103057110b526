"""The inputs of the compiled model for one step, as arrays of fixed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import jax

__all__ = ["StepArrays"]


# The cache is opaque to callers: `model.empty_cache` creates it, and `model.forward` and
# `model.copy_blocks` return it.


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepArrays:
    """A step padded to a bucket. Every array is int32.

    The bucket has T tokens, S sequences, P blocks per sequence and R rows with logits. The tokens
    of a sequence are consecutive, and padding comes last in every array.

    `slot_mapping` contains slots of one layer (block * block_size + offset). If the value of a
    token is not less than the number of slots, the token's keys and values are not written. Padding
    must have such a value. `cu_query_lens` repeats its last sum as padding. In the other arrays
    padding may have any value, but ids must be inside their tables.
    """

    token_ids: jax.Array  # [T]
    positions: jax.Array  # [T], within the token's sequence
    slot_mapping: jax.Array  # [T], slots of the tokens' keys and values
    cu_query_lens: jax.Array  # [S + 1], cumulative numbers of tokens in this step, beginning with 0
    context_lens: jax.Array  # [S], number of keys, including those of this step
    block_tables: jax.Array  # [S, P]
    num_sequences: jax.Array  # [1], without padding
    logit_indices: jax.Array  # [R], the tokens after which logits are needed
    # [S], the maximum of prompt length and context length. The frequencies of dynamic NTK and
    # LongRoPE depend on this length.
    rotary_lens: jax.Array
