"""Published configs of the families of 2024 to 2026, with small sizes.

The keys are those of the published files. Sizes, token ids and lists with one entry per layer are
shrunk. The configs of cohere2_moe, exaone_moe, helium and solar_open contain the fields of their
classes in `transformers`.
"""

from __future__ import annotations

from typing import Any

from tests.backends.published_mixtures import (
    GRANITE,
    HUNYUAN,
    MIXED_LAYERS,
    PLAIN,
    PUBLISHED_MIXTURES,
    SIGMOID_EXPERTS,
    SIZES,
)

__all__ = ["PUBLISHED", "PUBLISHED_LATENT"]

_GRANITE_HYBRID = (
    PLAIN
    | GRANITE
    | {
        "init_method": "mup",
        "layer_types": ["attention"] * 3,
        "mamba_chunk_size": 256,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_head": 32,
        "mamba_d_state": 256,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_n_heads": 2,
        "mamba_proj_bias": False,
        "normalization_function": "rmsnorm",
        "num_experts_per_tok": 0,
        "num_local_experts": 0,
        "output_router_logits": False,
        "position_embedding_type": "rope",
        "router_aux_loss_coef": 0.01,
        "shared_intermediate_size": 40,
        "tie_word_embeddings": True,
    }
)
_GLM = PLAIN | {
    "attention_bias": True,
    "head_dim": 12,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    **PUBLISHED_MIXTURES,
    "apertus": PLAIN
    | {
        "hidden_act": "xielu",
        "mlp_bias": False,
        "post_norm": False,
        "qk_norm": True,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 32,
            "rope_type": "llama3",
        },
        "rope_theta": 12000000,
    },
    "arcee": PLAIN
    | {
        "head_dim": 12,
        "hidden_act": "relu2",
        "mlp_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 4.0,
            "mscale": 1.0,
            "original_max_position_embeddings": 32,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "rope_theta": 10000.0,
    },
    "codegen": {
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 2,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 128,
        "n_embd": 64,
        "n_head": 8,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "rotary_dim": 6,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 101,
    },
    "ernie4_5": SIZES
    | {
        "head_dim": 12,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "use_bias": False,
    },
    "glm": _GLM,
    "glm4": _GLM | {"attention_bias": False, "rms_norm_eps": 1e-05},
    "gemma4_text": SIZES
    | {
        "attention_bias": False,
        "attention_k_eq_v": False,
        "enable_moe_block": False,
        "expert_intermediate_size": None,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 16,
        "head_dim": 8,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_experts": None,
        "num_global_key_value_heads": None,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "full_attention": {
                "partial_rotary_factor": 0.25,
                "rope_theta": 1000000.0,
                "rope_type": "proportional",
            },
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": 7,
        "tie_word_embeddings": True,
        "top_k_experts": None,
        "use_bidirectional_attention": None,
        "use_double_wide_mlp": True,
        "vocab_size_per_layer_input": 101,
    },
    "gpt_neo": {
        "activation_function": "gelu_new",
        "attention_dropout": 0,
        "attention_layers": ["global", "local"],
        "attention_types": [[["global", "local"], 1]],
        "bos_token_id": 1,
        "embed_dropout": 0,
        "eos_token_id": 2,
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 128,
        "num_heads": 4,
        "num_layers": 2,
        "resid_dropout": 0,
        "use_cache": True,
        "vocab_size": 101,
        "window_size": 7,
    },
    "granitemoehybrid": _GRANITE_HYBRID,
    "helium": PLAIN
    | {
        "head_dim": 8,
        "mlp_bias": False,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-08,
        "rope_theta": 100000.0,
    },
    "hunyuan_v1_dense": HUNYUAN | {"tie_word_embeddings": True},
    "internlm3": SIZES
    | {
        "attention_dropout": 0.0,
        "bias": False,
        "head_dim": 12,
        "qkv_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
        "rope_theta": 50000000,
        "tie_word_embeddings": False,
    },
    "ministral": PLAIN
    | MIXED_LAYERS
    | {
        "head_dim": 12,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000000.0,
    },
    "ministral3": PLAIN
    | {
        "head_dim": 12,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 16.0,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 8,
            "rope_theta": 1000000.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "sliding_window": None,
    },
    "nemotron": PLAIN
    | {
        "head_dim": 12,
        "hidden_act": "relu2",
        "mlp_bias": False,
        "norm_eps": 1e-05,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
    },
    "olmo3": PLAIN
    | MIXED_LAYERS
    | {
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 8.0,
            "original_max_position_embeddings": 16,
            "rope_type": "yarn",
        },
        "rope_theta": 500000,
    },
    "persimmon": {key: value for key, value in PLAIN.items() if key != "num_key_value_heads"}
    | {
        "hidden_act": "relu2",
        "hidden_dropout": 0.0,
        "layer_norm_eps": 1e-05,
        "partial_rotary_factor": 0.5,
        "qk_layernorm": True,
        "rope_scaling": None,
        "rope_theta": 25000.0,
    },
    "xglm": {
        "activation_dropout": 0,
        "activation_function": "gelu",
        "attention_dropout": 0.1,
        "attention_heads": 4,
        "bos_token_id": 0,
        "d_model": 32,
        "decoder_start_token_id": 2,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 40,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 128,
        "num_layers": 3,
        "pad_token_id": 1,
        "scale_embedding": True,
        "use_cache": True,
        "vocab_size": 101,
    },
    "smollm3": PLAIN
    | {
        "layer_types": ["full_attention"] * 3,
        "max_window_layers": 28,
        "mlp_bias": False,
        "no_rope_layer_interval": 2,
        "no_rope_layers": [1, 0, 1],
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "seed_oss": PLAIN
    | {
        "attention_bias": True,
        "attention_dropout": 0.1,
        "attention_out_bias": False,
        "head_dim": 12,
        "mlp_bias": False,
        "residual_dropout": 0.1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"rope_type": "default"},
        "rope_theta": 10000000.0,
    },
}
"""Families with plain attention."""

_LATENT = PLAIN | {
    "kv_lora_rank": 10,
    "num_key_value_heads": 4,
    "q_lora_rank": 14,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
}

_INDEX = {"index_head_dim": 8, "index_n_heads": 2, "index_topk": 128}

PUBLISHED_LATENT: dict[str, dict[str, Any]] = {
    "deepseek_v32": _LATENT
    | SIGMOID_EXPERTS
    | _INDEX
    | {
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 4,
        "n_routed_experts": 8,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 32,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "scoring_func": "sigmoid",
        "topk_group": 2,
        "topk_method": "noaux_tc",
        "v_head_dim": 6,
    },
    "glm_moe_dsa": _LATENT
    | SIGMOID_EXPERTS
    | _INDEX
    | {
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "head_dim": 4,
        "index_skip_topk_offset": 1,
        "index_topk_freq": 2,
        "indexer_rope_interleave": True,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 1,
        "qk_head_dim": 12,
        "rms_norm_eps": 1e-05,
        "rope_interleave": True,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "v_head_dim": 6,
    },
    "glm4_moe_lite": _LATENT
    | SIGMOID_EXPERTS
    | {
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "routed_scaling_factor": 1.8,
        "topk_method": "noaux_tc",
        "v_head_dim": 6,
    },
    "minicpm3": _LATENT
    | {
        "dim_model_base": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [1.05, 1.2],
            "original_max_position_embeddings": 128,
            "short_factor": [1.05, 1.2],
            "type": "longrope",
        },
        "scale_depth": 1.4,
        "scale_emb": 12,
        "tie_word_embeddings": True,
    },
}
"""Families with latent attention."""
