"""falcon_h1: each layer has attention and a Mamba 2 mixer in parallel, followed by an MLP.

The config has factors for the inputs and outputs of projections. The loader multiplies the weights
by these factors.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.bamba import FRAME, MLP_MODULES, NORMS, mamba2_of
from tgi.architectures.families.llama import (
    ATTENTION,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.families.mamba2 import mixer_rules
from tgi.architectures.spec import (
    Block,
    Branch,
    Embedding,
    Head,
    Layer,
    ModelSpec,
    StateSpace,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_FIRST_NORM: Modules = {"block0.norm": "input_layernorm"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of FalconH1ForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, bias = (
        rms_norm(reader, default_eps=1e-5),
        reader.boolean("attention_bias", default=False),
    )
    attention = attention_of(reader, default_kv_heads=8, qkv_bias=bias, output_bias=bias)
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    layer = Layer(
        blocks=(
            Block(
                branches=(Branch(mixer=attention), Branch(mixer=_mamba_of(reader, config))),
                norm=norm,
            ),
            Block(branches=(Branch(mixer=mlp, norm=norm),)),
        )
    )
    return decoder_spec(
        reader,
        "falcon_h1",
        (layer,) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        embedding=Embedding(scale=reader.number("embedding_multiplier", default=1.0)),
        head=Head(
            tied=reader.boolean("tie_word_embeddings", default=False),
            scale=reader.number("lm_head_multiplier", default=1.0),
        ),
        weights=_weight_rules(reader),
    )


def _mamba_of(reader: ConfigReader, config: dict[str, Any]) -> StateSpace:
    inner = None if reader.is_null("mamba_d_ssm") else reader.integer("mamba_d_ssm", default=1024)
    has_norm = reader.boolean("mamba_rms_norm", default=False)
    norm = rms_norm(reader, default_eps=1e-5) if has_norm else None
    return msgspec.structs.replace(
        mamba2_of(reader, config, norm=norm, inner_size=inner),
        norm_before_gate=reader.boolean("mamba_norm_before_gate", default=True),
        out_bias=reader.boolean("projectors_bias", default=False),
    )


def _weight_rules(reader: ConfigReader) -> tuple[WeightRule, ...]:
    gate, down = (
        reader.numbers("mlp_multipliers", 2) if reader.has("mlp_multipliers") else (1.0, 1.0)
    )
    parts = reader.numbers("ssm_multipliers", 5) if reader.has("ssm_multipliers") else (1.0,) * 5
    attention_in, attention_out, key, ssm_in, ssm_out = (
        reader.number(f"{name}_multiplier", default=1.0)
        for name in ("attention_in", "attention_out", "key", "ssm_in", "ssm_out")
    )
    # A factor of the input of a projection applies only to the weight. A factor of the output
    # applies to the weight and the bias.
    inputs: dict[str, float] = dict.fromkeys(("q_proj", "k_proj", "v_proj"), attention_in)
    inputs["in_proj"] = ssm_in
    outputs: dict[str, tuple[float, ...]] = {
        "k_proj": (key,),
        "o_proj": (attention_out,),
        "in_proj": parts,
        "out_proj": (ssm_out,),
        "gate_proj": (gate,),
        "down_proj": (down,),
    }

    def scaled(rule: WeightRule) -> WeightRule:
        *_, module, kind = rule.name.split(".")
        before = inputs.get(module, 1.0) if kind == "weight" else 1.0
        after = outputs.get(module, (1.0,) * len(rule.parameters))
        factors = tuple(before * factor for factor in after)
        used = factors if any(factor != 1.0 for factor in factors) else ()
        return msgspec.structs.replace(rule, factors=used)

    in_layers = layer_rules(LAYER, NORMS | _FIRST_NORM | ATTENTION | MLP_MODULES)
    return (
        *module_rules(FRAME),
        *(scaled(rule) for rule in in_layers + mixer_rules("mamba")),
    )
