"""xglm: layer norms, a plain MLP, biases everywhere, and sinusoidal positions from row 2."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import sequential
from tgi.architectures.positions import SinusoidalPositions
from tgi.architectures.spec import MLP, Attention, Embedding, Head, ModelSpec, Norm, Stack
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "layers.{layer}"
_FRAME: Modules = {
    "embedding": "embed_tokens",
    "decoder.final_norm": "layer_norm",
    "head": "lm_head",
}
_MODULES: Modules = {
    "attention.norm": "self_attn_layer_norm",
    **{f"attention.{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attention.o": "self_attn.out_proj",
    "mlp.norm": "final_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of XGLMForCausalLM from its config."""
    reader = ConfigReader(config)
    if reader.boolean("add_cross_attention", default=False):
        raise reader.error("add_cross_attention", "must be false")
    hidden = reader.integer("d_model", "hidden_size")
    if hidden < 4 or hidden % 2:
        raise reader.error("d_model", "must be an even number >= 4")
    num_heads = reader.integer("attention_heads", "num_attention_heads")
    max_positions = reader.integer("max_position_embeddings", default=2048)
    head_dim = reader.divided("d_model", hidden, "attention_heads", num_heads)
    norm = Norm(kind="layer", eps=1e-5, bias=True)
    attention = Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
    )
    mlp = MLP(
        intermediate_size=reader.integer("ffn_dim"),
        activation=reader.activation("activation_function", default="gelu"),
        gated=False,
        bias=True,
    )
    layer = sequential(attention, mlp, norm=norm)
    layers = (layer,) * reader.integer("num_layers", "num_hidden_layers")
    is_scaled = reader.boolean("scale_embedding", default=True)
    return ModelSpec(
        model_type="xglm",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(
            scale=hidden**0.5 if is_scaled else 1.0,
            positions=SinusoidalPositions(num_positions=max_positions, offset=2),
        ),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=module_rules(_FRAME) + layer_rules(_LAYER, _MODULES),
        max_positions=max_positions,
        prefixes=("model.", ""),
        ignored=("*embed_positions.weights",),  # the table of positions, saved by old versions
    )
