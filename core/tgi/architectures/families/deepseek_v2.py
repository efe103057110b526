"""deepseek_v2: latent attention, a few dense layers, then a mixture of experts.

Experts are chosen from the best groups, in addition to shared experts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    FRAME,
    GATED_MLP,
    IGNORED,
    LAYER,
    PRE_NORMS,
    decoder_spec,
    rms_norm,
)
from tgi.architectures.layers import dense_layers
from tgi.architectures.rope import read_rope, yarn_mscale
from tgi.architectures.spec import (
    MLP,
    Block,
    Branch,
    LatentAttention,
    Layer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Router,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = [
    "CORRECTION",
    "EXPERTS",
    "LATENT_ATTENTION",
    "deepseek_spec",
    "latent_attention",
    "spec",
]

LATENT_ATTENTION: Modules = {
    "latent_attention.norm": "input_layernorm",
    "latent_attention.q": "self_attn.q_proj",
    "latent_attention.q_a": "self_attn.q_a_proj",
    "latent_attention.q_a_norm": "self_attn.q_a_layernorm",
    "latent_attention.q_b": "self_attn.q_b_proj",
    "latent_attention.kv_a": "self_attn.kv_a_proj_with_mqa",
    "latent_attention.kv_a_norm": "self_attn.kv_a_layernorm",
    "latent_attention.kv_b": "self_attn.kv_b_proj",
    "latent_attention.o": "self_attn.o_proj",
}
EXPERTS: Modules = {
    "moe.router": "mlp.gate",
    **{
        f"moe.experts.{part}": f"mlp.experts.{{expert}}.{part}_proj"
        for part in ("gate", "up", "down")
    },
    **{f"moe.shared.{part}": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
}
CORRECTION = WeightRule(
    name=f"{LAYER}.mlp.gate.e_score_correction_bias",
    parameters=("decoder.layers.{layer}.moe.router.correction",),
)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of DeepseekV2ForCausalLM from its config.

    `norm_topk_prob`, which no published model sets, follows the code published with the models.
    """
    reader = ConfigReader(config)
    groups = {"greedy": False, "group_limited_greedy": True}
    is_grouped = reader.choice("topk_method", table=groups, default="greedy")
    normalize = reader.boolean("norm_topk_prob", default=False)
    router = Router(
        normalize=normalize,
        scale=1.0 if normalize else reader.number("routed_scaling_factor", default=1.0),
        num_groups=reader.integer("n_group") if is_grouped else 1,
        groups_per_token=reader.integer("topk_group") if is_grouped else 1,
    )
    return deepseek_spec(
        reader,
        "deepseek_v2",
        router,
        dense=dense_layers(reader, reader.integer("num_hidden_layers"), default=0),
    )


def deepseek_spec(
    reader: ConfigReader,
    model_type: str,
    router: Router,
    *,
    dense: tuple[bool, ...],
    interleaved: bool = True,
) -> ModelSpec:
    """Build a model with this router. `dense` is whether a layer has no experts."""
    norm, num_layers = rms_norm(reader), reader.integer("num_hidden_layers")
    attention = Block(branches=(Branch(mixer=latent_attention(reader, interleaved), norm=norm),))
    size = reader.integer("moe_intermediate_size")
    mixture = MixtureOfExperts(
        num_experts=reader.integer("n_routed_experts"),
        experts_per_token=reader.integer("num_experts_per_tok"),
        expert=_mlp(reader, size, bias=False),
        router=router,
        shared=_mlp(reader, size * reader.integer("n_shared_experts")),
    )
    mlp = _mlp(reader, reader.integer("intermediate_size"))
    layers = tuple(
        Layer(
            blocks=(
                attention,
                Block(branches=(Branch(mixer=mlp if is_dense else mixture, norm=norm),)),
            )
        )
        for is_dense in dense
    )
    spec = decoder_spec(reader, model_type, layers, weights=_weight_rules())
    # The layers after the last one serve multi-token prediction.
    return msgspec.structs.replace(spec, ignored=(*IGNORED, f"model.layers.{num_layers}.*"))


def latent_attention(reader: ConfigReader, interleaved: bool) -> LatentAttention:
    """Read the attention of deepseek_v2 and its successors."""
    nope_dim, rope_dim = reader.integer("qk_nope_head_dim"), reader.integer("qk_rope_head_dim")
    rope = read_rope(
        reader,
        head_dim=rope_dim,
        max_positions=reader.integer("max_position_embeddings"),
        interleaved=interleaved,
    )
    bias = reader.boolean("attention_bias", default=False)
    return LatentAttention(
        num_heads=reader.integer("num_attention_heads"),
        q_lora_rank=(
            None if reader.is_null("q_lora_rank") else reader.integer("q_lora_rank", default=1536)
        ),
        kv_lora_rank=reader.integer("kv_lora_rank", default=512),
        qk_nope_head_dim=nope_dim,
        qk_rope_head_dim=rope_dim,
        v_head_dim=reader.integer("v_head_dim"),
        scale=(nope_dim + rope_dim) ** -0.5 * _temperature(reader) ** 2,
        rope=rope,
        norm=Norm(kind="rms", eps=1e-6),  # the code ignores the value in the config
        qkv_bias=bias,
        output_bias=bias,
        index_top_k=reader.optional_integer("index_topk", default=None),
    )


def _temperature(reader: ConfigReader) -> float:
    """YaRN's factor for all dimensions of a head. The rope has its own factor for rotated ones."""
    name = next((name for name in ("rope_scaling", "rope_parameters") if reader.has(name)), None)
    if name is None:
        return 1.0
    scaling = reader.section(name)
    mscale = scaling.number("mscale_all_dim", default=0.0)
    return yarn_mscale(scaling.number("factor", default=1.0), mscale) if mscale else 1.0


def _mlp(reader: ConfigReader, size: int, bias: bool | None = None) -> MLP:
    bias = reader.boolean("mlp_bias", default=False) if bias is None else bias
    return MLP(
        intermediate_size=size,
        activation=reader.activation("hidden_act", default="silu"),
        bias=bias,
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    modules = PRE_NORMS | LATENT_ATTENTION | EXPERTS | GATED_MLP
    return (*module_rules(FRAME), *layer_rules(LAYER, modules), CORRECTION)
