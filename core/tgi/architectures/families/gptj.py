"""gptj: attention and MLP in parallel after one norm. The attention has no biases.

The rotary embedding is interleaved and rotates part of each head.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import parallel
from tgi.architectures.rope import read_rope
from tgi.architectures.spec import MLP, Attention, Embedding, Head, ModelSpec, Norm, Stack
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "h.{layer}"
_FRAME: Modules = {"embedding": "wte", "decoder.final_norm": "ln_f", "head": "lm_head"}
_MODULES: Modules = {
    "block0.norm": "ln_1",
    **{f"attention.{part}": f"attn.{part}_proj" for part in "qkv"},
    "attention.o": "attn.out_proj",
    "mlp.up": "mlp.fc_in",
    "mlp.down": "mlp.fc_out",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GPTJForCausalLM from its config."""
    reader = ConfigReader(config)
    hidden, max_positions = (
        reader.integer("n_embd", "hidden_size"),
        reader.integer("n_positions", default=2048),
    )
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=True)
    mlp = MLP(
        intermediate_size=reader.integer("n_inner", default=4 * hidden),
        activation=reader.activation("activation_function", default="gelu_new"),
        gated=False,
        bias=True,
    )
    layers = (parallel(_attention(reader, hidden, max_positions), mlp, norm),) * reader.integer(
        "n_layer", "num_hidden_layers"
    )
    return ModelSpec(
        model_type="gptj",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size", default=50400),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=False), bias=True),
        weights=module_rules(_FRAME) + layer_rules(_LAYER, _MODULES),
        max_positions=max_positions,
        prefixes=("transformer.", ""),
        ignored=("*.attn.bias", "*.attn.masked_bias"),  # the causal mask, saved by old versions
    )


def _attention(reader: ConfigReader, hidden: int, max_positions: int) -> Attention:
    num_heads = reader.integer("n_head", "num_attention_heads")
    head_dim = reader.divided("n_embd", hidden, "n_head", num_heads)
    rotary_dim = reader.integer("rotary_dim", default=64)
    if rotary_dim > head_dim or rotary_dim % 2:
        raise reader.error("rotary_dim", f"must be an even number up to the head's size {head_dim}")
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(reader, head_dim=rotary_dim, max_positions=max_positions, interleaved=True),
    )
