"""Families that `transformers` lacks or stores differently.

The checkpoint of a related model is converted to the family's own tensor names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from tests.backends.checkpoints import save_checkpoint
from tests.backends.mixer_checkpoints import DECODERS as MIXER_DECODERS
from tests.backends.paged_batch import PagedSequence, step
from tgi.architectures import Attention, ModelSpec, load_spec
from tgi.architectures.parameter_names import mixer_of
from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

TOKEN_IDS = np.random.default_rng(3).integers(0, 101, 29).tolist()
Tensors = dict[str, Tensor]
Config = dict[str, Any]
SECOND_VOCAB_SIZE = 125_696  # only this distinguishes the second baichuan from the first


def renamed(*pairs: tuple[str, str]) -> Callable[[Tensors, Config], Tensors]:
    """Return a conversion that renames tensors: every pair replaces a part of the name."""

    def convert(tensors: Tensors, config: Config) -> Tensors:
        def rename(name: str) -> str:
            for old, new in pairs:
                name = name.replace(old, new)
            return name

        return {rename(name): tensor for name, tensor in tensors.items()}

    return convert


def to_baichuan(tensors: Tensors, config: Config) -> Tensors:
    """Convert llama: q, k and v become one matrix."""
    converted = dict(tensors)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.self_attn."
        parts = [converted.pop(f"{prefix}{part}_proj.weight") for part in "qkv"]
        converted[f"{prefix}W_pack.weight"] = torch.cat(parts)
    return converted


def to_santacoder(tensors: Tensors, config: Config) -> Tensors:
    """Convert gpt_bigcode: the fused matrix is split in two, and matrices become [in, out]."""
    converted = {}
    for name, tensor in tensors.items():
        stored = tensor.T.contiguous() if ".h." in name and tensor.dim() == 2 else tensor
        if ".c_attn." in name:
            converted[name.replace("c_attn", "q_attn")] = stored[
                ..., : config["n_embd"]
            ].contiguous()
            converted[name.replace("c_attn", "kv_attn")] = stored[
                ..., config["n_embd"] :
            ].contiguous()
        else:
            converted[name] = stored
    return converted


def to_internlm2(tensors: Tensors, config: Config) -> Tensors:
    """Convert llama: each kv group's queries, key and value become consecutive rows."""
    converted = {}
    names = (
        ("embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
    )
    groups = config["num_key_value_heads"]
    for name, tensor in renamed(*names)(tensors, config).items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            by_group = [part.unflatten(0, (groups, -1)) for part in parts]
            fused = torch.cat(by_group, dim=1).flatten(0, 1)
            converted[name.replace("self_attn.q_proj", "attention.wqkv")] = fused
        elif ".k_proj." not in name and ".v_proj." not in name:
            converted[name] = tensor
    return converted


to_exaone = renamed(
    ("model.embed_tokens", "transformer.wte"),
    ("model.norm", "transformer.ln_f"),
    ("model.layers.", "transformer.h."),
    ("self_attn.o_proj", "attn.attention.out_proj"),
    ("self_attn.", "attn.attention."),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("mlp.gate_proj", "mlp.c_fc_0"),
    ("mlp.up_proj", "mlp.c_fc_1"),
    ("mlp.down_proj", "mlp.c_proj"),
)


@dataclass(frozen=True)
class Conversion:
    """How to convert a checkpoint of `transformers` to one of the family."""

    family: str
    overrides: Config
    tensors: Callable[[Tensors, Config], Tensors]
    config: Callable[[Config], Config]


def kept(config: Config, *names: str, **changes: Any) -> Config:
    """The fields that published configs have, and no others."""
    return {name: config[name] for name in names} | changes


LLAMA = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "rms_norm_eps",
    "hidden_act",
)
FALCON = (
    "hidden_size",
    "vocab_size",
    "layer_norm_epsilon",
    "alibi",
    "bias",
    "multi_query",
    "parallel_attn",
)

