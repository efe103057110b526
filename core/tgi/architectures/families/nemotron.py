"""nemotron (Minitron, Nemotron-4): layer norms whose weight is stored minus 1.

The MLP has no gate, and its activation is the square of ReLU. Half of each head is rotated.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec, Norm

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of NemotronForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    norm = Norm(
        kind="layer", eps=reader.number("norm_eps", default=1e-5), bias=True, unit_offset=True
    )
    mlp = mlp_of(
        reader,
        default_activation="relu2",
        gated=False,
        bias=reader.boolean("mlp_bias", default=False),
    )
    attention = attention_of(reader, default_partial=0.5, qkv_bias=bias, output_bias=bias)
    layer = sequential(attention, mlp, norm=norm)
    return decoder_spec(
        reader, "nemotron", (layer,) * reader.integer("num_hidden_layers"), final_norm=norm
    )
