"""Compares a config with the headers of the weights, before anything is built from the config.

Without this check, a wrong size in config.json would be detected only after memory was allocated or
a model was built with this size.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tgi.architectures.file_reader import shown
from tgi.architectures.registry import FAMILIES
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import oriented, sample_placements, stored_shape
from tgi.errors import ModelError

__all__ = ["check_num_layers", "check_shapes"]

_LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
_LAYER = re.compile(r"\.(\d+)\.")
_REMEDY = "Correct the model's config.json, or use the config.json that belongs to the weights."


def check_num_layers(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that the config has no more layers than the tensors called `names`.

    Raises `ModelError` with the field. In a family that is not built in, several layers may share
    tensors, so nothing is checked.
    """
    if config.get("model_type") not in FAMILIES:
        return
    numbers = [int(found[1]) for name in names if (found := _LAYER.search(f".{name}"))]
    count = max(numbers, default=-1) + 1
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, dict) else {}):
        for field in _LAYER_FIELDS if count else ():
            value = fields.get(field)
            if isinstance(value, int) and value > count:
                raise ModelError(
                    f"`{field}` in config.json is {shown(str(value))}, but the weights have"
                    f" {count} layers.",
                    _REMEDY,
                )


def check_shapes(
    spec: ModelSpec,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    quantized: Collection[str] = (),
) -> None:
    """Compare the shapes that the config requires with those of one tensor of each kind. `shapes`
    are the shapes of all tensors by name. The tensors in `quantized` are oriented as parameters.

    Raises `ModelError` with the tensor and with the field of the config that is probably wrong.
    Tensors that are missing are not reported.
    """
    for placement in sample_placements(spec, shapes):
        shape = shapes[placement.name]
        is_quantized = placement.name in quantized
        expected = stored_shape(oriented(placement) if is_quantized else placement)
        if shape == expected:
            continue
        wrong = [
            size
            for place, size in enumerate(expected)
            if place >= len(shape) or shape[place] != size
        ]
        field = _field_of(wrong, config)
        raise ModelError(
            f"config.json does not fit the weights{field}: the tensor `{shown(placement.name)}` has"
            f" shape {list(shape)}, but config.json requires {list(expected)}.",
            _REMEDY,
        )


def _field_of(sizes: Iterable[int], config: Mapping[str, Any]) -> str:
    """Return a text that names the config field from which the first wrong size probably comes: the
    field with the largest value that divides the size. The text is empty if there is no such field.
    """
    text = config.get("text_config")
    fields = {**config, **text} if isinstance(text, dict) else config
    numbers = {
        name: value
        for name, value in fields.items()
        if isinstance(value, int) and value > 1 and not name.endswith("_id")
    }
    for size in sizes:
        divisors = {name: value for name, value in numbers.items() if size % value == 0}
        if divisors:
            name = max(divisors, key=lambda name: divisors[name])
            return f", probably because of `{name}` ({numbers[name]})"
    return ""
