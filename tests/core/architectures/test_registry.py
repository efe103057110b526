"""From config.json to a spec: the fields that are read, and the messages of rejected configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgi.architectures import (
    Attention,
    DynamicScaling,
    GenericSpec,
    LinearScaling,
    ModelSpec,
    YarnScaling,
    load_spec,
)
from tgi.errors import ModelError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}


def write(path: Path, config: object) -> Path:
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def attention_of(spec: ModelSpec | GenericSpec, layer: int = 0) -> Attention:
    assert isinstance(spec, ModelSpec)
    mixer = spec.decoder.layers[layer].blocks[0].branches[0].mixer
    assert isinstance(mixer, Attention)
    return mixer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, ["`hidden_size` is missing"]),
        ({"max_position_embeddings": None}, ["`max_position_embeddings` is missing"]),
        ({"hidden_size": "64"}, ["`hidden_size`", "whole number >= 1", '"64"']),
        ({"hidden_size": True}, ["`hidden_size`", "true"]),
        ({"num_hidden_layers": 0}, ["`num_hidden_layers`", ">= 1", "0"]),
        (
            {"num_attention_heads": 7, "num_key_value_heads": 7},
            ["`hidden_size` (64)", "`num_attention_heads` (7)"],
        ),
        ({"num_key_value_heads": 3}, ["`num_attention_heads` (8)", "`num_key_value_heads` (3)"]),
        ({"hidden_act": "mish"}, ["`hidden_act`", "gelu_new", '"mish"']),
        ({"rms_norm_eps": "small"}, ["`rms_norm_eps`", "a number"]),
        ({"attention_bias": 1}, ["`attention_bias`", "true or false"]),
        (
            {"rope_scaling": {"type": "magic", "factor": 2}},
            ["`type`", "`rope_scaling` of config.json", "longrope"],
        ),
        ({"rope_scaling": {"type": "linear"}}, ["`factor` is missing", "`rope_scaling`"]),
        ({"rope_scaling": [2]}, ["`rope_scaling`", "an object"]),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            ["`rope_parameters`", "per layer type"],
        ),
        ({"partial_rotary_factor": 0.01}, ["`partial_rotary_factor`", "even number"]),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 4}},
            ["`short_factor`", "list of 4 numbers"],
        ),
    ],
)
def test_wrong_field_is_reported(change: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_spec(write(tmp_path, LLAMA | change))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no file"),
        ("{", "not valid JSON"),
        ("[]", "must contain a JSON object"),
        ("{}", "no `model_type`"),
    ],
)
def test_unusable_config_file(content: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=words):
        load_spec(tmp_path)


def test_llama_options(tmp_path: Path) -> None:
    plain = load_spec(write(tmp_path, LLAMA))
    assert isinstance(plain, ModelSpec)
    assert (attention_of(plain).head_dim, attention_of(plain).num_kv_heads) == (8, 2)
    assert not (plain.head.tied or attention_of(plain).qkv_bias or attention_of(plain).output_bias)
    assert (plain.max_positions, len(plain.decoder.layers)) == (256, 3)

    changed = load_spec(
        write(
            tmp_path,
            LLAMA
            | {
                "head_dim": 24,
                "attention_bias": True,
                "tie_word_embeddings": True,
                "num_key_value_heads": None,
            },
        )
    )
    assert isinstance(changed, ModelSpec)
    assert (attention_of(changed).head_dim, attention_of(changed).num_kv_heads) == (24, 8)
    assert changed.head.tied
    assert attention_of(changed).qkv_bias
    assert attention_of(changed).output_bias


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"model_type": "mistral"}, [4096] * 3),
        ({"model_type": "mistral", "sliding_window": None}, [None] * 3),
        ({"model_type": "mistral", "sliding_window": 5}, [5] * 3),
        ({"model_type": "qwen2", "sliding_window": 5, "max_window_layers": 1}, [None] * 3),
        (
            {
                "model_type": "qwen2",
                "use_sliding_window": True,
                "sliding_window": 5,
                "max_window_layers": 1,
            },
            [None, 5, 5],
        ),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "sliding_window": 5,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            [5, None, 5],
        ),
    ],
)
def test_windows(fields: dict[str, Any], windows: list[int | None], tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, LLAMA | fields))
    assert [attention_of(spec, layer).window for layer in range(3)] == windows


def test_both_spellings_of_rope_agree(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    old = load_spec(write(tmp_path, LLAMA | {"rope_theta": 5e5, "rope_scaling": scaling}))
    new = load_spec(write(tmp_path, LLAMA | {"rope_parameters": {"rope_theta": 5e5, **scaling}}))
    assert old == new
    rope = attention_of(old).rope
    assert rope is not None
    assert rope.theta == 5e5
    assert isinstance(rope.scaling, YarnScaling)
    assert rope.scaling.original_max_positions == 64


def test_rope_options_replace_the_configs(tmp_path: Path) -> None:
    written = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn", "factor": 4.0}}
    path = write(tmp_path, LLAMA | written)

    dynamic = load_spec(path, rope_scaling="dynamic", rope_factor=2.0)
    assert dynamic.max_positions == 512
    rope = attention_of(dynamic).rope
    assert rope is not None
    assert rope.theta == 5e5
    assert rope.scaling == DynamicScaling(factor=2.0, original_max_positions=256)

    linear = attention_of(load_spec(path, rope_factor=3.0)).rope
    assert linear is not None
    assert linear.scaling == LinearScaling(factor=3.0)

    with pytest.raises(ModelError, match="--rope-factor"):
        load_spec(path, rope_factor=0.5)
    with pytest.raises(ModelError, match="--rope-scaling"):
        load_spec(path, rope_scaling="yarn")


def test_rope_options_require_a_rotary_model(tmp_path: Path) -> None:
    path = write(tmp_path, {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4})
    assert isinstance(load_spec(path), ModelSpec)
    with pytest.raises(ModelError, match="no rotary embedding"):
        load_spec(path, rope_factor=2.0)


def test_unknown_family_is_generic(tmp_path: Path) -> None:
    config = {"model_type": "newest", "text_config": {**LLAMA, "head_dim": 16}}
    spec = load_spec(write(tmp_path, config))
    assert isinstance(spec, GenericSpec)
    assert (spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.max_positions) == (
        3,
        2,
        16,
        256,
    )
    assert spec.config == config


def install(path: Path, module: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a package that registers an architecture, and put it on the import path as if it were
    installed.
    """
    (path / f"{module}.py").write_text(code, encoding="utf-8")
    info = path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        f"[tgi.architectures]\nnewest = {module}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(path))


GOOD_PLUGIN = """
from tgi.architectures.families.llama import spec as llama
def spec(config):
    return llama(config | {"num_hidden_layers": 1})
"""


def test_entry_point_adds_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "architecture_one", GOOD_PLUGIN, monkeypatch)
    spec = load_spec(write(tmp_path, LLAMA | {"model_type": "newest"}))
    assert isinstance(spec, ModelSpec)
    assert len(spec.decoder.layers) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_module", "cannot be imported.*no_such_module"),
        ("spec = dict", "returned dict instead of a ModelSpec"),
    ],
)
def test_faulty_entry_point_is_reported(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"architecture_{len(code)}"
    install(tmp_path, module, code, monkeypatch)
    with pytest.raises(ModelError, match=words):
        load_spec(write(tmp_path, LLAMA | {"model_type": "newest"}))


def test_two_packages_with_one_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("architecture_left", "architecture_right"):
        install(tmp_path, module, GOOD_PLUGIN, monkeypatch)
    with pytest.raises(ModelError, match="architecture_left, architecture_right"):
        load_spec(write(tmp_path, LLAMA | {"model_type": "newest"}))
