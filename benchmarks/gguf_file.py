"""Writes the models of `models.py` as GGUF files, version 3, for llama.cpp.

Sources: ggml's `docs/gguf.md`, and the tensor names and row orders that llama.cpp expects for each
architecture.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import Bits, Model, weights

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_F32, _BF16 = 0, 30  # tensor types
_MOSTLY_BF16 = 32  # file type
_NORMAL, _CONTROL = 1, 3  # token types
# Architectures for which llama.cpp rotates adjacent pairs of elements instead of the two halves.
_PERMUTED = ("llama",)

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, model: Model) -> None:
    """Write `path`/model.gguf from the tokenizer in `path` and the weights of `model`, unless the
    file exists.
    """
    target = path / "model.gguf"
    if target.is_file():
        return
    facts = _facts(model, json.loads((path / "tokenizer.json").read_text(encoding="utf-8")))
    infos, position = [], 0
    for name, shape in model.tensors().items():
        kind, width = (_F32, 4) if len(shape) == 1 else (_BF16, 2)
        sizes = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos.append(
            _string(_name(name))
            + struct.pack("<I", len(shape))
            + sizes
            + struct.pack("<IQ", kind, position)
        )
        position += -(-width * int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(facts))
    head += b"".join(_string(key) + _value(value) for key, value in facts.items()) + b"".join(infos)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(_padded(head))
        for name, content in zip(model.tensors(), weights(model), strict=True):
            file.write(_padded(_tensor(name, content, model)))
    partial.replace(target)


def _facts(model: Model, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    family = model.model_type
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    merges = (
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in tokenizer["model"]["merges"]
    )
    return {
        "general.architecture": family,
        "general.file_type": _MOSTLY_BF16,
        f"{family}.context_length": model.max_position_embeddings,
        f"{family}.embedding_length": model.hidden_size,
        f"{family}.block_count": model.num_hidden_layers,
        f"{family}.feed_forward_length": model.intermediate_size,
        f"{family}.attention.head_count": model.num_attention_heads,
        f"{family}.attention.head_count_kv": model.num_key_value_heads,
        f"{family}.attention.layer_norm_rms_epsilon": float(model.rms_norm_eps),
        f"{family}.rope.freq_base": float(model.rope_theta),
        f"{family}.rope.dimension_count": model.head_dim,
        f"{family}.vocab_size": model.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer.ggml.token_type": [
            _CONTROL if number in special else _NORMAL for number in range(model.vocab_size)
        ],
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def _name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def _tensor(name: str, content: Bits, model: Model) -> bytes:
    if content.ndim == 1:
        return (content.astype(np.uint32) << 16).tobytes()  # bfloat16 is the upper half of float32
    if model.model_type in _PERMUTED and ("q_proj" in name or "k_proj" in name):
        content = _interleaved(content, model.head_dim)
    return content.tobytes()


def _interleaved(content: Bits, head_dim: int) -> Bits:
    """Return the rows of each head in the order 0, half, 1, half + 1, and so on."""
    halves: npt.NDArray[np.uint16] = content.reshape(-1, 2, head_dim // 2, content.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(content.shape)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % _ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:  # noqa: ANN401 - one of the kinds below
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case list():
            return struct.pack("<I", _ARRAY) + b"".join(_elements(value))
    raise TypeError(f"{type(value).__name__} has no type in GGUF")


def _elements(values: Sequence[Any]) -> Iterator[bytes]:
    is_text = isinstance(values[0], str)
    yield struct.pack("<IQ", _STRING if is_text else _INT32, len(values))
    yield from (
        (_string(value) for value in values)
        if is_text
        else (struct.pack("<i", value) for value in values)
    )
