"""Finds the stored tensors that GPTQ quantizes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from tgi.architectures.weight_map import Placement
from tgi.checkpoints.checkpoint import Checkpoint
from tgi_torch.gptq.hessians import Hessian, HessianRecorder
from tgi_torch.gptq.packing import can_pack
from tgi_torch.weights.mapped_tensors import tensor_view
from tgi_torch.weights.parameters import Parameters

__all__ = ["Target", "layer_placements", "stored_weights", "targets_of"]

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_ROUTERS = (".router.weight", ".shared_gate.weight")
_NUM_DIMENSIONS = 2


@final
@dataclass(frozen=True)
class Target:
    """A stored matrix to quantize. `hessian` is None if no token of the calibration text reached
    the matrix, which is possible for experts.
    """

    placement: Placement
    hessian: Hessian | None


def layer_placements(
    todo: Iterable[Placement], checkpoint: Checkpoint, bits: int
) -> dict[int, list[Placement]]:
    """Return the stored matrices of each layer that GPTQ can store.

    Routers are excluded, because a small error changes the chosen experts. Tensors that contain
    several experts are excluded, because the format has no tensors of three dimensions.
    """
    found: dict[int, list[Placement]] = {}
    for placement in todo:
        layer, shape = _LAYER.match(placement.parameters[0]), checkpoint.mapped[placement.name]
        if (
            layer is not None
            and placement.name.endswith(".weight")
            and placement.rule.layout not in {"flat", "single_row"}
            and not placement.rule.unit_rows
            and not placement.parameters[0].endswith(_ROUTERS)
            and len(shape.stored.shape) == _NUM_DIMENSIONS
            and can_pack(*oriented_shape(placement, checkpoint), bits)
        ):
            found.setdefault(int(layer[1]), []).append(placement)
    return found


def targets_of(
    placements: Iterable[Placement], parameters: Parameters, recorder: HessianRecorder
) -> list[Target]:
    """Return the matrices that a linear layer multiplies, with their Hessians. Experts without a
    Hessian are included.
    """
    targets = []
    for placement in placements:
        hessian = recorder.find(_part(placement, parameters))
        if hessian is not None or ".experts." in placement.parameters[0]:
            targets.append(Target(placement, hessian))
    return targets


def stored_weights(placement: Placement, checkpoint: Checkpoint) -> Tensor:
    """Return a stored matrix in float32 [outputs, inputs]."""
    stored = tensor_view(checkpoint.mapped[placement.name]).float()
    return stored.T.contiguous() if placement.rule.transposed else stored


def oriented_shape(placement: Placement, checkpoint: Checkpoint) -> tuple[int, int]:
    """Return (outputs, inputs) of a stored matrix."""
    rows, columns = checkpoint.mapped[placement.name].stored.shape
    return (columns, rows) if placement.rule.transposed else (rows, columns)


def _part(placement: Placement, parameters: Parameters) -> Tensor:
    tensor = parameters.by_parameter[placement.parameters[0]]
    return tensor if placement.expert is None else tensor[placement.expert]
