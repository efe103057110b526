"""Decides if this backend can run a model, and on how many devices. This module imports no
framework.
"""

from __future__ import annotations

from tgi.architectures import MLP, Attention, GenericSpec, Mixer, MixtureOfExperts, ModelSpec
from tgi.architectures.parameter_names import mixer_tag
from tgi_tpu.model.layer_groups import attention_of

__all__ = ["kv_repeats", "unsharded", "unsupported"]


def unsupported(spec: ModelSpec | GenericSpec) -> str | None:
    """Return the reason why a model cannot run, or None if it can run."""
    if isinstance(spec, GenericSpec):
        return f"the architecture {spec.model_type} is not known"
    if len(spec.stacks) > 1:
        return "a model with an encoder is not supported by this backend"
    parts = [_unsupported_part(mixer) for mixer in spec.decoder.mixers]
    blocks = [block for layer in spec.decoder.layers for block in layer.blocks]
    if any(block.output_scale or block.input_scale != 1.0 for block in blocks):
        parts.append("a scale on the residual is")
    part = next((part for part in parts if part is not None), None)
    return None if part is None else f"{part} not supported by this backend"


def _unsupported_part(mixer: Mixer) -> str | None:
    """Return the part of a mixer that is not supported, with a verb, or None if all parts are."""
    match mixer:
        case Attention():
            parts = {
                "attention whose values have a different size than its keys is": (
                    mixer.v_head_dim not in (None, mixer.head_dim)
                ),
                "attention with a relative bias or without a causal mask is": (
                    mixer.relative_bias is not None or not mixer.causal
                ),
                "attention in chunks is": mixer.chunk is not None,
                "attention over the keys of another layer is": mixer.cache_of_layer is not None,
                "a gate for each head is": mixer.output_gate_over == "head" and mixer.output_gate,
                "a norm of the values is": mixer.v_norm is not None,
            }
        case MixtureOfExperts():
            parts = {"experts with weighted inputs are": mixer.scale_inputs}
        case MLP():
            parts = {}
        case _:
            return f"{mixer_tag(mixer).replace('_', ' ')} is"
    return next((part for part, is_present in parts.items() if is_present), None)


def kv_repeats(mixer: Attention, tp_size: int) -> int:
    """Number of devices that have a copy of each key and value head.

    The number is more than 1 if there are fewer heads than devices.
    """
    return max(1, tp_size // mixer.num_kv_heads)


def unsharded(spec: ModelSpec, tp_size: int) -> str | None:
    """Return the reason why heads cannot be divided among `tp_size` devices, or None if they can be
    divided.
    """
    for layer in spec.decoder.layers:
        mixer = attention_of(layer)
        if mixer is None:
            continue
        if mixer.num_heads % tp_size:
            return f"{mixer.num_heads} query heads cannot be divided among {tp_size} devices"
        if mixer.num_kv_heads * kv_repeats(mixer, tp_size) % tp_size:
            return f"{mixer.num_kv_heads} key heads cannot be divided among {tp_size} devices"
    return None
