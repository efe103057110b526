"""arcee (AFM): llama whose MLP has no gate, and whose activation is the square of ReLU."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of ArceeForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader, default_eps=1e-5)
    mlp = mlp_of(
        reader,
        default_activation="relu2",
        gated=False,
        bias=reader.boolean("mlp_bias", default=False),
    )
    layer = sequential(attention_of(reader, qkv_bias=bias, output_bias=bias), mlp, norm=norm)
    return decoder_spec(
        reader, "arcee", (layer,) * reader.integer("num_hidden_layers"), final_norm=norm
    )
