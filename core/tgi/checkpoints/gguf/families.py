"""The architectures of GGUF files that are read: the names of their modules in checkpoints of
Hugging Face, and the changes that llama.cpp made to the weights when it wrote the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from tgi.architectures.file_reader import shown
from tgi.checkpoints.gguf.container import GgufHeader
from tgi.errors import ModelError

__all__ = ["ARCHITECTURE_KEY", "GgufFamily", "family_of"]

Modules = dict[str, str]
"""Maps the name of a module of a layer in GGUF files to its name in checkpoints of Hugging Face.
`{expert}` is in the name of experts, which GGUF files store in one tensor.
"""

ARCHITECTURE_KEY = "general.architecture"

_PARTS = ("gate", "up", "down")
_NORMS: Modules = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_ATTENTION: Modules = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_HEAD_NORMS: Modules = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_MLP: Modules = {f"ffn_{part}": f"mlp.{part}_proj" for part in _PARTS}
_LLAMA = _NORMS | _ATTENTION | _MLP
_MIXTRAL = (
    _NORMS
    | _ATTENTION
    | {
        "ffn_gate_inp": "block_sparse_moe.gate",
        "ffn_gate_exps": "block_sparse_moe.experts.{expert}.w1",
        "ffn_up_exps": "block_sparse_moe.experts.{expert}.w3",
        "ffn_down_exps": "block_sparse_moe.experts.{expert}.w2",
    }
)
_QWEN3_MOE = (
    _LLAMA
    | _HEAD_NORMS
    | {"ffn_gate_inp": "mlp.gate"}
    | {f"ffn_{part}_exps": f"mlp.experts.{{expert}}.{part}_proj" for part in _PARTS}
)
_GEMMA2 = (
    _LLAMA
    | _HEAD_NORMS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)
_PHI3 = _NORMS | {
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}


@final
@dataclass(frozen=True)
class GgufFamily:
    """An architecture of GGUF files.

    With `is_interleaved`, the rows of each query and key head are stored in the order of a rotary
    embedding that rotates adjacent values. Models of Hugging Face rotate the value `i` with the
    value `i + head_dim / 2`. With `has_shifted_norms`, 1 was added to the weights of norms.
    """

    model_type: str  # of config.json
    modules: Modules
    is_interleaved: bool = False
    has_shifted_norms: bool = False


_MIXTRAL_FAMILY = GgufFamily("mixtral", _MIXTRAL, is_interleaved=True)
_FAMILIES: Mapping[str, GgufFamily] = MappingProxyType(
    {
        "gemma": GgufFamily("gemma", _LLAMA, has_shifted_norms=True),
        "gemma2": GgufFamily("gemma2", _GEMMA2, has_shifted_norms=True),
        "gemma3": GgufFamily("gemma3_text", _GEMMA2, has_shifted_norms=True),
        "llama": GgufFamily("llama", _LLAMA, is_interleaved=True),
        "phi3": GgufFamily("phi3", _PHI3),
        "qwen2": GgufFamily("qwen2", _LLAMA),
        "qwen3": GgufFamily("qwen3", _LLAMA | _HEAD_NORMS),
        "qwen3moe": GgufFamily("qwen3_moe", _QWEN3_MOE),
    }
)
"""The families by `general.architecture`."""


def family_of(header: GgufHeader) -> GgufFamily:
    """Return the family of a file. llama.cpp uses the name `llama` for mistral and mixtral, too.
    Raises `ModelError` if the architecture is unknown.
    """
    metadata, name = header.metadata, header.metadata.text(ARCHITECTURE_KEY)
    if name not in _FAMILIES:
        raise ModelError(
            f"{shown(header.path)}: models of the architecture `{shown(name)}` cannot be read from"
            f" GGUF files. Known architectures are {', '.join(sorted(_FAMILIES))}.",
            "Name the original model in safetensors format.",
        )
    if name == "llama" and metadata.integer("llama.expert_count", default=0, minimum=0):
        return _MIXTRAL_FAMILY
    return _FAMILIES[name]
