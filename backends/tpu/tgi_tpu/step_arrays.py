"""One step as arrays of fixed shapes: what the compiled model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import jax

__all__ = ["StepArrays"]


# The cache is opaque to whoever runs the model: `model.empty_cache` makes it, `model.forward` and
# `model.copy_blocks` return it.


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepArrays:
    """A step padded to a bucket: T tokens, S sequences, P blocks per sequence, R rows with logits.
    Every array is int32.

    The tokens of a sequence lie side by side, sequence after sequence; padding comes last in every
    array. `slot_mapping` counts slots of one layer (block * block_size + offset); the number of
    slots, or more, means that nothing is written, and padding has it. What padding holds in the
    other arrays does not matter, except that `cu_query_lens` repeats its last sum there and that
    ids stay inside their tables.
    """

    token_ids: jax.Array  # [T]
    positions: jax.Array  # [T], within its sequence
    slot_mapping: jax.Array  # [T], where a token's key and value go
    cu_query_lens: jax.Array  # [S + 1], sums of the sequences' tokens in this step, from 0
    context_lens: jax.Array  # [S], keys of a sequence, those of this step included
    block_tables: jax.Array  # [S, P]
    num_sequences: jax.Array  # [1], sequences that are not padding
    logit_indices: jax.Array  # [R], the token after which logits are wanted
    # [S], prompt or context, whichever is longer; dynamic NTK and LongRoPE choose frequencies by it
    rotary_lens: jax.Array
