"""gemma4_text: larger heads in layers without a window, and inputs of the layers.

The last layers may read the keys and values of an earlier layer of the same kind. A model with a
mixture of experts runs in the modelling code of transformers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.gemma2 import weight_rules as gemma2_rules
from tgi.architectures.families.gemma4_layers import attention_of_kind, build_layer, input_size
from tgi.architectures.families.llama import LAYER, decoder_spec, rms_norm
from tgi.architectures.generic import generic_spec
from tgi.architectures.layers import sliding_layers
from tgi.architectures.spec import (
    Embedding,
    GenericSpec,
    Head,
    LayerInputs,
    ModelSpec,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_FRAME: Modules = {
    "embedding.layer_inputs": "embed_tokens_per_layer",
    "embedding.layer_projection": "per_layer_model_projection",
    "embedding.layer_norm": "per_layer_projection_norm",
}
_LAYER_INPUT: Modules = {
    "layer_input.gate": "per_layer_input_gate",
    "layer_input.out": "per_layer_projection",
    "layer_input.post_norm": "post_per_layer_input_norm",
}
_FULL_ROPE = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
_ROPE = {"full_attention": _FULL_ROPE, "sliding_attention": {"rope_theta": 10_000.0}}
"""The default of Gemma4TextConfig."""


def spec(config: dict[str, Any]) -> ModelSpec | GenericSpec:
    """Build the spec of Gemma4ForCausalLM from its config."""
    config = {**config, "rope_parameters": config.get("rope_parameters") or _ROPE}
    reader = ConfigReader(config)
    if reader.boolean("enable_moe_block", default=False):
        return generic_spec(config)
    if config.get("use_bidirectional_attention") == "all":
        raise reader.error("use_bidirectional_attention", "must be null for a model that generates")
    num_layers = reader.integer("num_hidden_layers")
    slides = (*sliding_layers(reader, num_layers, pattern=6)[:-1], False)
    num_shared = reader.integer("num_kv_shared_layers", default=0, minimum=0)
    own = slides[: max(0, num_layers - num_shared)]
    if not {*slides} <= {*own}:
        raise reader.error("num_kv_shared_layers", "must leave a layer of each kind with own keys")
    sources = {kind: max(i for i, other in enumerate(own) if other == kind) for kind in own}
    attentions = {kind: attention_of_kind(config, kind) for kind in own}
    layers = tuple(
        build_layer(reader, attentions[slide], sources[slide] if layer >= len(own) else None)
        for layer, slide in enumerate(slides)
    )
    cap = reader.optional_number("final_logit_softcapping", default=None)
    result = decoder_spec(
        reader,
        "gemma4_text",
        layers,
        embedding=_embedding(reader),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True), softcap=cap),
        weights=_weight_rules(reader, own, 2 if input_size(reader) else 1),
    )
    unused = (
        f"*layers.{layer}.self_attn.{part}.*"
        for layer in range(len(own), num_layers)
        for part in ("k_proj", "v_proj", "k_norm", "v_norm")
    )
    return msgspec.structs.replace(result, ignored=(*result.ignored, *unused))


def _embedding(reader: ConfigReader) -> Embedding:
    hidden, size = reader.integer("hidden_size"), input_size(reader)
    inputs = LayerInputs(
        size=size,
        vocab_size=reader.integer("vocab_size_per_layer_input", default=262_144),
        norm=rms_norm(reader),
        scale=float(size**0.5),
        projection_scale=float(hidden**-0.5),
        sum_scale=float(2**-0.5),
    )
    return Embedding(scale=float(hidden**0.5), layer_inputs=inputs if size else None)


def _weight_rules(
    reader: ConfigReader, slides: tuple[bool, ...], last_block: int
) -> tuple[WeightRule, ...]:
    """`slides` is whether a layer with own keys has a window. Layers without a window may use the
    same projection for keys and values.
    """
    scale = WeightRule(
        name=f"{LAYER}.layer_scalar",
        parameters=(f"decoder.layers.{{layer}}.block{last_block}.output_scale",),
    )
    has_same_values = reader.boolean("attention_k_eq_v", default=False)
    values = tuple(
        rule
        for layer, is_sliding in enumerate(slides)
        if has_same_values and not is_sliding
        for rule in module_rules(
            {f"decoder.layers.{layer}.attention.v": f"layers.{layer}.self_attn.k_proj"}
        )
    )
    inputs = (*module_rules(_FRAME), *layer_rules(LAYER, _LAYER_INPUT))
    return (*gemma2_rules(), *inputs, scale, *values)
