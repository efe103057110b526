"""internlm2: llama with a fused matrix for query, key and value, and other tensor names."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import LAYER, attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_FRAME: Modules = {"embedding": "tok_embeddings", "decoder.final_norm": "norm", "head": "output"}
_MODULES: Modules = {
    "attention.norm": "attention_norm",
    "attention.o": "attention.wo",
    "mlp.norm": "ffn_norm",
    "mlp.gate": "feed_forward.w1",
    "mlp.up": "feed_forward.w3",
    "mlp.down": "feed_forward.w2",
}
_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "attention.wqkv"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of InternLM2ForCausalLM from its config. The class is published with the
    models.
    """
    reader = ConfigReader(config)
    bias = reader.boolean("bias", default=True)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias)
    layer = sequential(attention, mlp_of(reader), norm=rms_norm(reader))
    return decoder_spec(
        reader,
        "internlm2",
        (layer,) * reader.integer("num_hidden_layers"),
        weights=module_rules(_FRAME)
        + layer_rules(LAYER, _MODULES)
        + layer_rules(LAYER, _QKV, layout="grouped"),
    )
