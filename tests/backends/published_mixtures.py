"""Published configs of families with a mixture of experts, and the fields that many configs have.

`published_configs` describes how the configs are shrunk.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "GRANITE",
    "HUNYUAN",
    "MIXED_LAYERS",
    "PLAIN",
    "PUBLISHED_MIXTURES",
    "SIGMOID_EXPERTS",
    "SIZES",
]

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "float32",
}
_BIASES = {"attention_bias": False, "attention_dropout": 0.0}
PLAIN = SIZES | _BIASES | {"tie_word_embeddings": False}
MIXED_LAYERS = {
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
GRANITE = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.7,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000,
}
SIGMOID_EXPERTS = {
    "moe_intermediate_size": 24,
    "n_group": 1,
    "n_routed_experts": 5,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 2.5,
    "topk_group": 1,
}
HUNYUAN = PLAIN | {
    "attention_head_dim": 12,
    "cla_share_factor": 2,
    "head_dim": 12,
    "mlp_bias": False,
    "norm_type": "rms",
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "alpha": 1000.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "type": "dynamic",
    },
    "rope_theta": 10000.0,
    "use_cla": False,
    "use_qk_norm": True,
}

PUBLISHED_MIXTURES: dict[str, dict[str, Any]] = {
    "cohere2_moe": PLAIN
    | {
        "expert_selection_fn": "sigmoid",
        "first_k_dense_replace": 1,
        "head_dim": 12,
        "layer_norm_eps": 1e-05,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "logit_scale": 0.5,
        "norm_topk_prob": True,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "num_shared_experts": 2,
        "prefix_dense_intermediate_size": 28,
        "prefix_dense_sliding_window_pattern": 2,
        "rms_norm_eps": None,
        "rope_theta": 50000,
        "shared_expert_combination_strategy": "average",
        "sliding_window": 7,
        "tie_word_embeddings": True,
    },
    "ernie4_5_moe": SIZES
    | {
        "moe_capacity": [64, 64, 64],
        "moe_intermediate_size": 24,
        "moe_k": 2,
        "moe_layer_end_index": 2,
        "moe_layer_interval": 1,
        "moe_layer_start_index": 1,
        "moe_num_experts": 5,
        "moe_num_shared_experts": 2,
        "moe_use_aux_free": True,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "use_bias": False,
    },
    "exaone_moe": PLAIN
    | MIXED_LAYERS
    | {
        "first_k_dense_replace": 1,
        "head_dim": 12,
        "moe_intermediate_size": 24,
        "n_group": 1,
        "norm_topk_prob": True,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "routed_scaling_factor": 2.5,
        "sliding_window_pattern": "LLLG",
        "topk_group": 1,
    },
    "glm4_moe": PLAIN
    | SIGMOID_EXPERTS
    | {
        "attention_bias": True,
        "first_k_dense_replace": 1,
        "head_dim": 12,
        "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "use_qk_norm": True,
    },
    "granitemoeshared": PLAIN
    | GRANITE
    | {
        "num_experts_per_tok": 2,
        "num_local_experts": 5,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "shared_intermediate_size": 28,
        "tie_word_embeddings": True,
    },
    "hunyuan_v1_moe": HUNYUAN
    | {
        "moe_drop_tokens": False,
        "moe_intermediate_size": [40] * 3,
        "moe_layer_num_skipped": 0,
        "moe_topk": [2] * 3,
        "num_experts": 5,
        "num_shared_expert": [1] * 3,
        "use_mixed_mlp_moe": True,
    },
    "llama4_text": PLAIN
    | {
        "attention_chunk_size": 16,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
        "floor_scale": 8,
        "for_llm_compressor": False,
        "head_dim": 12,
        "interleave_moe_layer_step": 1,
        "intermediate_size": 24,
        "intermediate_size_mlp": 40,
        "moe_layers": [0, 2],
        "no_rope_layers": [],
        "no_rope_layer_interval": 3,
        "num_experts_per_tok": 1,
        "num_local_experts": 5,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 32,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "use_qk_norm": True,
    },
    "mimo_v2_flash": PLAIN
    | SIGMOID_EXPERTS
    | {
        "add_full_attention_sink_bias": False,
        "add_swa_attention_sink_bias": True,
        "attention_value_scale": 0.707,
        "head_dim": 12,
        "hybrid_layer_pattern": [0, 1, 1],
        "layernorm_epsilon": 1e-05,
        "moe_layer_freq": [0, 1, 1],
        "n_shared_experts": None,
        "partial_rotary_factor": 0.334,
        "rope_theta": 5000000,
        "routed_scaling_factor": None,
        "scoring_func": "sigmoid",
        "sliding_window": 6,
        "sliding_window_size": 6,
        "swa_head_dim": 12,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_rope_theta": 10000,
        "swa_v_head_dim": 10,
        "topk_method": "noaux_tc",
        "v_head_dim": 10,
    },
    "minimax_m2": SIZES
    | {
        "attn_type_list": [1, 1, 1],
        "head_dim": 12,
        "mtp_transformer_layers": 1,
        "num_experts_per_tok": 2,
        "num_local_experts": 5,
        "num_mtp_modules": 3,
        "qk_norm_type": "per_layer",
        "rms_norm_eps": 1e-06,
        "rope_theta": 5000000,
        "rotary_dim": 6,
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "tie_word_embeddings": False,
        "use_mtp": True,
        "use_qk_norm": True,
        "use_routing_bias": True,
    },
    "olmoe": PLAIN
    | {
        "clip_qkv": None,
        "norm_topk_prob": False,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01,
    },
    "solar_open": PLAIN
    | SIGMOID_EXPERTS
    | {
        "head_dim": 12,
        "intermediate_size": 40,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 2.0,
            "original_max_position_embeddings": 64,
            "rope_type": "yarn",
        },
        "rope_theta": 1000000,
    },
}
