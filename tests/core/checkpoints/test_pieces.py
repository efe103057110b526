"""The rows of quantized tensors are divided among parameters as the unquantized tensor would be."""

import msgspec
import numpy as np
import pytest

from tests.core.architectures.test_weight_map import ROWS, STACKED, model
from tgi.architectures.spec import WeightRule
from tgi.architectures.weight_map import Placement, oriented, split
from tgi.checkpoints.checkpoint import Checkpoint, LogicalTensors
from tgi.checkpoints.pieces import decoded_pieces, dequantized, formats_of
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import QuantizedTensor
from tgi.errors import ModelError

SPEC = model(qkv=ROWS, experts=STACKED)
INT8 = QuantizedFormat(CodeKind.INTEGER, 8, None, zero=128)
ORDERED = QuantizedFormat(CodeKind.INTEGER, 8, None, zero=128, has_input_order=True)


class Files:
    """A checkpoint with one tensor of random codes, which counts the rows that are decoded."""

    def __init__(self, shape, *, row_multiple=1, form=INT8, order=None):
        self.codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.order = order
        self.form = form
        self.largest = 0
        tensor = QuantizedTensor("w", shape, form, {}, self._decode, row_multiple)
        tensors = LogicalTensors(None, {}, {"w": tensor})
        self.checkpoint = Checkpoint(None, tensors, {})
        self.multiple = row_multiple

    def _decode(self, read, expert, rows):
        codes = self.codes if expert is None else self.codes[expert]
        assert rows.start % self.multiple == 0
        assert rows.stop % self.multiple == 0 or rows.stop == len(codes)
        self.largest = max(self.largest, codes[rows].size)
        scales = np.ones((len(codes[rows]), 1), np.float32)
        return QuantizedMatrix(self.form, codes[rows], scales, input_order=self.order)

    @property
    def weights(self):
        return self.codes.astype(np.float32) - 128


def placement(parameters, shapes, expert=None, **rule):
    names = tuple(f"decoder.layers.0.{name}.weight" for name in parameters)
    return Placement(
        name="w",
        rule=WeightRule(name="w", parameters=names, **rule),
        parameters=names,
        shapes=shapes,
        expert=expert,
    )


GATE_UP = ("experts.gate", "experts.up")
CASES = {
    "one": ((40, 16), placement(["o"], ((40, 16),), transposed=True)),
    "rows": ((40, 16), placement(["gate", "up"], ((24, 16), (16, 16)))),
    "alternating": (
        (40, 16),
        placement(["gate", "up"], ((20, 16), (20, 16)), layout="alternating"),
    ),
    "factors": ((40, 16), placement(["gate", "up"], ((20, 16), (20, 16)), factors=(0.5, 2.0))),
    "an expert": ((40, 16), placement(GATE_UP, ((20, 16), (20, 16)), expert=3)),
    "experts": ((3, 40, 16), placement(GATE_UP, ((3, 20, 16), (3, 20, 16)))),
    "alternating experts": (
        (3, 40, 16),
        placement(GATE_UP, ((3, 20, 16), (3, 20, 16)), layout="alternating", transposed=True),
    ),
    "flat experts": ((60, 16), placement(["experts.gate"], ((3, 20, 16),), layout="flat")),
}


@pytest.mark.parametrize("row_multiple", [1, 8, 32])
@pytest.mark.parametrize("case", CASES)
def test_pieces_are_those_of_the_whole_tensor(case, row_multiple):
    shape, placed = CASES[case]
    files = Files(shape, row_multiple=row_multiple)
    expected = split(files.weights, oriented(placed), SPEC)
    factors = placed.rule.factors or (1.0, 1.0)
    found = {}
    for parameter, expert, weights in dequantized(files.checkpoint, placed, SPEC):
        found.setdefault(parameter, {})[expert] = weights
    for parameter, factor in zip(placed.parameters, factors, strict=False):
        whole = expected[parameter] * factor
        by_expert = dict(enumerate(whole)) if placed.is_stacked else {placed.expert: whole}
        assert found[parameter].keys() == by_expert.keys()
        for expert, weights in by_expert.items():
            np.testing.assert_array_equal(found[parameter][expert], weights)


@pytest.mark.parametrize("layout", ["rows", "alternating"])
def test_a_large_tensor_is_decoded_in_pieces(layout):
    files, inputs = Files((4096, 4096), row_multiple=32), 4096
    placed = placement(["gate", "up"], ((2048, inputs), (2048, inputs)), layout=layout)
    pieces = list(decoded_pieces(files.checkpoint, placed, SPEC))
    assert len(pieces) >= 4
    assert files.largest <= 4 << 20
    for parameter in placed.parameters:
        own = [piece for piece in pieces if piece.parameter == parameter]
        assert [piece.first_row for piece in own] == list(
            np.cumsum([0, *(len(piece.matrix.codes) for piece in own)])[:-1]
        )


def test_parameters_with_the_same_order_of_inputs_have_the_same_digest():
    order = np.random.default_rng(0).permutation(16).astype(np.int32)
    placed = placement(["gate", "up"], ((20, 16), (20, 16)))
    gate, up = placed.parameters
    formats = formats_of(Files((40, 16), form=ORDERED, order=order).checkpoint, [placed])
    other = formats_of(Files((40, 16), form=ORDERED, order=order[::-1]).checkpoint, [placed])
    assert formats[gate] == formats[up]
    assert formats[gate].order_digest
    assert formats[gate].order_digest != other[gate].order_digest


def test_a_parameter_without_a_single_format_is_not_listed():
    files = Files((20, 16))
    quantized = placement(["experts.gate"], ((20, 16),), expert=0)
    plain = msgspec.structs.replace(quantized, name="other", expert=1)
    assert formats_of(files.checkpoint, [quantized]).keys() == set(quantized.parameters)
    assert not formats_of(files.checkpoint, [quantized, plain])
    assert not formats_of(files.checkpoint, [plain, quantized])
    assert not formats_of(files.checkpoint, [placement(["o"], ((20, 16),), unit_rows=True)])


def test_a_layout_that_has_no_rows_is_an_error():
    placed = placement(["o"], ((20, 16),), layout="single_row")
    with pytest.raises(ModelError, match="`w` is quantized, but its single row"):
        list(decoded_pieces(Files((20, 16)).checkpoint, placed, SPEC))
