"""Decides if the native kernels support a model."""

from __future__ import annotations

from collections.abc import Iterator

from tgi.architectures import MLP, Attention, DynamicScaling, LongRopeScaling, ModelSpec

__all__ = ["ACTIVATIONS", "unsupported"]

ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "relu_squared": 5}


def unsupported(spec: ModelSpec) -> tuple[str, ...]:
    """Return the parts of `spec` that the native kernels do not support. The result is empty if all
    parts are supported.
    """
    return tuple(dict.fromkeys(_unsupported(spec)))


def _unsupported(spec: ModelSpec) -> Iterator[str]:
    if len(spec.stacks) != 1:
        yield "an encoder"
    if spec.embedding.size not in (None, spec.hidden_size):
        yield "an embedding of another size"
    if spec.embedding.layer_inputs is not None:
        yield "an embedding per layer"
    for block in (block for layer in spec.decoder.layers for block in layer.blocks):
        if block.residual_from_norm or block.output_norm is not None:
            yield "a norm on the residual"
        if block.output_scale or block.input_scale != 1.0:
            yield "a scale on the residual"
        if block.norm is None and any(branch.norm is None for branch in block.branches):
            yield "a mixer without a norm before it"
        for mixer in (branch.mixer for branch in block.branches):
            if isinstance(mixer, Attention):
                yield from _unsupported_attention(mixer)
            elif not isinstance(mixer, MLP):
                yield f"the mixer {type(mixer).__name__}"
            elif mixer.activation not in ACTIVATIONS:
                yield f"the activation {mixer.activation}"


def _unsupported_attention(mixer: Attention) -> Iterator[str]:
    if mixer.v_head_dim not in (None, mixer.head_dim) or mixer.head_dim % 2 or mixer.head_dim > 256:
        yield f"heads of size {mixer.head_dim}"
    norms = [norm for norm in (mixer.q_norm, mixer.k_norm) if norm is not None]
    scaling = None if mixer.rope is None else mixer.rope.scaling
    elements = {
        "attention in chunks": mixer.chunk is not None,
        "attention over the keys of another layer": mixer.cache_of_layer is not None,
        "a norm of the values": mixer.v_norm is not None,
        "an attention bias by relative position": mixer.relative_bias is not None,
        "a limit on the values of queries and keys": mixer.clip_qkv is not None,
        "a gate on the output of the attention": mixer.output_gate,
        "attention to later positions": not mixer.causal,
        "a query norm after the rotary embedding": mixer.qk_norm_after_rope,
        "a query scale that depends on the position": mixer.position_scale is not None,
        "a query norm over all heads": mixer.qk_norm_over != "head" and mixer.q_norm is not None,
        "a query norm with bias": any(norm.bias for norm in norms),
        "a rotation that depends on the length of the sequence": isinstance(
            scaling, DynamicScaling | LongRopeScaling
        ),
    }
    yield from (text for text, is_present in elements.items() if is_present)
