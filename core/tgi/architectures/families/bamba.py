"""bamba: layers with a Mamba 2 mixer or with attention, each followed by an MLP."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.families.mamba import check_activation
from tgi.architectures.families.mamba2 import mixer_rules, read_dt_limit
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec, Norm, StateSpace, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["FRAME", "MLP_MODULES", "NORMS", "mamba2_of", "spec"]

FRAME: Modules = {
    "embedding": "embed_tokens",
    "decoder.final_norm": "final_layernorm",
    "head": "lm_head",
}
NORMS: Modules = {
    "attention.norm": "input_layernorm",
    "state_space.norm": "input_layernorm",
    "mlp.norm": "pre_ff_layernorm",
    "moe.norm": "pre_ff_layernorm",
}
MLP_MODULES: Modules = {
    f"mlp.{part}": f"feed_forward.{part}_proj" for part in ("gate", "up", "down")
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of BambaForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, bias = (
        rms_norm(reader, default_eps=1e-5),
        reader.boolean("attention_bias", default=False),
    )
    attention = attention_of(
        reader, default_kv_heads=8, default_partial=0.5, qkv_bias=bias, output_bias=bias
    )
    mamba = mamba2_of(reader, config, norm=norm)
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    with_attention = reader.integers("attn_layer_indices")
    layers = tuple(
        sequential(attention if layer in with_attention else mamba, mlp, norm=norm)
        for layer in range(reader.integer("num_hidden_layers"))
    )
    return decoder_spec(reader, "bamba", layers, final_norm=norm, weights=_weight_rules())


def mamba2_of(
    reader: ConfigReader,
    config: dict[str, Any],
    *,
    norm: Norm | None,
    inner_size: int | None = None,
) -> StateSpace:
    """Read a Mamba 2 mixer from the fields `mamba_…`, as bamba and its successors have them.

    `norm` is the norm after the gate. The default of `inner_size` is the hidden size times
    `mamba_expand`.
    """
    check_activation(reader)
    num_heads = reader.integer("mamba_n_heads", default=128)
    if inner_size is None:
        inner_size = reader.integer("mamba_expand", default=2) * reader.integer("hidden_size")
    head_dim = reader.divided("inner size", inner_size, "mamba_n_heads", num_heads)
    if not reader.is_string("mamba_d_head") and reader.has("mamba_d_head"):
        stated = reader.integer("mamba_d_head")
        if stated != head_dim:
            raise reader.error("mamba_d_head", f"must be {inner_size} / {num_heads} = {head_dim}")
    num_groups = reader.integer("mamba_n_groups", default=1)
    reader.divided("mamba_n_heads", num_heads, "mamba_n_groups", num_groups)
    return StateSpace(
        version=2,
        inner_size=inner_size,
        state_size=reader.integer("mamba_d_state", default=256),
        conv_kernel=reader.integer("mamba_d_conv", default=4, minimum=2),
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=num_groups,
        dt_limit=read_dt_limit(reader, config),
        conv_bias=reader.boolean("mamba_conv_bias", default=True),
        proj_bias=reader.boolean("mamba_proj_bias", default=False),
        norm=norm,
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    return (
        *module_rules(FRAME),
        *layer_rules(LAYER, NORMS | ATTENTION | MLP_MODULES),
        *mixer_rules("mamba"),
    )
