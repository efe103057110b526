"""Linear attention by the gated delta rule (arXiv 2412.06464).

Shapes: T tokens, H value heads, K and V the sizes of key and value heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import LinearAttention
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    StepContext,
    Transform,
    build_linear,
    build_norm,
)
from tgi_torch.model.recurrence import DeltaInputs
from tgi_torch.model.state_space import Convolution
from tgi_torch.ops import Ops

__all__ = ["LinearAttentionMixer", "build_linear_attention"]

_LENGTH_EPS = 1e-6


@final
@dataclass(frozen=True)
class LinearAttentionMixer:
    """Linear attention with one state matrix per head, which maps keys to values.

    Each token corrects the value that the state returns for the token's key.
    """

    ops: Ops
    spec: LinearAttention
    project: Linear  # rows: query heads, key heads, value heads, gate, beta, decay
    convolve: Convolution  # for queries, keys and values
    dt_bias: Tensor  # [H]
    a_log: Tensor  # [H]
    norm: Transform  # for each head's output, before the gate
    output: Linear
    layer: int  # index of the layer's state

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        spec = self.spec
        keys, values = (
            spec.num_key_heads * spec.key_head_dim,
            spec.num_value_heads * spec.value_head_dim,
        )
        sizes = [2 * keys + values, values, spec.num_value_heads, spec.num_value_heads]
        mixed, gate, beta, rate = torch.split(self.project(x), sizes, dim=-1)
        q, k, v = torch.split(self.convolve(mixed, context).float(), [keys, keys, values], dim=-1)
        decay = torch.exp(self.a_log.float()) * functional.softplus(
            rate.float() + self.dt_bias.float()
        )
        inputs = DeltaInputs(
            q=self._heads(q) * spec.key_head_dim**-0.5,
            k=self._heads(k),
            v=v.reshape(-1, spec.num_value_heads, spec.value_head_dim),
            log_kept=-decay,
            beta=torch.sigmoid(beta.float()),
        )
        y = self.ops.gated_delta_scan(
            inputs, context.kv_cache.states[self.layer].recurrent, context.state_plan
        )
        y = self.norm(y.to(x.dtype)).float() * functional.silu(gate.float()).view_as(y)
        return self.output(y.flatten(1).to(x.dtype))

    def _heads(self, side: Tensor) -> Tensor:
        """Scale queries or keys to L2 norm 1 and repeat them for the value heads. Returns [T, H,
        K].
        """
        heads = side.reshape(-1, self.spec.num_key_heads, self.spec.key_head_dim)
        heads = heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + _LENGTH_EPS)
        return heads.repeat_interleave(self.spec.num_value_heads // self.spec.num_key_heads, dim=1)


def build_linear_attention(
    build: BuildContext, spec: LinearAttention, prefix: str, *, layer: int
) -> Mixer:
    """Build linear attention. `layer` is the index of its state.

    `tgi.architectures.parameter_names` lists its parameters.
    """
    parameters, heads = build.parameters, spec.num_value_heads
    keys, values = spec.num_key_heads * spec.key_head_dim, heads * spec.value_head_dim
    rows = {"q": keys, "k": keys, "v": values, "gate": values, "beta": heads, "decay": heads}
    convolved = {f"{prefix}.conv_{part}.weight": rows[part] for part in "qkv"}
    return LinearAttentionMixer(
        ops=build.ops,
        spec=spec,
        project=build_linear(build, prefix, rows, build.hidden_size, bias=False),
        convolve=Convolution(
            build.ops, parameters.create_fused(convolved, after=(1, spec.conv_kernel)), None, layer
        ),
        dt_bias=parameters.create(f"{prefix}.dt_bias", heads),
        a_log=parameters.create(f"{prefix}.a_log", heads),
        norm=build_norm(build, spec.norm, f"{prefix}.gated_norm", spec.value_head_dim),
        output=build_linear(build, prefix, {"out": build.hidden_size}, values, bias=False),
        layer=layer,
    )
