"""Variants of the configs in `published_configs`. They cover the other branches of the families."""

from __future__ import annotations

from typing import Any

__all__ = ["PUBLISHED_VARIANTS"]

_ALL_BIASES = {"attention_bias": True, "mlp_bias": True}

PUBLISHED_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus-biases": ("apertus", {"attention_bias": True, "tie_word_embeddings": True}),
    "arcee-biases": ("arcee", _ALL_BIASES | {"rope_scaling": None, "head_dim": None}),
    "codegen-wide": ("codegen", {"n_inner": 40, "tie_word_embeddings": True}),
    "cohere2_moe-softmax": (
        "cohere2_moe",
        {
            "attention_bias": True,
            "expert_selection_fn": "softmax",
            "layer_types": None,
            "prefix_dense_sliding_window_pattern": 1,
            "rms_norm_eps": 1e-06,
            "shared_expert_combination_strategy": "sum",
            "sliding_window_pattern": 2,
        },
    ),
    "cohere2_moe-unshared": (
        "cohere2_moe",
        {"first_k_dense_replace": 0, "norm_topk_prob": False, "num_shared_experts": 0},
    ),
    "ernie4_5-biases": ("ernie4_5", {"use_bias": True, "tie_word_embeddings": False}),
    "ernie4_5_moe-biases": (
        "ernie4_5_moe",
        {
            "moe_layer_end_index": -1,
            "moe_layer_interval": 2,
            "moe_layer_start_index": 0,
            "moe_num_shared_experts": 0,
            "use_bias": True,
        },
    ),
    "gemma4_text-same-values": (
        "gemma4_text",
        {
            "attention_bias": True,
            "attention_k_eq_v": True,
            "final_logit_softcapping": None,
            "hidden_size_per_layer_input": 0,
            "num_global_key_value_heads": 1,
            "num_kv_shared_layers": 0,
            "rope_parameters": None,
            "tie_word_embeddings": False,
            "use_double_wide_mlp": False,
        },
    ),
    "glm4_moe-groups": (
        "glm4_moe",
        {
            "first_k_dense_replace": 0,
            "n_group": 4,
            "n_routed_experts": 8,
            "topk_group": 2,
            "use_qk_norm": False,
        },
    ),
    "gpt_neo-wide": ("gpt_neo", {"intermediate_size": 40, "tie_word_embeddings": False}),
    "granitemoehybrid-experts": (
        "granitemoehybrid",
        {"num_experts_per_tok": 2, "num_local_experts": 5, "position_embedding_type": "nope"},
    ),
    "granitemoeshared-unshared": ("granitemoeshared", {"shared_intermediate_size": 0}),
    "helium-biases": ("helium", _ALL_BIASES),
    "hunyuan_v1_dense-plain": ("hunyuan_v1_dense", {"attention_bias": True, "rope_scaling": None}),
    "internlm3-biases": ("internlm3", {"bias": True, "qkv_bias": True, "rope_scaling": None}),
    "llama4_text-dense": (
        "llama4_text",
        {
            "attention_bias": True,
            "attn_temperature_tuning": False,
            "interleave_moe_layer_step": 2,
            "moe_layers": None,
            "no_rope_layers": [1, 0, 1],
            "num_experts_per_tok": 3,
            "rope_scaling": None,
            "use_qk_norm": False,
        },
    ),
    "mimo_v2_flash-groups": (
        "mimo_v2_flash",
        {
            "attention_bias": True,
            "attention_value_scale": None,
            "hybrid_layer_pattern": None,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "mlp_layer_types": ["sparse", "dense", "sparse"],
            "moe_layer_freq": None,
            "n_group": 4,
            "n_routed_experts": 8,
            "rope_parameters": {
                kind: {
                    "partial_rotary_factor": 0.5,
                    "rope_theta": theta,
                    "rope_type": "default",
                }
                for kind, theta in {"full_attention": 500.0, "sliding_attention": 90.0}.items()
            },
            "sliding_window": 5,
            "sliding_window_size": None,
            "topk_group": 2,
        },
    ),
    "ministral-window": ("ministral", {"layer_types": None}),
    "nemotron-biases": ("nemotron", _ALL_BIASES | {"head_dim": None}),
    "olmo3-plain": ("olmo3", {"attention_bias": True, "rope_scaling": None}),
    "olmoe-clipped": ("olmoe", {"clip_qkv": 0.6, "norm_topk_prob": True}),
    "persimmon-plain": ("persimmon", {"qk_layernorm": False}),
    "phi3-mini-4": (
        "phi3",
        {
            "original_max_position_embeddings": 64,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "long_factor": [2.0, 3.0, 4.0],
                "short_factor": [1.0, 1.1, 1.2],
                "type": "longrope",
            },
            "rope_theta": 10000.0,
            "sliding_window": 128,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3-window": (
        "smollm3",
        _ALL_BIASES
        | {
            "layer_types": None,
            "no_rope_layers": None,
            "sliding_window": 7,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
        },
    ),
    "seed_oss-biases": ("seed_oss", {"attention_out_bias": True, "mlp_bias": True}),
}
"""Named variants: the family, and the changes of its config."""
