"""A missing, truncated or wrong part of a quantized weight gives an error with its name."""

import numpy as np
import pytest

from tests.core.checkpoints.formats.all_layouts import LAYOUTS
from tests.core.checkpoints.formats.layouts import MODULE
from tgi.errors import ModelError

# A format recognizes a quantized weight by these tensors. Without them, the other parts are
# ordinary tensors, and the loader rejects them because no parameter uses them.
MARKERS = ("absmax", "SCB", "qdata", "q_weight", "weight_scales", "_blocks", "weight_scale")
OPTIONAL = ("input_scale", "weight_g_idx", "weight_format", "_zero_point")
EXPECTATIONS = (
    "requires [",
    "require [",
    "require 1",
    "requires two",
    "bits require",
    "cover",
    "cannot be parsed",
    "scales [",
)
PER_TENSOR = ("compressed fp8 per tensor", "fp8 static")

PARTS = [
    (kind, name)
    for kind, write in LAYOUTS.items()
    for name in write().checkpoint.arrays
    if not name.endswith(OPTIONAL)
]


def is_found_by_dtype(layout, name):
    """Whether the format recognizes the weight by the dtype of this part."""
    return "fp8" in layout.form.name and layout.checkpoint.dtypes[name] == "F8_E4M3"


def rejection(layout, changed):
    """Return the error for a changed checkpoint, either of the headers or of the first data."""
    with pytest.raises(ModelError) as error:
        changed.decode(changed.tensors(layout.form)[layout.name], 0 if layout.is_stacked else None)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in PARTS if not name.endswith(MARKERS)]
)
def test_a_missing_part_is_named(kind, name):
    layout = LAYOUTS[kind]()
    if is_found_by_dtype(layout, name):
        assert layout.name not in layout.checkpoint.changed(**{name: None}).tensors(layout.form)
        return
    message = rejection(layout, layout.checkpoint.changed(**{name: None}))
    assert f"`{name.partition('nf4')[0].partition('fp4')[0]}" in message


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_truncated_part_is_named_with_both_shapes(kind, name):
    layout = LAYOUTS[kind]()
    array = layout.checkpoint.arrays[name]
    if kind in PER_TENSOR:
        array = np.zeros((3, 2), array.dtype) if "scale" in name else array[..., None, None]
    else:
        array = array[: len(array) // 2 - 1] if kind == "eetq" else array[: len(array) // 2]
    message = rejection(layout, layout.checkpoint.changed(**{name: array}))
    assert MODULE in message or layout.name in message
    assert any(words in message for words in EXPECTATIONS), message


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_of_another_dtype_is_named(kind, name):
    layout = LAYOUTS[kind]()
    changed = layout.checkpoint.with_dtype(name, "F64")
    if is_found_by_dtype(layout, name):
        assert layout.name not in changed.tensors(layout.form)
        return
    assert f"`{name}` has dtype F64" in rejection(layout, changed)
