"""Published configs of families with recurrent mixers, with small sizes.

`published_configs` describes how the configs are shrunk. If the query of a head matches no earlier
key, the head's output is almost zero. With the published epsilon, its norm would amplify mere
rounding errors, so qwen3_5 has a larger epsilon here. The factors of falcon_h1 are larger than the
published ones, so that every parameter has an effect on the logits of a small model.
"""

from __future__ import annotations

from typing import Any

from tests.backends.published_mixtures import GRANITE, PLAIN, SIZES

__all__ = ["HYBRID_VARIANTS", "PUBLISHED_HYBRIDS"]

_MAMBA2 = {
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 6,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 4,
    "mamba_proj_bias": False,
}
_GRANITE = (
    PLAIN
    | GRANITE
    | _MAMBA2
    | {
        "init_method": "mup",
        "intermediate_size": 12,
        "layer_types": ["mamba", "attention", "mamba"],
        "normalization_function": "rmsnorm",
        "num_experts_per_tok": 2,
        "num_local_experts": 5,
        "output_router_logits": False,
        "position_embedding_type": "nope",
        "router_aux_loss_coef": 0.01,
        "shared_intermediate_size": 20,
        "tie_word_embeddings": True,
    }
)
_LFM2 = {
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-05,
    "rope_theta": 1000000.0,
} | {name: value for name, value in SIZES.items() if name != "hidden_act"}
_QWEN3_5 = PLAIN | {
    "attn_output_gate": True,
    "full_attention_interval": 4,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 12,
    "mamba_ssm_dtype": "float32",
    "mlp_only_layers": [],
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [1, 1, 0],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
}
_NEMOTRON_H = {name: value for name, value in PLAIN.items() if name != "num_hidden_layers"} | {
    "attention_head_dim": 8,
    "chunk_size": 128,
    "conv_kernel": 4,
    "expand": 2,
    "head_dim": 8,
    "hidden_dropout": 0.0,
    "hybrid_override_pattern": "M-M*-",
    "layer_norm_epsilon": 1e-05,
    "mamba_head_dim": 8,
    "mamba_hidden_act": "silu",
    "mamba_num_heads": 4,
    "mamba_proj_bias": False,
    "mlp_bias": False,
    "mlp_hidden_act": "relu2",
    "n_groups": 2,
    "num_logits_to_keep": 1,
    "rescale_prenorm_residual": True,
    "residual_in_fp32": False,
    "rms_norm_eps": 1e-05,
    "sliding_window": None,
    "ssm_state_size": 6,
    "time_step_floor": 0.0001,
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 256,
    "use_bias": False,
    "use_conv_bias": True,
    "use_mamba_kernels": True,
}

