"""The recurrent block of Griffin with its RG-LRU (arXiv 2402.19427).

Shapes: T tokens, C channels, B blocks of C / B channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import GatedRecurrence
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    StepContext,
    build_linear,
)
from tgi_torch.model.recurrence import linear_scan
from tgi_torch.ops import Ops

__all__ = ["GatedRecurrenceMixer", "build_gated_recurrence"]

_RATE_FACTOR = -8.0  # c in the paper


@final
@dataclass(frozen=True)
class BlockGate:
    """A sigmoid gate from a block-diagonal projection."""

    weight: Tensor  # [B, C / B, C / B], for x W
    bias: Tensor  # [B, C / B]

    def __call__(self, x: Tensor) -> Tensor:
        blocks = x.view(len(x), *self.bias.shape).transpose(0, 1)
        projected = torch.baddbmm(self.bias.unsqueeze(1), blocks, self.weight)
        return torch.sigmoid(projected.transpose(0, 1).reshape(x.shape).float())


@final
@dataclass(frozen=True)
class GatedRecurrenceMixer:
    """A convolution and a linear recurrence per channel, multiplied by a gate."""

    ops: Ops
    spec: GatedRecurrence
    project: Linear  # rows: gate, inputs
    conv_weight: Tensor  # [C, 1, kernel]
    conv_bias: Tensor  # [C]
    input_gate: BlockGate
    recurrent_gate: BlockGate
    rate: Tensor  # [C]
    output: Linear
    layer: int  # index of the layer's state

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        gate, inputs = self.project(x).chunk(2, dim=-1)
        state, plan = context.kv_cache.states[self.layer], context.state_plan
        inputs = self.ops.causal_convolution(
            inputs, self.conv_weight.squeeze(1), self.conv_bias, state.window, plan
        )
        rate = _RATE_FACTOR * functional.softplus(self.rate.float())
        log_kept = rate * self.recurrent_gate(inputs)
        is_first = (context.metadata.positions == 0).unsqueeze(1)
        # The factor keeps the variance of the state constant. The first token has no state before.
        share = torch.sqrt(-torch.expm1(2 * log_kept)).masked_fill(is_first, 1.0)
        gated = inputs.float() * self.input_gate(inputs) * share
        y = linear_scan(torch.exp(log_kept), gated, state.recurrent[..., 0, 0], plan)
        return self.output(y.to(x.dtype) * self.ops.activation(gate, self.spec.activation))


def build_gated_recurrence(
    build: BuildContext, spec: GatedRecurrence, prefix: str, *, layer: int
) -> Mixer:
    """Build the recurrent block. `layer` is the index of its state.

    `tgi.architectures.parameter_names` lists its parameters.
    """
    parameters, channels = build.parameters, spec.channels
    size = channels // spec.num_blocks

    def gate(part: str) -> BlockGate:
        return BlockGate(
            parameters.create(f"{prefix}.{part}.weight", spec.num_blocks, size, size),
            parameters.create(f"{prefix}.{part}.bias", spec.num_blocks, size),
        )

    rows = {"in_gate": channels, "in_x": channels}
    return GatedRecurrenceMixer(
        ops=build.ops,
        spec=spec,
        project=build_linear(build, prefix, rows, build.hidden_size, bias=True),
        conv_weight=parameters.create(f"{prefix}.conv_x.weight", channels, 1, spec.conv_kernel),
        conv_bias=parameters.create(f"{prefix}.conv_x.bias", channels),
        input_gate=gate("input_gate"),
        recurrent_gate=gate("recurrent_gate"),
        rate=parameters.create(f"{prefix}.rate", channels),
        output=build_linear(build, prefix, {"out": build.hidden_size}, channels, bias=True),
        layer=layer,
    )
