"""Sizes of a model's cache and workspace in bytes."""

from __future__ import annotations

import math
from pathlib import Path

from tgi.architectures.checkpoint import stored_tensors
from tgi.architectures.spec import (
    MLP,
    CrossAttention,
    GatedRecurrence,
    GenericSpec,
    LatentAttention,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    ShortConvolution,
    StateSpace,
)
from tgi.worker.cache_layout import (
    ENCODER_QUERY_CHUNK,
    RecurrentMixer,
    recurrent_shapes,
    scales_per_token,
    state_values,
    values_per_token,
)

__all__ = ["checkpoint_bytes", "kv_bytes_per_token", "state_bytes", "workspace_bytes"]

_FLOAT32_BYTES = 4
_STATE_COPIES = 4  # the states before and after a step, the decayed states and the increments
_GENERIC_WIDENING = 4  # ratio of intermediate to hidden size of an unknown family
# Residual, normalized, fused query-key-value (up to 3), attention output and projection.
_HIDDEN_COPIES = 8


def checkpoint_bytes(model_path: Path, value_bytes: int) -> int:
    """Return the bytes of all tensors in the checkpoint if each value has `value_bytes`. Raises
    `ModelError` if the checkpoint cannot be read.
    """
    tensors = stored_tensors(model_path).values()
    return sum(math.prod(stored.shape) for stored in tensors) * value_bytes


def kv_bytes_per_token(
    spec: ModelSpec | GenericSpec, value_bytes: int, scale_bytes: int = 0
) -> int:
    """Return the bytes that are stored for one token in all layers. If the model has an encoder,
    the bytes of one encoder token are included.

    `value_bytes` is the size of one value. `scale_bytes` is the size of the scale of one token and
    head.
    """
    num_values, num_scales = values_per_token(spec), scales_per_token(spec) if scale_bytes else 0
    return num_values * value_bytes + num_scales * scale_bytes


def state_bytes(spec: ModelSpec | GenericSpec, value_bytes: int) -> int:
    """Return the bytes that are stored for one sequence in all recurrent layers. They do not depend
    on the length of the sequence.
    """
    windows, states = state_values(spec)
    return windows * value_bytes + states * _FLOAT32_BYTES


def workspace_bytes(
    spec: ModelSpec | GenericSpec,
    value_bytes: int,
    max_step_tokens: int,
    max_sequences: int,
    *,
    logits_copies: int,
) -> int:
    """Return the bytes that the largest step needs temporarily. They are the sum of the activations
    of one layer, the logits with the sampler's copies, the copies of recurrent states, and the
    attention scores of an encoder.
    """
    stack = () if isinstance(spec, GenericSpec) else spec.decoder.layers
    mixers = [
        branch.mixer for layer in stack for block in layer.blocks for branch in block.branches
    ]
    widths = [_GENERIC_WIDENING * spec.hidden_size] if isinstance(spec, GenericSpec) else []
    widths += [_width(mixer) for mixer in mixers]
    per_token = (_HIDDEN_COPIES * spec.hidden_size + 3 * max(widths, default=0)) * value_bytes
    num_logits = min(max_sequences, max_step_tokens) * spec.vocab_size
    states = max(
        (math.prod(recurrent_shapes(m)[1]) for m in mixers if isinstance(m, RecurrentMixer)),
        default=0,
    )
    state_copies = _STATE_COPIES * max_sequences * states * _FLOAT32_BYTES
    # Scores and position biases of one chunk of queries over all encoder tokens.
    heads = max((m.num_heads for m in mixers if isinstance(m, CrossAttention)), default=0)
    encoder = (
        2 * heads * min(ENCODER_QUERY_CHUNK, max_step_tokens) * max_step_tokens * _FLOAT32_BYTES
    )
    logits = num_logits * _FLOAT32_BYTES * logits_copies
    return max_step_tokens * per_token + logits + state_copies + encoder


def _width(mixer: Mixer) -> int:
    """Return the number of values per token of a mixer's widest intermediate result. The hidden
    vectors are not counted.
    """
    match mixer:
        case MLP():
            return mixer.intermediate_size
        case MixtureOfExperts():
            return mixer.expert.intermediate_size * mixer.experts_per_token
        case LatentAttention():
            return mixer.num_heads * (mixer.kv_lora_rank + mixer.qk_rope_head_dim)
        case StateSpace(inner_size=size) | GatedRecurrence(channels=size):
            return 2 * size
        case ShortConvolution():
            return mixer.channels
        case _:
            return 0
