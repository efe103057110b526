"""Specs of families with recurrent mixers: layers, factors, sharding and rejected options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.core.architectures.test_recent_families import SIZES, load
from tgi.architectures import ModelSpec
from tgi.architectures.parameter_names import mixer_of, mixer_tag, shard_axis
from tgi.errors import ModelError

HYBRID = SIZES | {"mamba_n_heads": 4, "num_key_value_heads": 2}


def tags(spec: ModelSpec) -> list[list[str]]:
    """The tags of the mixers of each layer."""
    return [
        [mixer_tag(branch.mixer) for block in layer.blocks for branch in block.branches]
        for layer in spec.decoder.layers
    ]


@pytest.mark.parametrize(
    ("model_type", "changes", "first_mixers"),
    [
        ("bamba", {"attn_layer_indices": [2]}, ["state_space", "state_space", "attention"]),
        ("granitemoehybrid", {}, ["state_space"] * 3),
        ("jamba", {"attn_layer_offset": 0}, ["attention", "state_space", "state_space"]),
        ("lfm2", {}, ["attention"] * 3),
        ("minimax", {}, ["attention", "lightning_attention", "attention"]),
        ("lfm3", {}, ["short_convolution", "short_convolution", "attention"]),
        ("lfm2", {"full_attn_idxs": [1]}, ["short_convolution", "attention", "short_convolution"]),
        ("nemotron_h", {"hybrid_override_pattern": "-M*"}, ["mlp", "state_space", "attention"]),
        ("qwen3_5_text", {}, ["linear_attention"] * 3),
        ("recurrent_gemma", {}, ["gated_recurrence", "gated_recurrence", "attention"]),
    ],
)
def test_mixers_of_the_layers(
    model_type: str, changes: dict[str, Any], first_mixers: list[str], tmp_path: Path
) -> None:
    spec = load(HYBRID | {"model_type": model_type} | changes, tmp_path)
    assert [layer[0] for layer in tags(spec)] == first_mixers


def test_factors_of_falcon_h1(tmp_path: Path) -> None:
    """A factor of an input applies to the weight only, and a factor of an output to both."""
    config = HYBRID | {
        "model_type": "falcon_h1",
        "mamba_d_ssm": 48,
        "attention_in_multiplier": 3.0,
        "key_multiplier": 0.5,
        "ssm_in_multiplier": 2.0,
        "ssm_multipliers": [1.0, 2.0, 3.0, 4.0, 5.0],
    }
    spec = load(config, tmp_path)
    factors = {rule.name.removeprefix("layers.{layer}."): rule.factors for rule in spec.weights}
    assert factors["self_attn.k_proj.weight"] == (1.5,)
    assert factors["self_attn.k_proj.bias"] == (0.5,)
    assert factors["self_attn.q_proj.weight"] == (3.0,)
    assert factors["self_attn.q_proj.bias"] == ()
    assert factors["mamba.in_proj.weight"] == (2.0, 4.0, 6.0, 8.0, 10.0)
    assert factors["mamba.in_proj.bias"] == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert factors["feed_forward.down_proj.weight"] == ()
    assert mixer_of("decoder.layers.0.state_space.out.weight", spec) is not None


@pytest.mark.parametrize(
    ("parameter", "axis"),
    [
        ("short_convolution.in_gate.weight", 0),
        ("short_convolution.gate.weight", 0),
        ("short_convolution.conv_x.weight", 0),
        ("short_convolution.out.weight", 1),
        ("gated_recurrence.input_gate.weight", 0),
        ("gated_recurrence.recurrent_gate.bias", 0),
        ("gated_recurrence.rate", 0),
        ("gated_recurrence.out.bias", None),
    ],
)
def test_shard_axis(parameter: str, axis: int | None) -> None:
    assert shard_axis(f"decoder.layers.0.{parameter}") == axis


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("bamba", {"mamba_d_head": 8}, ["`mamba_d_head`", "64 / 4 = 16"]),
        ("bamba", {"mamba_n_heads": 5}, ["`inner size` (64)", "`mamba_n_heads` (5)"]),
        ("bamba", {"mamba_n_groups": 3}, ["`mamba_n_heads`", "`mamba_n_groups` (3)"]),
        ("bamba", {"hidden_act": "gelu"}, ["`hidden_act`", "silu"]),
        ("falcon_h1", {"ssm_multipliers": [1.0]}, ["`ssm_multipliers`", "5 numbers"]),
        ("falcon_h1", {"mlp_multipliers": "1"}, ["`mlp_multipliers`", "2 numbers"]),
        ("granitemoehybrid", {"layer_types": ["conv"] * 3}, ["`layer_types`", "3 strings"]),
        ("jamba", {"attn_layer_offset": 8}, ["`attn_layer_offset`", "less than", "(8)"]),
        ("jamba", {"expert_layer_period": 0}, ["`expert_layer_period`", ">= 1"]),
        ("lfm2", {"layer_types": ["conv"]}, ["`layer_types`", "3 strings"]),
        ("lfm3", {"layer_types": ["conv"]}, ["`layer_types`", "3 strings"]),
        ("lfm2", {"conv_L_cache": 1}, ["`conv_L_cache`", ">= 2"]),
        ("nemotron_h", {"hybrid_override_pattern": "MX"}, ["`hybrid_override_pattern`", "M * - E"]),
        ("nemotron_h", {"hybrid_override_pattern": ""}, ["`hybrid_override_pattern`"]),
        ("nemotron_h", {"hybrid_override_pattern": 3}, ["must be a string"]),
        ("nemotron_h", {"layers_block_type": []}, ["`layers_block_type`"]),
        ("nemotron_h", {"layers_block_type": "M"}, ["`layers_block_type`"]),
        ("recurrent_gemma", {"block_types": ["odd"]}, ["`block_types`", "recurrent, attention"]),
        ("recurrent_gemma", {"block_types": []}, ["`block_types`"]),
        ("recurrent_gemma", {"lru_width": 30}, ["`lru_width` (30)", "`num_attention_heads` (4)"]),
    ],
)
def test_invalid_option_is_reported(
    model_type: str, changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        load(HYBRID | {"model_type": model_type, "mamba_d_ssm": 64} | changes, tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model_type
