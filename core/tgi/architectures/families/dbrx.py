"""dbrx: rotary attention with clipped qkv, layer norms without bias, and a mixture of experts.

The weights of all experts are stored in one flat tensor.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import sequential
from tgi.architectures.rope import read_rope
from tgi.architectures.spec import (
    MLP,
    Attention,
    Embedding,
    Head,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Router,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "blocks.{layer}"
_FRAME: Modules = {"embedding": "wte", "decoder.final_norm": "norm_f", "head": "lm_head"}
_MODULES: Modules = {
    "attention.norm": "norm_attn_norm.norm_1",
    "moe.norm": "norm_attn_norm.norm_2",
    ("attention.q", "attention.k", "attention.v"): "norm_attn_norm.attn.Wqkv",
    "attention.o": "norm_attn_norm.attn.out_proj",
    "moe.router": "ffn.router.layer",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of DbrxForCausalLM from its config."""
    reader = ConfigReader(config)
    norm = Norm(kind="layer", eps=1e-5)
    layer = sequential(_attention(reader), _mixture(reader.section("ffn_config")), norm=norm)
    layers = (layer,) * reader.integer("n_layers")
    return ModelSpec(
        model_type="dbrx",
        hidden_size=reader.integer("d_model"),
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=False)),
        weights=_weight_rules(),
        max_positions=reader.integer("max_seq_len"),
        prefixes=("transformer.", ""),
    )


def _attention(reader: ConfigReader) -> Attention:
    options, num_heads = reader.section("attn_config"), reader.integer("n_heads")
    head_dim = reader.divided("d_model", reader.integer("d_model"), "n_heads", num_heads)
    num_kv_heads = options.integer("kv_n_heads", default=1)
    reader.divided("n_heads", num_heads, "kv_n_heads", num_kv_heads)
    theta = options.number("rope_theta", default=10_000.0)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(
            reader,
            head_dim=head_dim,
            max_positions=reader.integer("max_seq_len"),
            default_theta=theta,
        ),
        clip_qkv=options.optional_number("clip_qkv", default=None),
    )


def _mixture(options: ConfigReader) -> MixtureOfExperts:
    activation = options.section("ffn_act_fn") if options.has("ffn_act_fn") else ConfigReader({})
    power = options.optional_number("moe_normalize_expert_weights", default=1.0)
    if power not in (None, 1.0):
        raise options.error("moe_normalize_expert_weights", "must be 1 or null")
    return MixtureOfExperts(
        num_experts=options.integer("moe_num_experts", default=4),
        experts_per_token=options.integer("moe_top_k", default=1),
        expert=MLP(
            intermediate_size=options.integer("ffn_hidden_size", default=3584),
            activation=activation.activation("name", default="silu"),
        ),
        router=Router(normalize=power is not None),
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    experts, stored = "decoder.layers.{layer}.moe.experts", f"{_LAYER}.ffn.experts.mlp"
    return (
        *module_rules(_FRAME),
        *layer_rules(_LAYER, _MODULES),
        WeightRule(name=f"{stored}.w1", parameters=(f"{experts}.gate.weight",), layout="flat"),
        WeightRule(name=f"{stored}.v1", parameters=(f"{experts}.up.weight",), layout="flat"),
        WeightRule(
            name=f"{stored}.w2",
            parameters=(f"{experts}.down.weight",),
            layout="flat",
            transposed=True,
        ),
    )
