"""Specs of published configs, and rejected options. The configs omit the fields that their
publishers omitted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgi.architectures import (
    MLP,
    Attention,
    LinearScaling,
    LongRopeScaling,
    MixtureOfExperts,
    ModelSpec,
    YarnScaling,
    load_spec,
)
from tgi.architectures.parameter_names import mixer_of
from tgi.architectures.registry import FAMILIES
from tgi.errors import ModelError

GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
FALCON_40B = {
    "model_type": "RefinedWeb",
    "alibi": False,
    "bias": False,
    "hidden_size": 8192,
    "n_head": 128,
    "n_head_kv": 8,
    "n_layer": 60,
    "parallel_attn": True,
    "vocab_size": 65024,
}
PHI_3_5_MOE = {
    "model_type": "phimoe",
    "attention_bias": True,
    "hidden_size": 4096,
    "intermediate_size": 6400,
    "lm_head_bias": True,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 16,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "long_factor": [2.0] * 64,
        "long_mscale": 1.243163121016122,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 64,
        "short_mscale": 1.243163121016122,
        "type": "longrope",
    },
    "rope_theta": 10000.0,
    "router_jitter_noise": 0.01,
    "sliding_window": 131072,
    "vocab_size": 32064,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "sliding_window": 128,
    "vocab_size": 201088,
}
MPT_7B = {
    "model_type": "mpt",
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_type": "multihead_attention",
        "prefix_lm": False,
        "qk_ln": False,
    },
    "d_model": 4096,
    "expansion_ratio": 4,
    "max_seq_len": 2048,
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "vocab_size": 50432,
}
DBRX = {
    "model_type": "dbrx",
    "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
    "d_model": 6144,
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    "max_seq_len": 32768,
    "n_heads": 48,
    "n_layers": 40,
    "vocab_size": 100352,
}
BAICHUAN2_13B = {
    "model_type": "baichuan",
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "model_max_length": 4096,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "rms_norm_eps": 1e-06,
    "vocab_size": 125696,
}


def load(config: dict[str, Any], path: Path, **options: Any) -> ModelSpec:
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    spec = load_spec(path, **options)
    assert isinstance(spec, ModelSpec)
    return spec


def attentions(spec: ModelSpec) -> list[Attention]:
    mixers = [
        mixer_of(f"decoder.layers.{layer}.attention.q.weight", spec)
        for layer in range(len(spec.decoder.layers))
    ]
    return [mixer for mixer in mixers if isinstance(mixer, Attention)]


def changed(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a copy of `config` with `fields` set. Dicts are merged into the existing sections."""
    return config | {
        name: config[name] | value if isinstance(value, dict) and name in config else value
        for name, value in fields.items()
    }


def test_gemma3(tmp_path: Path) -> None:
    spec = load(GEMMA3, tmp_path)
    layers = attentions(spec)
    assert [layer.window for layer in layers[:6]] == [1024] * 5 + [None]
    assert sum(layer.window is None for layer in layers) == 5
    assert (layers[0].num_heads, layers[0].num_kv_heads, layers[0].head_dim, layers[0].scale) == (
        8,
        4,
        256,
        1 / 16,
    )
    local, full = layers[0].rope, layers[5].rope
    assert local is not None
    assert full is not None
    assert (local.theta, local.scaling, full.theta, full.scaling) == (
        1e4,
        None,
        1e6,
        LinearScaling(factor=8.0),
    )
    assert (spec.vocab_size, spec.max_positions, spec.head.tied) == (262_208, 131_072, True)
    assert "language_model.model." in spec.prefixes


def test_rope_options_reach_the_full_layers_of_a_text_model(tmp_path: Path) -> None:
    old = attentions(load(GEMMA3, tmp_path, rope_factor=2.0))
    parameters = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    }
    new = attentions(
        load(
            changed(GEMMA3, text_config={"rope_parameters": parameters, "rope_scaling": None}),
            tmp_path,
            rope_factor=2.0,
        )
    )
    for layers, theta, local_theta in ((old, 1e6, 1e4), (new, 5e5, 300.0)):
        full, local = layers[5].rope, layers[0].rope
        assert full is not None
        assert local is not None
        assert (full.theta, full.scaling) == (theta, LinearScaling(factor=2.0))
        assert (local.theta, local.scaling) == (local_theta, None)


def test_falcon_40b(tmp_path: Path) -> None:
    spec = load(FALCON_40B, tmp_path)
    attention = attentions(spec)[0]
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (128, 8, 64)
    assert len(spec.decoder.layers[0].blocks) == 1
    assert all(branch.norm is not None for branch in spec.decoder.layers[0].blocks[0].branches)


def test_phi_3_5_moe(tmp_path: Path) -> None:
    spec = load(PHI_3_5_MOE, tmp_path)
    rope = attentions(spec)[0].rope
    assert rope is not None
    assert isinstance(rope.scaling, LongRopeScaling)
    assert rope.scaling.attention_factor == rope.scaling.long_attention_factor == 1.243163121016122
    mixture = mixer_of("decoder.layers.0.moe.router.weight", spec)
    assert isinstance(mixture, MixtureOfExperts)
    assert (mixture.num_experts, mixture.router.score, mixture.router.jitter) == (
        16,
        "sparse_mixer",
        0.01,
    )
    assert spec.head.bias