CONVERSIONS = {
    "baichuan-7b": Conversion(
        "llama",
        {"num_key_value_heads": 4},
        to_baichuan,
        lambda config: kept(
            config, *LLAMA, "max_position_embeddings", model_type="baichuan", model_max_length=128
        ),
    ),
    "exaone": Conversion(
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
        to_exaone,
        lambda config: kept(
            config,
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
            "head_dim",
            "tie_word_embeddings",
            model_type="exaone",
            num_layers=3,
            activation_function="silu",
            layer_norm_epsilon=config["rms_norm_eps"],
            rope_theta=500.0,
            rope_scaling={"rope_type": "linear", "factor": 2.0},
        ),
    ),
    "internlm2": Conversion(
        "llama",
        {"attention_bias": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        to_internlm2,
        lambda config: kept(
            config,
            *LLAMA,
            "max_position_embeddings",
            "num_key_value_heads",
            model_type="internlm2",
            bias=True,
            rope_scaling={"type": "dynamic", "factor": 2.0},
            rope_theta=500.0,
            tie_word_embeddings=False,
        ),
    ),
    "kimi_k2": Conversion(
        "deepseek_v3",
        MIXER_DECODERS["deepseek_v3"][1] | {"vocab_size": 101},
        renamed(),
        lambda config: config | {"model_type": "kimi_k2"},
    ),
    "minicpm": Conversion(
        "granite",
        {
            "attention_multiplier": 8**-0.5,
            "embedding_multiplier": 12,
            "logits_scaling": 4,
            "residual_multiplier": 1.4 / 3**0.5,
        },
        renamed(),
        lambda config: kept(
            config,
            *LLAMA,
            "max_position_embeddings",
            "num_key_value_heads",
            model_type="minicpm",
            dim_model_base=8,
            scale_depth=1.4,
            scale_emb=12,
            tie_word_embeddings=False,
        ),
    ),
    "santacoder": Conversion(
        "gpt_bigcode",
        {"activation_function": "gelu_fast"},
        to_santacoder,
        lambda config: kept(
            config,
            "n_embd",
            "n_layer",
            "n_head",
            "n_positions",
            "vocab_size",
            "layer_norm_epsilon",
            model_type="gpt2",
            attention_head_type="multiquery",
            activation_function="gelu_fast",
        ),
    ),
    "refined-web-model": Conversion(
        "falcon",
        {},
        renamed(),
        lambda config: kept(config, *FALCON, model_type="RefinedWebModel", n_head=4, n_layer=3),
    ),
    "refined-web-model-alibi": Conversion(
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        renamed(),
        lambda config: kept(config, *FALCON, model_type="RefinedWebModel", n_head=4, n_layer=3),
    ),
    "refined-web": Conversion(
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        renamed(),
        lambda config: kept(
            config,
            "hidden_size",
            "vocab_size",
            "alibi",
            "bias",
            model_type="RefinedWeb",
            n_head=4,
            n_layer=3,
            n_head_kv=2,
        ),
    ),
    "gemma3": Conversion(
        "gemma3_text",
        {},
        lambda tensors, config: {
            **renamed(("model.", "language_model.model."))(tensors, config),
            "vision_tower.vision_model.post_layernorm.weight": torch.zeros(3),
            "multi_modal_projector.mm_soft_emb_norm.weight": torch.zeros(3),
        },
        lambda config: {"model_type": "gemma3", "text_config": config},
    ),
}


def convert(name: str, path: Path) -> Tensor:
    """Write the converted checkpoint. Returns the logits [T, vocab] that it must have."""
    conversion = CONVERSIONS[name]
    model = save_checkpoint(conversion.family, path, **conversion.overrides)
    config = json.loads((path / "config.json").read_text())
    tensors = conversion.tensors(load_file(path / "model.safetensors"), config)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(conversion.config(config)))
    return model(torch.tensor([TOKEN_IDS])).logits[0]


