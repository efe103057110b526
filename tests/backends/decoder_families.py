"""Tiny configs of the decoder families with attention, MLP and mixture of experts.

Their variants cover every branch of the families.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DECODERS", "DECODER_VARIANTS"]

_SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
_UNTIED = _SIZES | {"tie_word_embeddings": False}
_GPT = {"vocab_size": 101, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 2}
_QWEN_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MIXED_LAYERS = {
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_FALCON = {
    key: value
    for key, value in _SIZES.items()
    if key not in ("intermediate_size", "num_key_value_heads")
}
_BLOOM = {"vocab_size": 101, "hidden_size": 32, "n_layer": 3, "n_head": 4}
_MPT = {"vocab_size": 101, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 128}
_OPT = {
    key: value
    for key, value in _SIZES.items()
    if key not in ("intermediate_size", "num_key_value_heads")
} | {"ffn_dim": 40}
_DBRX = {
    "vocab_size": 101,
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 128,
    "tie_word_embeddings": False,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.6, "rope_theta": 10000.0},
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 5, "moe_top_k": 2},
    "rope_parameters": _ROPE,
}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.3,
}
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 64,
}

DECODERS: dict[str, dict[str, Any]] = {
    "bloom": _BLOOM,
    "cohere": _SIZES | {"logit_scale": 0.5},
    "cohere2": _SIZES | _MIXED_LAYERS | {"logit_scale": 0.5},
    "dbrx": _DBRX,
    "exaone4": _UNTIED | _MIXED_LAYERS,
    "falcon": _FALCON,
    "gemma": _SIZES | {"head_dim": 12},
    "gemma2": (
        _SIZES
        | _MIXED_LAYERS
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 10,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        }
    ),
    "gemma3_text": (
        _SIZES
        | _MIXED_LAYERS
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 10,
            "final_logit_softcapping": 5.0,
        }
    ),
    "gpt_bigcode": _GPT,
    "gpt_oss": _UNTIED | _EXPERTS | _MIXED_LAYERS | {"head_dim": 12, "intermediate_size": 24},
    "gptj": _GPT | {"rotary_dim": 6, "tie_word_embeddings": False},
    "granite": _UNTIED | _GRANITE,
    "granitemoe": _UNTIED | _GRANITE | _EXPERTS,
    "mixtral": _UNTIED | _EXPERTS | {"sliding_window": 7},
    "mpt": _MPT,
    "olmo": _UNTIED | {"clip_qkv": 0.6},
    "olmo2": _UNTIED,
    "opt": _OPT,
    "phi": _UNTIED,
    "phi3": _UNTIED,
    "phimoe": _UNTIED | _EXPERTS | {"router_jitter_noise": 0.2, "lm_head_bias": True},
    "qwen2_moe": (
        _UNTIED | _QWEN_EXPERTS | {"shared_expert_intermediate_size": 28, "mlp_only_layers": [1]}
    ),
    "qwen3_moe": (
        _UNTIED | _QWEN_EXPERTS | {"head_dim": 12, "decoder_sparse_step": 2, "norm_topk_prob": True}
    ),
    "stablelm": _UNTIED,
    "starcoder2": _SIZES,
}

DECODER_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom-residual-from-norm": (
        "bloom",
        {"apply_residual_connection_post_layernorm": True, "n_head": 2},
    ),
    "cohere-norms": (
        "cohere",
        {"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False},
    ),
    "cohere2-biases": ("cohere2", {"attention_bias": True}),
    "dbrx-unnormalized": (
        "dbrx",
        {
            "attn_config": {"kv_n_heads": 1, "clip_qkv": 9.0, "rope_theta": 10000.0},
            "ffn_config": (
                _DBRX["ffn_config"]
                | {
                    "moe_normalize_expert_weights": None,
                    "ffn_act_fn": {"name": "gelu"},
                }
            ),
        },
    ),
    "exaone4-full": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-new-shared-norm": (
        "falcon",
        {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "bias": True,
        },
    ),
    "falcon-alibi": (
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "falcon-heads": (
        "falcon",
        {"multi_query": False, "tie_word_embeddings": False, "ffn_hidden_size": 40},
    ),
    "gemma-biases": (
        "gemma",
        {"attention_bias": True, "num_key_value_heads": 1, "hidden_act": "gelu"},
    ),
    "gemma2-plain": (
        "gemma2",
        {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3_text-scaled": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
            "attention_bias": True,
        },
    ),
    "gpt2-scaled-by-layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40, "tie_word_embeddings": False},
    ),
    "gpt_bigcode-heads": (
        "gpt_bigcode",
        {"multi_query": False, "n_inner": 40, "scale_attn_weights": False},
    ),
    "gpt_oss-plain-rope": ("gpt_oss", {"rope_parameters": _ROPE, "attention_bias": False}),
    "gptj-wide": ("gptj", {"n_inner": 40, "rotary_dim": 8}),
    "granite-biases": (
        "granite",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "granitemoe-biases": ("granitemoe", {"attention_bias": True}),
    "mixtral-full": (
        "mixtral",
        {"sliding_window": None, "head_dim": 12, "tie_word_embeddings": True},
    ),
    "mpt-clipped": ("mpt", {"attn_config": {"clip_qkv": 0.6, "softmax_scale": 0.2}, "n_heads": 2}),
    "olmo-biases": ("olmo", {"attention_bias": True, "clip_qkv": None}),
    "olmo2-biases": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
    "opt-350m": (
        "opt",
        {"do_layer_norm_before": False, "word_embed_proj_dim": 20, "activation_function": "gelu"},
    ),
    "opt-plain": (
        "opt",
        {
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
            "_remove_final_layer_norm": True,
        },
    ),
    "phi-norms": (
        "phi",
        {"qk_layernorm": True, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.25}},
    ),
    "phi3-long": (
        "phi3",
        {
            "sliding_window": 7,
            "original_max_position_embeddings": 64,
            "rope_parameters": _LONG_ROPE,
        },
    ),
    "phi3-longer": (
        "phi3",
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": _LONG_ROPE | {"original_max_position_embeddings": 16},
        },
    ),
    "phi3-partial": (
        "phi3",
        {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5}, "tie_word_embeddings": True},
    ),
    "phimoe-long": (
        "phimoe",
        {
            "rope_parameters": _LONG_ROPE | {"short_mscale": 1.2, "long_mscale": 1.3},
            "attention_bias": True,
            "sliding_window": 7,
        },
    ),
    "qwen2_moe-window": (
        "qwen2_moe",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 2,
            "qkv_bias": False,
            "norm_topk_prob": True,
        },
    ),
    "qwen3_moe-window": (
        "qwen3_moe",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "attention_bias": True,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [1],
        },
    ),
    "stablelm-norms": ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True}),
    "stablelm-parallel": (
        "stablelm",
        {"use_parallel_residual": True, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5}},
    ),
    "starcoder2-window": (
        "starcoder2",
        {"sliding_window": 7, "use_bias": False, "tie_word_embeddings": False},
    ),
}
