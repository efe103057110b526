"""Weights in files of the packages that define the formats are decoded to the numbers that the
packages compute. `tools/quantized_goldens.py` writes the files and contains the versions of the
packages.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.core.checkpoints.formats.layouts import format_of
from tests.core.checkpoints.formats.memory_checkpoint import MemoryCheckpoint

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.safetensors"))

# The package multiplies by the scale and by 1 / 127 one after another. The scales of the canonical
# form are the rounded products of both.
ROUNDED = {"bitsandbytes_int8": 2**-22}


def settings_of(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["settings"])


def test_every_kind_of_file_is_there():
    kinds = [path.stem.partition("_")[0] for path in FILES]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "bitsandbytes": 5,
        "compressed": 9,
        "torchao": 3,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_numbers_of_the_package_are_decoded(path):
    file = MemoryCheckpoint.of_file(path)
    checkpoint = file.changed(expected=None)
    tensors = checkpoint.tensors(format_of(settings_of(path)))
    assert list(tensors) == ["layer.weight"]
    tensor = tensors["layer.weight"]
    assert {part.name for part in tensor.parts.values()} == set(checkpoint.arrays)
    weights = checkpoint.decode(tensor).dequantize()
    expected = file.arrays["expected"]
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(weights, expected, rtol=ROUNDED.get(path.stem, 0), atol=0)
