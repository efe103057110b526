"""Tiny checkpoints of families with other mixers than plain attention, MLP and mixture of experts.

Every parameter is drawn again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from tests.backends.published_configs import PUBLISHED_LATENT
from tests.backends.published_hybrids import HYBRID_VARIANTS, PUBLISHED_HYBRIDS

__all__ = ["DECODERS", "ENCODER_DECODERS", "VARIANTS", "save_mixer_variant"]

VOCAB_SIZE = 101
COMPUTED_BUFFERS = (
    "_decay",
    "embed_scale",
    "inv_freq",
    "mup_vector",
    "normalizer",
    "position_ids",
    "slope_rate",
)
"""The endings of the names of buffers that `transformers` computes from the config."""

_DEEPSEEK = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "moe_intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "kv_lora_rank": 10,
    "q_lora_rank": 14,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 128,
}
_YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
    }
}
_MAMBA = {"hidden_size": 32, "state_size": 6, "num_hidden_layers": 2, "use_bias": True}
_MAMBA2 = _MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2}
_T5 = {
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
# Few buckets for short distances, so that a short text uses the last one.
_NEAR = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}

_QWEN3_NEXT = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 12,
    "max_position_embeddings": 128,
    "mlp_only_layers": [1],
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    # If the query of a head matches no earlier key, the head's output is almost zero. With the
    # usual 1e-6, its norm would amplify mere rounding errors.
    "rms_norm_eps": 1e-3,
}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        family: (family, config)
        for family, config in (PUBLISHED_LATENT | PUBLISHED_HYBRIDS).items()
    },
    **{
        name: (family, PUBLISHED_HYBRIDS[family] | changes)
        for name, (family, changes) in HYBRID_VARIANTS.items()
    },
    "deepseek_v2": (
        "deepseek_v2",
        _DEEPSEEK | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.7},
    ),
    "deepseek_v2-plain": (
        "deepseek_v2",
        _DEEPSEEK | {"q_lora_rank": None, "attention_bias": True, "mlp_bias": True} | _YARN,
    ),
    "deepseek_v3": ("deepseek_v3", _DEEPSEEK | {"attention_bias": True} | _YARN),
    "deepseek_v3-plain": (
        "deepseek_v3",
        _DEEPSEEK
        | {
            "q_lora_rank": None,
            "rope_interleave": False,
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
        },
    ),
    "mamba": ("mamba", _MAMBA),
    "mamba-plain": (
        "mamba",
        _MAMBA
        | {
            "use_bias": False,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "time_step_rank": 5,
            "tie_word_embeddings": False,
        },
    ),
    "mamba2": ("mamba2", _MAMBA2),
    "mamba2-limits": (
        "mamba2",
        _MAMBA2
        | {
            "use_bias": False,
            "use_conv_bias": False,
            "time_step_limit": [0.5, 0.9],
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_next": ("qwen3_next", _QWEN3_NEXT),
    "qwen3_next-biases": (
        "qwen3_next",
        _QWEN3_NEXT | {"attention_bias": True, "norm_topk_prob": False},
    ),
}
"""Named variants: the family and its small config. Others have the defaults of `transformers`."""

ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", _T5 | _NEAR),
    "t5-untied": ("t5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", _T5 | _NEAR | {"tie_word_embeddings": False}),
    "mt5-tied": ("mt5", _T5),
}

VARIANTS = DECODERS | ENCODER_DECODERS


def save_mixer_variant(
    name: str, path: Path, *, seed: int = 0, vocab_size: int = VOCAB_SIZE
) -> PreTrainedModel:
    """Write one of `VARIANTS` in float32 to `path` and return its model.

    Matrices are drawn from N(0, 0.15), the kernels of convolutions from N(0, 0.5), norm weights
    from 1 + N(0, 0.1), biases from N(0, 0.1).
    """
    family, overrides = VARIANTS[name]
    config = AutoConfig.for_model(family, **(overrides | {"vocab_size": vocab_size}))
    auto = AutoModelForSeq2SeqLM if name in ENCODER_DECODERS else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    is_untied = overrides.get("tie_word_embeddings") is False
    if name in ENCODER_DECODERS and is_untied:
        # A new model of `transformers` ties the head even if its config disagrees. Published models
        # have an untied head.
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not key.endswith(COMPUTED_BUFFERS):
                tensor.copy_(_draw(key, tensor, generator))
                if key.endswith("recurrent_param"):
                    tensor.sub_(4.0)  # as in published models, the state decays slowly
                if (
                    family.startswith(("qwen3_", "recurrent_gemma"))
                    and tensor.dim() == 1
                    and key.endswith("norm.weight")
                    and "linear_attn" not in key
                ):
                    tensor.sub_(1.0)  # stored minus 1
    model.save_pretrained(path)
    if is_untied:
        file = path / "config.json"
        published = json.loads(file.read_text()) | {"tie_word_embeddings": False}
        file.write_text(
            json.dumps(
                {key: value for key, value in published.items() if key != "scale_decoder_outputs"}
            )
        )
    return model


def _draw(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(tensor.shape, generator=generator)
    if tensor.dim() > 1:
        return (0.5 if "conv1d" in name or "relative" in name else 0.15) * drawn
    return (0.0 if name.endswith("bias") else 1.0) + 0.1 * drawn
