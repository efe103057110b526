"""A mixture of experts that computes the experts one by one.

Shapes: T tokens, E experts, k experts per token, n the experts' inner size, h the hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from tgi.architectures import Activation, MixtureOfExperts, Router
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    StepContext,
    Transform,
    build_linear,
    identity,
)
from tgi_torch.model.mixers import MLPMixer, build_mlp

__all__ = ["MixtureOfExpertsMixer", "build_mixture_of_experts", "route"]


@final
@dataclass(frozen=True)
class Experts:
    """The stacked weights of all experts."""

    expand: Tensor  # [E, 2 n, h] gate over up, or [E, n, h]
    expand_bias: Tensor | None  # [E, 2 n] or [E, n]
    down: Tensor  # [E, h, n]
    down_bias: Tensor | None  # [E, h]
    kind: Activation
    activation: Callable[[Tensor, Activation], Tensor]
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def __call__(self, x: Tensor, expert: int) -> Tensor:
        """Compute the output [T', h] of one expert for x [T', h]."""
        expand_bias = None if self.expand_bias is None else self.expand_bias[expert]
        down_bias = None if self.down_bias is None else self.down_bias[expert]
        inner = self.activation(self.linear(x, self.expand[expert], expand_bias), self.kind)
        return self.linear(inner, self.down[expert], down_bias)


@final
@dataclass(frozen=True)
class MixtureOfExpertsMixer:
    """Runs each token through its chosen experts and adds their weighted outputs."""

    router: Linear
    choose: Callable[[Tensor], tuple[Tensor, Tensor]]
    experts: Experts
    # Maps (experts, inputs [T', h], expert, weights [T', 1]) to the weighted outputs [T', h].
    weighted: Callable[[Experts, Tensor, int, Tensor], Tensor]
    shared: Callable[[Tensor, StepContext], Tensor]
    scale: Transform

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        out = self.shared(x, context)
        weights, chosen = self.choose(self.router(x).float())
        for expert in sorted(set(chosen.flatten().tolist())):
            tokens, place = torch.where(chosen == expert)
            share = weights[tokens, place].unsqueeze(-1)
            outputs = self.weighted(self.experts, x[tokens], expert, share)
            out.index_add_(0, tokens, outputs.to(out.dtype))
        return self.scale(out)


def _weigh_outputs(experts: Experts, x: Tensor, expert: int, share: Tensor) -> Tensor:
    return experts(x, expert) * share


def _weigh_inputs(experts: Experts, x: Tensor, expert: int, share: Tensor) -> Tensor:
    return experts(x * share.to(x.dtype), expert)


def route(
    router: Router, experts_per_token: int, correction: Tensor | None, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose the experts of each token from router logits float32 [T, E].

    Returns weights float32 [T, k] and expert indices int64 [T, k].
    """
    if router.score == "sparse_mixer":
        return _sparse_mixer(router, experts_per_token, logits)
    score = partial(torch.softmax, dim=-1) if router.score == "softmax" else torch.sigmoid
    if router.top_k_first:
        values, chosen = logits.topk(experts_per_token, dim=-1)
        weights = score(values)
    else:
        scores = score(logits)
        preference = scores if correction is None else scores + correction.float()
        if router.num_groups > 1:
            preference = _keep_best_groups(router, preference)
        chosen = preference.topk(experts_per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
    if router.normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights * router.scale, chosen


def _sparse_mixer(router: Router, experts_per_token: int, logits: Tensor) -> tuple[Tensor, Tensor]:
    weights, chosen, left = [], [], logits
    for _ in range(experts_per_token):
        best, expert = left.max(dim=-1, keepdim=True)
        is_far = (best - logits) / logits.abs().clamp(min=best) > 2 * router.jitter
        weights.append(
            torch.softmax(left.masked_fill(is_far, float("-inf")), dim=-1).gather(-1, expert)
        )
        chosen.append(expert)
        left = left.scatter(-1, expert, float("-inf"))
    return torch.cat(weights, dim=-1) * router.scale, torch.cat(chosen, dim=-1)


def _keep_best_groups(router: Router, preference: Tensor) -> Tensor:
    grouped = preference.view(-1, router.num_groups, preference.shape[-1] // router.num_groups)
    group_scores = grouped.topk(router.group_top, dim=-1).values.sum(-1)
    best = group_scores.topk(router.groups_per_token, dim=-1).indices
    kept = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(-1, best, True)
    return grouped.masked_fill(~kept.unsqueeze(-1), float("-inf")).flatten(-2)


def build_mixture_of_experts(
    build: BuildContext, spec: MixtureOfExperts, prefix: str
) -> MixtureOfExpertsMixer:
    """Build a mixture of experts.

    The parameters are `<prefix>.router…`, `<prefix>.experts…` (stacked), `<prefix>.shared…` and
    `<prefix>.shared_gate.weight`.
    """
    parameters = build.parameters
    router = build_linear(
        build, prefix, {"router": spec.num_experts}, build.hidden_size, bias=spec.router.bias
    )
    correction = (
        parameters.create(f"{prefix}.router.correction", spec.num_experts)
        if spec.router.correction_bias
        else None
    )
    return MixtureOfExpertsMixer(
        router=router,
        choose=partial(route, spec.router, spec.experts_per_token, correction),
        experts=_build_experts(build, spec, f"{prefix}.experts"),
        weighted=_weigh_inputs if spec.scale_inputs else _weigh_outputs,
        shared=_build_shared(build, spec, prefix),
        scale=identity if spec.scale == 1.0 else partial(torch.mul, other=spec.scale),
    )


def _build_experts(build: BuildContext, spec: MixtureOfExperts, prefix: str) -> Experts:
    parameters, hidden, expert, count = (
        build.parameters,
        build.hidden_size,
        spec.expert,
        (spec.num_experts,),
    )
    names = ("gate", "up") if expert.gated else ("up",)
    weights = {f"{prefix}.{name}.weight": expert.intermediate_size for name in names}
    biases = {f"{prefix}.{name}.bias": expert.intermediate_size for name in names}
    return Experts(
        expand=parameters.create_fused(weights, before=count, after=(hidden,)),
        expand_bias=parameters.create_fused(biases, before=count) if expert.bias else None,
        down=parameters.create(f"{prefix}.down.weight", *count, hidden, expert.intermediate_size),
        down_bias=parameters.create(f"{prefix}.down.bias", *count, hidden) if expert.bias else None,
        kind=expert.activation,
        activation=build.ops.gated_activation if expert.gated else build.ops.activation,
        linear=build.ops.linear,
    )


def _build_shared(
    build: BuildContext, spec: MixtureOfExperts, prefix: str
) -> Callable[[Tensor, StepContext], Tensor]:
    if spec.shared is None:
        return _nothing_shared
    shared = build_mlp(build, spec.shared, f"{prefix}.shared")
    if not spec.shared_gate:
        return shared
    return partial(
        _gated,
        build_linear(build, prefix, {"shared_gate": 1}, build.hidden_size, bias=False),
        shared,
    )


def _nothing_shared(x: Tensor, context: StepContext) -> Tensor:
    return torch.zeros_like(x)


def _gated(gate: Linear, shared: MLPMixer, x: Tensor, context: StepContext) -> Tensor:
    return torch.sigmoid(gate(x)) * shared(x, context)
