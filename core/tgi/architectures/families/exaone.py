"""exaone (3.0 and 3.5): llama with other names."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MLP, Embedding, Head, ModelSpec, Norm, Stack
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "h.{layer}"
_FRAME: Modules = {"embedding": "wte", "decoder.final_norm": "ln_f", "head": "lm_head"}
_MODULES: Modules = {
    "attention.norm": "ln_1",
    **{f"attention.{part}": f"attn.attention.{part}_proj" for part in "qkv"},
    "attention.o": "attn.attention.out_proj",
    "mlp.norm": "ln_2",
    "mlp.gate": "mlp.c_fc_0",
    "mlp.up": "mlp.c_fc_1",
    "mlp.down": "mlp.c_proj",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of modeling_exaone.py in EXAONE-3.0-7.8B-Instruct."""
    reader = ConfigReader(config)
    norm = Norm(kind="rms", eps=reader.number("layer_norm_epsilon", default=1e-5))
    mlp = MLP(
        intermediate_size=reader.integer(
            "intermediate_size", default=4 * reader.integer("hidden_size")
        ),
        activation=reader.activation("activation_function", default="silu"),
    )
    layers = (sequential(attention_of(reader), mlp, norm=norm),) * reader.integer(
        "num_layers", "num_hidden_layers"
    )
    return ModelSpec(
        model_type="exaone",
        hidden_size=reader.integer("hidden_size"),
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=False)),
        weights=module_rules(_FRAME) + layer_rules(_LAYER, _MODULES),
        max_positions=reader.integer("max_position_embeddings"),
        prefixes=("transformer.", ""),
        ignored=("*.rotary.inv_freq",),
    )
