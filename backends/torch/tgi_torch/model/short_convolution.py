"""Short convolutions with gates (lfm2).

Shapes: T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from tgi.architectures import ShortConvolution
from tgi_torch.model.layers import BuildContext, Linear, Mixer, StepContext, build_linear
from tgi_torch.ops import Ops

__all__ = ["ShortConvolutionMixer", "build_short_convolution"]


@final
@dataclass(frozen=True)
class ShortConvolutionMixer:
    """A causal convolution per channel, with a gate before it and a gate after it."""

    ops: Ops
    project: Linear  # rows: gate before, gate after, inputs; each has C rows
    weight: Tensor  # [C, 1, kernel]
    bias: Tensor | None
    output: Linear
    layer: int  # index of the layer's state

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        before, after, inputs = self.project(x).chunk(3, dim=-1)
        summed = self.ops.causal_convolution(
            before * inputs,
            self.weight.squeeze(1),
            self.bias,
            context.kv_cache.states[self.layer].window,
            context.state_plan,
        )
        return self.output(after * summed)


def build_short_convolution(
    build: BuildContext, spec: ShortConvolution, prefix: str, *, layer: int
) -> Mixer:
    """Build a short convolution. `layer` is the index of its state.

    `tgi.architectures.parameter_names` lists its parameters.
    """
    parameters, channels = build.parameters, spec.channels
    rows = dict.fromkeys(("in_gate", "gate", "in_x"), channels)
    return ShortConvolutionMixer(
        ops=build.ops,
        project=build_linear(build, prefix, rows, build.hidden_size, bias=spec.bias),
        weight=parameters.create(f"{prefix}.conv_x.weight", channels, 1, spec.conv_kernel),
        bias=parameters.create(f"{prefix}.conv_x.bias", channels) if spec.bias else None,
        output=build_linear(build, prefix, {"out": build.hidden_size}, channels, bias=spec.bias),
        layer=layer,
    )
