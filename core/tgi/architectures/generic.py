"""Reads the sizes of a model of an unknown architecture from its config. It looks for the field
names that most configs use, such as `hidden_size` or `n_embd`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.spec import GenericSpec
from tgi.errors import ModelError

__all__ = ["generic_spec"]

_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
_VOCABULARY = ("vocab_size", "padded_vocab_size")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim", "dim")
_LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_transformer_layers",
    "decoder_layers",
)
_LAYER_LISTS = ("layers_block_type", "layer_types", "hybrid_override_pattern")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def generic_spec(config: dict[str, Any]) -> GenericSpec:
    """Build the spec of a model of an unknown architecture.

    The sizes are read from the section of the text model, if there is one. Raises `ModelError` if a
    size has none of the usual names.
    """
    model_type = config["model_type"]
    text = _text_section(config)
    hidden = _size(model_type, "hidden size", text, _HIDDEN)
    num_heads = _optional_size(text, _HEADS) or 1
    return GenericSpec(
        model_type=model_type,
        vocab_size=_size(model_type, "vocabulary size", text, _VOCABULARY),
        hidden_size=hidden,
        num_layers=_num_layers(model_type, text),
        num_kv_heads=_optional_size(text, _KV_HEADS) or num_heads,
        head_dim=_optional_size(text, ("head_dim", "d_kv")) or max(1, hidden // num_heads),
        max_positions=_optional_size(text, _POSITIONS, minimum=0) or 0,
        config=config,
    )


def _text_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = next((config[name] for name in _TEXT_SECTIONS if name in config), None)
    return _text_section(section) if isinstance(section, dict) else config


def _num_layers(model_type: str, text: Mapping[str, Any]) -> int:
    """Return the number of layers. Some configs contain only a list with the type of each layer."""
    number = _optional_size(text, _LAYERS)
    if number is None:
        lists = (text.get(name) for name in _LAYER_LISTS)
        number = next((len(item) for item in lists if isinstance(item, list | str) and item), None)
    return _size(model_type, "number of layers", text, _LAYERS) if number is None else number


def _optional_size(
    text: Mapping[str, Any], names: tuple[str, ...], *, minimum: int = 1
) -> int | None:
    """Return the first size that is present, or None. A list has one size per layer and is
    ignored.
    """
    name = next(_present(text, names), None)
    return None if name is None else ConfigReader(text).integer(name, minimum=minimum)


def _size(model_type: str, what: str, text: Mapping[str, Any], names: tuple[str, ...]) -> int:
    size = _optional_size(text, names)
    if size is None:
        raise ModelError(
            f"The architecture `{model_type}` is not built in, and its {what} is unknown, because"
            f" config.json has no field with one of the usual names: {', '.join(names)}.",
            "Choose another model, or install a package that provides this architecture.",
        )
    return size


def _present(text: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    return (
        name
        for name in names
        if text.get(name) is not None and not isinstance(text.get(name), list)
    )
