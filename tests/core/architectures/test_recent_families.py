"""Specs of the families of 2024 to 2026: published values, defaults and rejected options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgi.architectures import (
    MLP,
    Attention,
    LatentAttention,
    Llama3Scaling,
    MixtureOfExperts,
    ModelSpec,
    PositionScale,
    YarnScaling,
    load_spec,
)
from tgi.architectures.parameter_names import mixer_of
from tgi.errors import ModelError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 101,
}
KIMI_K2 = {
    "model_type": "kimi_k2",
    "first_k_dense_replace": 1,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 2048,
    "n_group": 1,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 64,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "v_head_dim": 128,
    "vocab_size": 163840,
}


def load(config: dict[str, Any], path: Path) -> ModelSpec:
    (path / "config.json").write_text(json.dumps(config))
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


def attention_of(spec: ModelSpec, layer: int = 0) -> Attention:
    mixer = mixer_of(f"decoder.layers.{layer}.attention.o.weight", spec)
    assert isinstance(mixer, Attention)
    return mixer


def test_kimi_k2(tmp_path: Path) -> None:
    spec = load(KIMI_K2, tmp_path)
    mixer = mixer_of("decoder.layers.1.latent_attention.o.weight", spec)
    assert isinstance(mixer, LatentAttention)
    assert isinstance(mixer.rope.scaling, YarnScaling)
    assert (spec.model_type, mixer.rope.interleaved, mixer.rope.scaling.factor) == (
        "kimi_k2",
        True,
        32.0,
    )
    experts = mixer_of("decoder.layers.1.moe.router.weight", spec)
    assert isinstance(experts, MixtureOfExperts)
    assert (experts.num_experts, experts.router.scale, experts.router.num_groups) == (384, 2.827, 1)
    assert isinstance(mixer_of("decoder.layers.0.mlp.up.weight", spec), MLP)


def test_context_of_an_index(tmp_path: Path) -> None:
    config = KIMI_K2 | {"model_type": "deepseek_v32", "n_group": 8, "topk_group": 4}
    spec = load(config, tmp_path)
    assert (spec.max_positions, spec.index_limit) == (2048, 2048)
    assert load(config | {"index_topk": 64}, tmp_path).index_limit == 64
    with pytest.raises(ModelError, match="context of a deepseek_v32 model cannot be extended"):
        load_spec(tmp_path, rope_factor=2.0)
    assert load(KIMI_K2, tmp_path).index_limit is None


def test_default_ropes(tmp_path: Path) -> None:
    """A config without rotary parameters gets those of the class in `transformers`."""
    apertus = attention_of(load(SIZES | {"model_type": "apertus"}, tmp_path))
    assert apertus.rope is not None
    assert apertus.rope.theta == 12_000_000.0
    assert isinstance(apertus.rope.scaling, Llama3Scaling)
    ministral = load(SIZES | {"model_type": "ministral3", "num_key_value_heads": 2}, tmp_path)
    assert attention_of(ministral).position_scale == PositionScale(beta=0.1, period=16384)


def test_layers_of_ernie_with_experts(tmp_path: Path) -> None:
    config = SIZES | {"model_type": "ernie4_5_moe", "num_key_value_heads": 2}
    spec = load(config | {"moe_layer_start_index": 1, "moe_layer_end_index": 1}, tmp_path)
    has_experts = [
        any(isinstance(branch.mixer, MixtureOfExperts) for branch in block.branches)
        for layer in spec.decoder.layers
        for block in layer.blocks[1:]
    ]
    assert has_experts == [False, True, False]


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("apertus", {"hidden_act": "silu"}, ["`hidden_act`", "xielu"]),
        ("codegen", {"n_embd": 36, "n_head": 6, "n_layer": 1}, ["`n_head`", "divisible by 4"]),
        ("cohere2_moe", {"first_k_dense_replace": 1}, ["`prefix_dense_intermediate_size`"]),
        (
            "gemma4_text",
            {"num_kv_shared_layers": 3},
            ["`num_kv_shared_layers`", "a layer of each kind"],
        ),
        ("gemma4_text", {"use_bidirectional_attention": "all"}, ["`use_bidirectional_attention`"]),
        ("glm4_moe", {"mlp_layer_types": ["dense"]}, ["`mlp_layer_types`", "3 strings"]),
        ("gpt_neo", {"attention_types": [[["global"], 2]]}, ["`attention_types`", "3 layers"]),
        ("gpt_neo", {"attention_types": [[["global"], 10**12]]}, ["`attention_types`"]),
        ("gpt_neo", {"attention_types": {"global": 3}}, ["`attention_types`"]),
        ("gpt_neo", {"attention_types": [[["odd"], 3]]}, ["`attention_types`"]),
        (
            "granitemoehybrid",
            {"layer_types": ["attention"] * 3, "position_embedding_type": "alibi"},
            ["`position_embedding_type`", "rope, nope"],
        ),
        ("hunyuan_v1_dense", {"rope_scaling": {"alpha": -1.0}}, ["`alpha`", "at least 0"]),
        ("hunyuan_v1_dense", {"rope_scaling": {"alpha": 1e308}}, ["`alpha`", "at most 1000000"]),
        (
            "hunyuan_v1_dense",
            {"rope_scaling": {"alpha": 1000.0}, "head_dim": 2},
            ["`head_dim`", "greater than 2"],
        ),
        ("hunyuan_v1_moe", {"moe_topk": [1, 1]}, ["`moe_topk`", "3 whole numbers"]),
        ("hunyuan_v1_moe", {"num_experts": [1, 0, 1]}, ["`num_experts`", ">= 1"]),
        ("llama4_text", {"attn_temperature_tuning": "on"}, ["`attn_temperature_tuning`", "true"]),
        ("llama4_text", {"no_rope_layers": [1]}, ["`no_rope_layers`", "3 entries"]),
        ("llama4_text", {"layer_types": ["chunked_attention"]}, ["`layer_types`", "3 strings"]),
        ("mimo_v2_flash", {"hybrid_layer_pattern": [1]}, ["`hybrid_layer_pattern`", "3 entries"]),
        ("mimo_v2_flash", {"moe_layer_freq": [1]}, ["`moe_layer_freq`", "3 entries"]),
        ("minicpm", {"num_experts": 8}, ["`num_experts`", "MiniCPM-MoE is not supported"]),
        ("minimax_m2", {"scoring_func": "softmax"}, ["`scoring_func`", "sigmoid"]),
        ("minicpm", {"sparse_config": {"topk": 64}}, ["`sparse_config`", "InfLLM"]),
        (
            "ministral3",
            {"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}},
            ["`original_max_position_embeddings` is missing"],
        ),
        ("xglm", {"d_model": 2, "attention_heads": 1}, ["`d_model`", "even number >= 4"]),
        ("xglm", {"add_cross_attention": True}, ["`add_cross_attention`", "must be false"]),
        ("smollm3", {"no_rope_layers": [1, 0]}, ["`no_rope_layers`", "3 entries"]),
    ],
)
def test_invalid_option_is_reported(
    model_type: str, changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    other_names = {
        "model_type": model_type,
        "intermediate_size_mlp": 40,
        "moe_intermediate_size": 24,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "num_layers": 3,
    }
    with pytest.raises(ModelError) as caught:
        load(SIZES | other_names | changes, tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
