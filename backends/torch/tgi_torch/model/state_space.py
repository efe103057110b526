"""State-space mixers: Mamba (arXiv 2312.00752) and Mamba 2 (arXiv 2405.21060).

Shapes: T tokens, C inner size, H heads, P head size, G groups, N state size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import StateSpace
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    StepContext,
    Transform,
    build_linear,
    build_norm,
    identity,
)
from tgi_torch.model.recurrence import ScanInputs
from tgi_torch.ops import Ops

__all__ = ["Convolution", "Mamba2Mixer", "MambaMixer", "build_state_space"]


@final
@dataclass(frozen=True)
class Convolution:
    """A causal convolution per channel, followed by silu."""

    ops: Ops
    weight: Tensor  # [channels, 1, kernel]
    bias: Tensor | None
    layer: int  # index of the layer's state

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        window = context.kv_cache.states[self.layer].window
        return functional.silu(
            self.ops.causal_convolution(
                x, self.weight.squeeze(1), self.bias, window, context.state_plan
            )
        )


@final
@dataclass(frozen=True)
class MambaMixer:
    """Mamba, version 1.

    Each channel has a state of N values, and each value has its own decay. dt, B and C are computed
    from the convolved input.
    """

    ops: Ops
    spec: StateSpace
    project: Linear  # rows: inner vector, gate
    convolve: Convolution
    select: Linear  # rows: dt's low rank, B, C
    norms: tuple[Transform, Transform, Transform]  # for dt's low rank, B, C
    expand_dt: Linear
    a_log: Tensor  # [C, N]
    skip: Tensor  # [C]
    output: Linear
    layer: int

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        spec = self.spec
        inner, gate = torch.split(self.project(x), spec.inner_size, dim=-1)
        inner = self.convolve(inner, context)
        selected = torch.split(
            self.select(inner), [spec.dt_rank, spec.state_size, spec.state_size], dim=-1
        )
        dt, b, c = (norm(part) for norm, part in zip(self.norms, selected, strict=True))
        inputs = ScanInputs(
            x=inner.unsqueeze(-1).float(),
            dt=functional.softplus(self.expand_dt(dt).float()),
            b=b.unsqueeze(1).float(),
            c=c.unsqueeze(1).float(),
            decay=-torch.exp(self.a_log.float()),
        )
        y = self.ops.selective_scan(
            inputs, context.kv_cache.states[self.layer].recurrent, context.state_plan
        ).squeeze(-1)
        y = (y + inner.float() * self.skip.float()) * functional.silu(gate.float())
        return self.output(y.to(x.dtype))


@final
@dataclass(frozen=True)
class Mamba2Mixer:
    """Mamba, version 2. Each head has one decay, and a gated norm is applied before the output
    projection.

    dt, B and C are computed directly from the input.
    """

    ops: Ops
    spec: StateSpace
    project: Linear  # rows: inner vector, B, C, gate, dt
    convolve: Convolution  # for inner vector, B and C
    dt_bias: Tensor  # [H]
    a_log: Tensor  # [H]
    skip: Tensor  # [H]
    finish: Callable[[Tensor, Tensor], Tensor]  # maps (y, gate), both float32 [T, C], to [T, C]
    output: Linear
    layer: int

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        spec, rows = self.spec, self.spec.num_groups * self.spec.state_size
        mixed, gate, dt = torch.split(
            self.project(x), [spec.inner_size + 2 * rows, spec.inner_size, spec.num_heads], dim=-1
        )
        inner, b, c = torch.split(
            self.convolve(mixed, context), [spec.inner_size, rows, rows], dim=-1
        )
        dt = functional.softplus(dt.float() + self.dt_bias.float())
        inputs = ScanInputs(
            x=inner.reshape(-1, spec.num_heads, spec.head_dim).float(),
            dt=dt if spec.dt_limit is None else dt.clamp(*spec.dt_limit),
            b=b.reshape(-1, spec.num_groups, spec.state_size).float(),
            c=c.reshape(-1, spec.num_groups, spec.state_size).float(),
            decay=-torch.exp(self.a_log.float()).unsqueeze(1),
        )
        y = self.ops.selective_scan(
            inputs, context.kv_cache.states[self.layer].recurrent, context.state_plan
        )
        y = y + inputs.x * self.skip.float().unsqueeze(1)
        return self.output(self.finish(y.flatten(1), gate.float()).to(x.dtype))


def build_state_space(build: BuildContext, spec: StateSpace, prefix: str, *, layer: int) -> Mixer:
    """Build a Mamba mixer. `layer` is the index of its state.

    `tgi.architectures.parameter_names` lists its parameters.
    """
    return (_build_mamba if spec.version == 1 else _build_mamba2)(build, spec, prefix, layer)


def _build_mamba(build: BuildContext, spec: StateSpace, prefix: str, layer: int) -> Mixer:
    parameters, inner, state = build.parameters, spec.inner_size, spec.state_size
    norms = [
        build_norm(build, spec.inner_norms, f"{prefix}.{part}_norm", size)
        for part, size in {"dt": spec.dt_rank, "b": state, "c": state}.items()
    ]
    return MambaMixer(
        ops=build.ops,
        spec=spec,
        project=build_linear(
            build, prefix, {"in_x": inner, "in_gate": inner}, build.hidden_size, bias=spec.proj_bias
        ),
        convolve=_build_convolution(build, spec, prefix, {"conv_x": inner}, layer),
        select=build_linear(build, prefix, {"x_proj": spec.dt_rank + 2 * state}, inner, bias=False),
        norms=(norms[0], norms[1], norms[2]),
        expand_dt=build_linear(build, prefix, {"dt": inner}, spec.dt_rank, bias=True),
        a_log=parameters.create(f"{prefix}.a_log", inner, state),
        skip=parameters.create(f"{prefix}.skip", inner),
        output=build_linear(
            build, prefix, {"out": build.hidden_size}, inner, bias=spec.has_out_bias
        ),
        layer=layer,
    )


def _build_mamba2(build: BuildContext, spec: StateSpace, prefix: str, layer: int) -> Mixer:
    parameters, inner, rows = build.parameters, spec.inner_size, spec.num_groups * spec.state_size
    projected = {
        "in_x": inner,
        "in_b": rows,
        "in_c": rows,
        "in_gate": inner,
        "in_dt": spec.num_heads,
    }
    dt_bias, a_log, skip = (
        parameters.create(f"{prefix}.{part}", spec.num_heads)
        for part in ("dt_bias", "a_log", "skip")
    )
    return Mamba2Mixer(
        ops=build.ops,
        spec=spec,
        project=build_linear(build, prefix, projected, build.hidden_size, bias=spec.proj_bias),
        convolve=_build_convolution(
            build, spec, prefix, {"conv_x": inner, "conv_b": rows, "conv_c": rows}, layer
        ),
        dt_bias=dt_bias,
        a_log=a_log,
        skip=skip,
        finish=_build_finish(build, spec, prefix),
        output=build_linear(
            build, prefix, {"out": build.hidden_size}, inner, bias=spec.has_out_bias
        ),
        layer=layer,
    )


def _build_convolution(
    build: BuildContext, spec: StateSpace, prefix: str, channels: dict[str, int], layer: int
) -> Convolution:
    weights = {f"{prefix}.{part}.weight": rows for part, rows in channels.items()}
    biases = {f"{prefix}.{part}.bias": rows for part, rows in channels.items()}
    return Convolution(
        ops=build.ops,
        weight=build.parameters.create_fused(weights, after=(1, spec.conv_kernel)),
        bias=build.parameters.create_fused(biases) if spec.conv_bias else None,
        layer=layer,
    )


def _build_finish(
    build: BuildContext, spec: StateSpace, prefix: str
) -> Callable[[Tensor, Tensor], Tensor]:
    if spec.norm is None:
        return partial(_normalize_gated, identity)
    weight = build.parameters.create(f"{prefix}.gated_norm.weight", spec.inner_size)
    normalize = partial(_normalize_groups, weight, spec.norm.eps, spec.num_groups)
    return partial(_gate_normalized if spec.norm_before_gate else _normalize_gated, normalize)


def _normalize_gated(normalize: Transform, y: Tensor, gate: Tensor) -> Tensor:
    return normalize(y * functional.silu(gate))


def _gate_normalized(normalize: Transform, y: Tensor, gate: Tensor) -> Tensor:
    return normalize(y) * functional.silu(gate)


def _normalize_groups(weight: Tensor, eps: float, num_groups: int, y: Tensor) -> Tensor:
    """Apply the RMS norm to each group of channels separately. y is float32 [T, C]."""
    grouped = y.view(y.shape[0], num_groups, -1)
    normed: Tensor = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)
    return normed.flatten(1) * weight.float()