def test_gpt_oss_has_the_same_spec_with_quantized_experts(tmp_path: Path) -> None:
    quantized = changed(GPT_OSS, quantization_config={"quant_method": "mxfp4"})
    assert load(quantized, tmp_path) == load(GPT_OSS, tmp_path)


def test_gpt_oss_without_rope_parameters_is_yarn(tmp_path: Path) -> None:
    spec = load(GPT_OSS, tmp_path)
    first, second = attentions(spec)[:2]
    assert (first.window, second.window, first.sinks) == (128, None, True)
    assert first.rope is not None
    assert first.rope.theta == 150_000.0
    assert isinstance(first.rope.scaling, YarnScaling)
    assert (first.rope.scaling.factor, first.rope.scaling.truncate) == (32.0, False)


def test_mpt(tmp_path: Path) -> None:
    attention = attentions(load(MPT_7B, tmp_path))[0]
    assert (attention.alibi, attention.alibi_bias_max, attention.qkv_bias) == (True, 8.0, False)
    story = attentions(
        load(changed(MPT_7B, attn_config={"alibi_bias_max": 16, "clip_qkv": 6}), tmp_path)
    )[0]
    assert (story.alibi_bias_max, story.clip_qkv) == (16.0, 6.0)
    assert (
        attentions(
            load(changed(MPT_7B, attn_config={"attn_type": "multiquery_attention"}), tmp_path)
        )[0].num_kv_heads
        == 1
    )
    assert load(changed(MPT_7B, logit_scale="inv_sqrt_d_model"), tmp_path).head.scale == 1 / 64
    mlp = mixer_of(
        "decoder.layers.0.mlp.up.weight",
        load(changed(MPT_7B, no_bias=False, expansion_ratio=2), tmp_path),
    )
    assert isinstance(mlp, MLP)
    assert (mlp.bias, mlp.intermediate_size) == (True, 8192)


def test_dbrx(tmp_path: Path) -> None:
    attention = attentions(load(DBRX, tmp_path))[0]
    assert attention.rope is not None
    assert (attention.rope.theta, attention.clip_qkv, attention.num_kv_heads) == (5e5, 8.0, 8)


def test_second_baichuan(tmp_path: Path) -> None:
    second, first = (
        load(BAICHUAN2_13B, tmp_path),
        load(BAICHUAN2_13B | {"vocab_size": 64000}, tmp_path),
    )
    for spec, unit_rows in ((second, True), (first, False)):
        assert (
            next(rule for rule in spec.weights if rule.parameters == ("head.weight",)).unit_rows
            is unit_rows
        )
        assert attentions(spec)[0].alibi
        assert spec.max_positions == 4096


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            changed(MPT_7B, attn_config={"alibi": False}),
            ["`alibi` in `attn_config`", "must be true"],
        ),
        (changed(MPT_7B, attn_config={"qk_ln": True}), ["`qk_ln`", "must be false"]),
        (changed(MPT_7B, norm_type="rmsnorm"), ["`norm_type`", "low_precision_layernorm"]),
        (changed(MPT_7B, logit_scale="large"), ["`logit_scale`", "inv_sqrt_d_model"]),
        (
            changed(DBRX, ffn_config={"moe_normalize_expert_weights": 2.0}),
            ["`moe_normalize_expert_weights`", "must be 1 or null"],
        ),
        (changed(DBRX, attn_config={"kv_n_heads": 7}), ["`n_heads` (48)", "`kv_n_heads` (7)"]),
        (changed(GPT_OSS, swiglu_limit=5.0), ["`swiglu_limit`", "7.0"]),
        (changed(GPT_OSS, layer_types=["full_attention"]), ["`layer_types`", "24 strings"]),
        (
            changed(GEMMA3, text_config={"use_bidirectional_attention": True}),
            ["use_bidirectional_attention", "text_config"],
        ),
        ({"model_type": "gemma3"}, ["`text_config` is missing"]),
        (BAICHUAN2_13B | {"model_max_length": None}, ["`model_max_length` is missing"]),
        (
            changed(PHI_3_5_MOE, rope_scaling={"short_factor": [1.0]}),
            ["`short_factor`", "64 numbers"],
        ),
        (
            {"model_type": "gptj", "n_embd": 32, "n_head": 4, "n_layer": 1, "rotary_dim": 9},
            ["`rotary_dim`", "even number up to the head's size 8"],
        ),
    ],
)
def test_invalid_option_is_reported(
    config: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        load(config, tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_family_reports_a_missing_field(tmp_path: Path) -> None:
    """An empty config is a `ModelError` with a message for every family."""
    for model_type in FAMILIES:
        with pytest.raises(ModelError, match="is missing"):
            load({"model_type": model_type}, tmp_path)
