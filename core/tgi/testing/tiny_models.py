"""Tiny random checkpoints in Hugging Face's format with a tokenizer, created without a framework.

The checkpoints are for tests of loading, serving and streaming. The weights are random, but large
enough that each weight affects the output.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tgi.architectures.registry import load_spec
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import Placement, placements, stored_shape, tensor_shapes
from tgi.testing.reference.operations import rounding_to

__all__ = ["ENCODER_DECODERS", "FAMILIES", "RECURRENT", "write_tiny_model", "write_tokenizer"]

_Float64Array = npt.NDArray[np.float64]
_STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

EOS_TOKEN = "</s>"  # noqa: S105 - a token of the vocabulary, not a secret
BOS_TOKEN = "<s>"  # noqa: S105

_CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "A river flows from the mountain to the sea, and the sea waits for it.",
    "def add(a, b):\n    return a + b\n",
    '{"name": "value", "numbers": [1, 2, 3, 45, 678], "open": true}',
    "Ein kleiner Löwe läuft über die Straße. 你好。 世界。 😀",
)

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], **_LLAMA},
    "mistral": {"architectures": ["MistralForCausalLM"], **_LLAMA, "sliding_window": 64},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], **_LLAMA},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], **_LLAMA, "head_dim": 8},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
    },
    "gpt_neox": {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rotary_pct": 0.5,
        "tie_word_embeddings": False,
    },
}
"""The small configs of the decoders, by `model_type`."""

ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}
"""The small configs of the models with an encoder, by `model_type`."""

RECURRENT: dict[str, dict[str, Any]] = {
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"],
        "hidden_size": 32,
        "state_size": 6,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 2,
        "tie_word_embeddings": False,
    },
    "qwen3_5_text": {
        "architectures": ["Qwen3_5ForCausalLM"],
        **_LLAMA,
        "num_hidden_layers": 3,
        "head_dim": 16,
        "rms_norm_eps": 1e-3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 12,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [1, 1, 0],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
    },
}
"""The small configs of models with recurrent layers: one without attention, and one with."""


def write_tiny_model(
    path: Path,
    family: str = "llama",
    seed: int = 0,
    *,
    dtype: str = "float32",
    chat_template: str | None = None,
    **overrides: Any,  # noqa: ANN401 - fields of config.json
) -> ModelSpec:
    """Write the files of a checkpoint to `path` and return its spec.

    The files are config.json, generation_config.json, model.safetensors and the tokenizer's files.
    `overrides` are fields of config.json. `dtype` is float32, float16 or bfloat16. The same
    arguments always give the same bytes.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(path, chat_template=chat_template)
    bos, eos = tokenizer.token_to_id(BOS_TOKEN), tokenizer.token_to_id(EOS_TOKEN)
    config = {
        "model_type": family,
        "torch_dtype": dtype,
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": bos,
        "eos_token_id": eos,
        **(FAMILIES | ENCODER_DECODERS | RECURRENT)[family],
        **overrides,
    }
    _write_json(path / "config.json", config)
    _write_json(path / "generation_config.json", {"bos_token_id": bos, "eos_token_id": eos})
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    generator = np.random.default_rng(seed)
    tensors = {
        placement.name: _draw(placement, generator) for placement in placements(spec, _names(spec))
    }
    _write_tensors(path / "model.safetensors", tensors, dtype)
    return spec


def _write_tensors(path: Path, tensors: dict[str, _Float64Array], dtype: str) -> None:
    """Write a safetensors file. The safetensors library needs a framework to write bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, tensor in sorted(tensors.items()):
        encoded = _encoded(tensor, dtype)
        offsets = [len(data), len(data) + len(encoded)]
        header[name] = {
            "dtype": _STORED_DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        data += encoded
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _encoded(tensor: _Float64Array, dtype: str) -> bytes:
    if dtype != "bfloat16":
        return tensor.astype(dtype).tobytes()
    rounded = rounding_to("bfloat16")(tensor.astype(np.float32))
    return (rounded.view(np.uint32) >> 16).astype("<u2").tobytes()


def _names(spec: ModelSpec) -> list[str]:
    """Return the checkpoint's tensor names for a spec without experts, with the first prefix that
    the spec allows.
    """
    shapes = tensor_shapes(spec)
    names = []
    for rule in spec.weights:
        for layer in range(
            max(len(stack.layers) for stack in spec.stacks) if "{layer}" in rule.name else 1
        ):
            if rule.parameters[0].replace("{layer}", str(layer)) in shapes:
                prefix = "" if rule.parameters[0].startswith("head.") else spec.prefixes[0]
                names.append(prefix + rule.name.replace("{layer}", str(layer)))
    return names


def _draw(placement: Placement, generator: np.random.Generator) -> _Float64Array:
    """Draw matrices from N(0, 0.15), norm weights from 1 + N(0, 0.1) and biases from N(0, 0.1)."""
    shape = stored_shape(placement)
    drawn = generator.standard_normal(shape)
    if len(shape) > 1:
        return 0.15 * drawn
    return (0.0 if placement.name.endswith("bias") else 1.0) + 0.1 * drawn


def write_tokenizer(
    path: Path, *, vocab_size: int = 384, chat_template: str | None = None
) -> Tokenizer:
    """Train a byte-level BPE tokenizer on a few sentences and write its files.

    The files are tokenizer.json, tokenizer_config.json and special_tokens_map.json.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    special = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    _write_json(path / "tokenizer_config.json", settings)
    _write_json(path / "special_tokens_map.json", special)
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