def decoder_logits(path: Path, *counts: int) -> Tensor:
    """Compute the decoder's logits in steps of the given numbers of tokens."""
    spec = loaded_spec(path)
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
    load_weights(decoder, path, lambda done, total: None)
    cache = KVCache.allocate(spec, 8, 4, torch.float32, "cpu")
    sequence = PagedSequence(TOKEN_IDS[: sum(counts)], [5, 2, 7, 1, 3, 6, 4, 0])
    for count in counts:
        step(decoder, cache, [(sequence, count)])
    return torch.stack(sequence.logits)


def loaded_spec(path: Path) -> ModelSpec:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", CONVERSIONS)
def test_converted_checkpoint(name: str, tmp_path: Path) -> None:
    expected = convert(name, tmp_path)
    assert expected.std() > 0.1
    assert float((decoder_logits(tmp_path, 11, 1, 16, 1) - expected).abs().max()) < 1e-4
    spec = loaded_spec(tmp_path)
    reference = reference_logits(spec, read_weights(spec, tmp_path), TOKEN_IDS)
    np.testing.assert_allclose(reference, expected.numpy(), atol=1e-4, rtol=0)


def test_baichuan_13b_has_alibi(tmp_path: Path) -> None:
    """The config of the 13B model has no `max_position_embeddings`.

    The numpy reference is used, which other tests compare with bloom and mpt.
    """
    convert("baichuan-7b", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = loaded_spec(tmp_path)
    mixer = mixer_of("decoder.layers.2.attention.o.weight", spec)
    assert isinstance(mixer, Attention)
    assert (mixer.alibi, mixer.rope, spec.max_positions) == (True, None, 128)
    reference = reference_logits(spec, read_weights(spec, tmp_path), TOKEN_IDS)
    np.testing.assert_allclose(
        decoder_logits(tmp_path, 11, 1, 16, 1).numpy(), reference, atol=1e-4, rtol=0
    )


def test_second_baichuan_has_a_head_with_normalised_rows(tmp_path: Path) -> None:
    """The logits equal those of the first baichuan with normalised head rows."""
    model = save_checkpoint(
        "llama", tmp_path, num_key_value_heads=4, vocab_size=SECOND_VOCAB_SIZE, num_hidden_layers=1
    )
    config = json.loads((tmp_path / "config.json").read_text())
    save_file(
        to_baichuan(load_file(tmp_path / "model.safetensors"), config),
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(
        json.dumps(kept(config, *LLAMA, "max_position_embeddings", model_type="baichuan"))
    )
    plain = model(torch.tensor([TOKEN_IDS[:7]])).logits[0]
    model.lm_head.weight.copy_(functional.normalize(model.lm_head.weight))
    expected = model(torch.tensor([TOKEN_IDS[:7]])).logits[0]

    assert float((decoder_logits(tmp_path, 7) - expected).abs().max()) < 1e-4
    assert float((plain - expected).abs().max()) > 0.1
    spec = loaded_spec(tmp_path)
    reference = reference_logits(spec, read_weights(spec, tmp_path), TOKEN_IDS[:7])
    np.testing.assert_allclose(reference, expected.numpy(), atol=1e-4, rtol=0)


def test_phimoe_uses_the_long_factors_for_a_long_sequence(tmp_path: Path) -> None:
    """Compared with the numpy reference.

    `transformers` 5.23 uses the short factors, unlike the code published with the model.
    """
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 16,
        "short_mscale": 1.2,
        "long_mscale": 1.4,
    }
    model = save_checkpoint("phimoe", tmp_path, rope_parameters=rope)
    spec = loaded_spec(tmp_path)
    short = model(torch.tensor([TOKEN_IDS[:16]])).logits[0]
    assert float((decoder_logits(tmp_path, 16) - short).abs().max()) < 1e-4
    long = decoder_logits(tmp_path, len(TOKEN_IDS))
    reference = reference_logits(spec, read_weights(spec, tmp_path), TOKEN_IDS)
    np.testing.assert_allclose(long.numpy(), reference, atol=1e-4, rtol=0)
    assert float((long[:16] - short).abs().max()) > 0.1
