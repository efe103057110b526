"""Finds the text model in the config of a model that also accepts images.

The models in this module compute a text without images exactly as their text model does, so they
are served with the architecture of the text model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from tgi.architectures.spec import ModelSpec

__all__ = ["TEXT_MODELS", "text_config_of", "with_outer_names"]

TEXT_MODELS = frozenset(
    {
        "gemma4",
        "idefics3",
        "internvl",
        "llama4",
        "llava",
        "llava_next",
        "llava_onevision",
        "mistral3",
        "qwen2_5_omni",
        "qwen2_5_omni_thinker",
        "qwen3_5",
        "qwen3_5_moe",
        "smolvlm",
        "vipllava",
    }
)
"""The values of `model_type` whose text model is served."""

_LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
_DEFAULTS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "llama": _LLAMA,
        "mistral": _LLAMA
        | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    }
)
"""Defaults of the text configs in `transformers`, which published configs omit."""

_RENAMED = MappingProxyType({"qwen2_5_omni_text": "qwen2"})
"""Text models whose architecture has another name. For a text without images and sounds, the rotary
embedding of qwen2_5_omni_text is that of qwen2.
"""

_PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.text_model.model.",
    "model.text_model.",
    "thinker.model.",
    "thinker.",
)
_OTHER_TENSORS = (
    "*vision_tower.*",
    "*vision_model.*",
    "*multi_modal_projector.*",
    "*connector.*",
    "*image_newline",
    "*audio_tower.*",
    "*visual.*",
    "*embed_vision.*",
    "*embed_audio.*",
    "talker.*",
    "token2wav.*",
)


def text_config_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the text model, with its `model_type`. Returns None if the model is not
    one of the known models with a text model inside.
    """
    if config["model_type"] == "qwen2_5_omni":
        thinker = config.get("thinker_config")
        config = {**config, **thinker} if isinstance(thinker, dict) else config
    text = config.get("text_config")
    if config["model_type"] not in TEXT_MODELS or not isinstance(text, dict):
        return None
    model_type = text.get("model_type", "llama")
    if not isinstance(model_type, str):
        return None
    model_type = _RENAMED.get(model_type, model_type)
    outer = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
    return {**_DEFAULTS.get(model_type, {}), **text, **outer, "model_type": model_type}


def with_outer_names(spec: ModelSpec, model_type: str) -> ModelSpec:
    """Return the spec of a text model with the tensor names of the whole model `model_type`."""
    return msgspec.structs.replace(
        spec,
        model_type=model_type,
        prefixes=(*_PREFIXES, *spec.prefixes),
        ignored=(*spec.ignored, *_OTHER_TENSORS),
    )