PUBLISHED_HYBRIDS: dict[str, dict[str, Any]] = {
    "bamba": PLAIN
    | _MAMBA2
    | {
        "attn_layer_indices": [1],
        "attn_rotary_emb": 4,
        "mlp_bias": False,
        "num_logits_to_keep": 1,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "use_mamba_kernels": True,
    },
    "falcon_h1": PLAIN
    | _MAMBA2
    | {
        "attention_in_multiplier": 1.1,
        "attention_out_multiplier": 1.4,
        "attn_layer_indices": None,
        "embedding_multiplier": 5.656854249492381,
        "key_multiplier": 1.9,
        "lm_head_multiplier": 0.7,
        "mamba_d_ssm": 48,
        "mamba_d_head": 12,
        "mamba_norm_before_gate": False,
        "mamba_rms_norm": False,
        "mamba_use_mlp": True,
        "mlp_bias": False,
        "mlp_expansion_factor": 8,
        "mlp_multipliers": [0.9, 1.2],
        "num_logits_to_keep": 1,
        "projectors_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 100000000000.0,
        "ssm_in_multiplier": 1.25,
        "ssm_multipliers": [0.9, 1.6, 1.2, 1.4, 0.7],
        "ssm_out_multiplier": 1.3,
    },
    "falcon_mamba": {
        "bos_token_id": 0,
        "conv_kernel": 4,
        "eos_token_id": 11,
        "expand": 16,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.1,
        "intermediate_size": 48,
        "layer_norm_epsilon": 1e-05,
        "mixer_rms_eps": 1e-06,
        "num_hidden_layers": 2,
        "pad_token_id": 11,
        "rescale_prenorm_residual": False,
        "residual_in_fp32": True,
        "state_size": 6,
        "tie_word_embeddings": False,
        "time_step_floor": 0.0001,
        "time_step_init_scheme": "random",
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "time_step_rank": 5,
        "time_step_scale": 1.0,
        "use_bias": False,
        "use_cache": True,
        "use_conv_bias": True,
        "vocab_size": 101,
    },
    "granitemoehybrid": _GRANITE,
    "jamba": SIZES
    | {
        "attention_dropout": 0.0,
        "attn_layer_offset": 1,
        "attn_layer_period": 3,
        "calc_logits_for_entire_prompt": False,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_state": 6,
        "mamba_dt_rank": 5,
        "mamba_expand": 2,
        "mamba_inner_layernorms": True,
        "mamba_proj_bias": False,
        "n_ctx": 262144,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "num_logits_to_keep": 1,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_mamba_kernels": True,
    },
    "lfm2": _LFM2
    | {
        "block_auto_adjust_ff_dim": True,
        "block_dim": 32,
        "block_ff_dim": 60,
        "block_ffn_dim_multiplier": 1.0,
        "block_mlp_init_scale": 1.0,
        "block_multiple_of": 16,
        "block_norm_eps": 1e-05,
        "block_out_init_scale": 1.0,
        "block_use_swiglu": True,
        "block_use_xavier_init": True,
        "conv_dim": 32,
        "conv_dim_out": 32,
        "conv_use_xavier_init": True,
        "full_attn_idxs": [1],
        "num_heads": 4,
        "use_pos_enc": True,
    },
    "lfm2_moe": _LFM2
    | {
        "layer_types": ["conv", "full_attention", "conv"],
        "moe_intermediate_size": 12,
        "norm_topk_prob": True,
        "num_dense_layers": 1,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.0,
        "use_expert_bias": True,
    },
    "nemotron_h": _NEMOTRON_H,
    "qwen3_5_moe_text": _QWEN3_5
    | {
        "moe_intermediate_size": 12,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_5_text": _QWEN3_5,
}

HYBRID_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba-biases": (
        "bamba",
        {
            "attention_bias": True,
            "mamba_conv_bias": False,
            "mamba_d_head": "auto",
            "mamba_n_groups": 2,
            "mamba_proj_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "falcon_h1-biases": (
        "falcon_h1",
        {
            "attention_bias": True,
            "mamba_n_groups": 2,
            "mamba_norm_before_gate": True,
            "mamba_proj_bias": True,
            "mamba_rms_norm": True,
            "mlp_bias": True,
            "projectors_bias": True,
        },
    ),
    "falcon_mamba-biases": ("falcon_mamba", {"tie_word_embeddings": True, "use_bias": True}),
    "granitemoehybrid-dense": (
        "granitemoehybrid",
        {"num_experts_per_tok": 0, "num_local_experts": 0, "position_embedding_type": "rope"},
    ),
    "jamba-dense": ("jamba", {"mamba_proj_bias": True, "num_experts": 1}),
    "lfm2-biases": (
        "lfm2",
        {"block_auto_adjust_ff_dim": False, "conv_bias": True, "tie_word_embeddings": False},
    ),
    "lfm2_moe-plain": (
        "lfm2_moe",
        {"norm_topk_prob": False, "routed_scaling_factor": 1.7, "use_expert_bias": False},
    ),
    "nemotron_h-experts": (
        "nemotron_h",
        {
            "hybrid_override_pattern": "ME*EM",
            "moe_intermediate_size": 12,
            "moe_shared_expert_intermediate_size": 20,
            "n_group": 2,
            "n_routed_experts": 6,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 2.5,
            "topk_group": 1,
            "use_bias": True,
        },
    ),
    "qwen3_5_text-biases": (
        "qwen3_5_text",
        {"attention_bias": True, "tie_word_embeddings": True},
    ),
}
"""Named variants: the family, and the changes of its config."""
