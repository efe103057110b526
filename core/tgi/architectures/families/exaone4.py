"""exaone4: norms after the mixers, and on each query and key head.

In the large model the rotary layers have a window. Every fourth layer attends to the full context
and has no rotary embedding.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.families.olmo2 import weight_rules
from tgi.architectures.layers import sequential, sliding_layers
from tgi.architectures.spec import Attention, ModelSpec

__all__ = ["spec", "windowed"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Exaone4ForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, mlp = rms_norm(reader, default_eps=1e-5), mlp_of(reader)
    attention = attention_of(reader, head_norm=norm)
    layers = tuple(sequential(item, mlp, post_norm=norm) for item in windowed(reader, attention))
    return decoder_spec(reader, "exaone4", layers, final_norm=norm, weights=weight_rules())


def windowed(reader: ConfigReader, rotary: Attention) -> tuple[Attention, ...]:
    """Return the attention of each layer of exaone4 and exaone_moe. If there are windows, layers
    without a window have no rotary embedding.
    """
    num_layers = reader.integer("num_hidden_layers")
    window = reader.optional_integer("sliding_window", default=4096)
    if window is None:
        return (rotary,) * num_layers
    full, sliding = (
        msgspec.structs.replace(rotary, rope=None),
        msgspec.structs.replace(rotary, window=window),
    )
    return tuple(
        sliding if slide else full for slide in sliding_layers(reader, num_layers, pattern=4)
    )
