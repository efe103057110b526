"""Tiny checkpoints of every family, written by `transformers`, in which every parameter matters.

Newly initialised models hide faults: their norms are 1, their biases are 0 and their attention is
nearly uniform. Here each parameter is drawn again, so that a lost, swapped or misplaced one changes
the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.backends.decoder_families import DECODER_VARIANTS, DECODERS
from tests.backends.published_configs import PUBLISHED
from tests.backends.published_variants import PUBLISHED_VARIANTS

__all__ = ["FAMILIES", "SMALL", "VARIANTS", "save_checkpoint", "save_variant"]

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
"""The sizes of models that are not in `FAMILIES`."""

_LLAMA = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA | {"head_dim": 8, "sliding_window": 7},
    "qwen2": _LLAMA | {"tie_word_embeddings": True},
    "qwen3": _LLAMA | {"head_dim": 12},
    "gpt2": {"vocab_size": 101, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "gpt_neox": {
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    **DECODERS,
    **PUBLISHED,
}
"""A small config of each family. Other fields have the defaults of `transformers`."""


def _rope(rope_type: str, **parameters: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("llama", {"head_dim": 20, "num_key_value_heads": 1}),
    "llama-linear": ("llama", _rope("linear", factor=4.0)),
    "llama-dynamic": ("llama", {"max_position_embeddings": 16, **_rope("dynamic", factor=2.0)}),
    "llama-llama3": (
        "llama",
        _rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "llama-yarn": ("llama", _rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "qwen2-window": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt_neox-half-rotary": (
        "gpt_neox",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    **DECODER_VARIANTS,
    **PUBLISHED_VARIANTS,
}
"""Named variants: the family, and the changes of its small config. Together they cover every branch
of the families.
"""


def save_checkpoint(
    family: str, path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> PreTrainedModel:
    """Write a checkpoint of `family` to `path` and return its model in `dtype`.

    Matrices are drawn from N(0, 0.15), norm weights from 1 + N(0, 0.1), biases from N(0, 0.1).
    """
    config = AutoConfig.for_model(family, **(FAMILIES.get(family, {}) | overrides))
    # Falcon's eager attention adds ALiBi twice in transformers 5.23.
    attention = "sdpa" if family == "falcon" else "eager"
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, dtype=torch.float32
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        corrections = (
            (name, buffer)
            for name, buffer in model.named_buffers()
            if name.endswith(("e_score_correction_bias", "layer_scalar"))
        )
        for name, parameter in [*model.named_parameters(), *corrections]:
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(0.15 * drawn)
            else:
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.1 * drawn)
    model = model.to(dtype)
    model.save_pretrained(path)
    return model


def save_variant(
    name: str, path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Call `save_checkpoint` with one of `VARIANTS`."""
    family, overrides = VARIANTS[name]
    return save_checkpoint(family, path, seed=seed, dtype=dtype, **overrides)
