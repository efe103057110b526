"""Residual blocks: mixers with their norms, whose output is added to the residual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from tgi.architectures import Block, Branch, Stack
from tgi.architectures.parameter_names import mixer_tag
from tgi_torch.model.layers import BuildContext, Mixer, StepContext, Transform, build_norm

__all__ = ["BuildMixer", "ResidualBlock", "ResidualBranch", "build_blocks"]

BuildMixer = Callable[[object, str], Mixer]
"""(mixer of the spec, prefix of its parameters) -> the mixer that computes it"""


@final
@dataclass(frozen=True)
class ResidualBranch:
    """Computes post_norm(mixer(norm(y)))."""

    norm: Transform
    mixer: Mixer
    post_norm: Transform

    def __call__(self, y: Tensor, context: StepContext) -> Tensor:
        return self.post_norm(self.mixer(self.norm(y), context))


@final
@dataclass(frozen=True)
class ResidualBlock:
    """One addition to the residual. All branches read the same input."""

    norm: Transform
    first: ResidualBranch
    others: tuple[ResidualBranch, ...]
    add: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, norm of x, output)
    output_norm: Transform

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        y = self.norm(x)
        out = self.first(y, context)
        for branch in self.others:
            out = out + branch(y, context)
        return self.output_norm(self.add(x, y, out))


def build_blocks(
    build: BuildContext, stack: Stack, build_mixer: BuildMixer
) -> Iterator[ResidualBlock]:
    """Build the blocks of all layers of a stack, in order."""
    for number, layer in enumerate(stack.layers):
        prefix = f"{stack.kind}.layers.{number}"
        for place, block in enumerate(layer.blocks):
            yield _build_block(build, block, prefix, f"{prefix}.block{place}", build_mixer)


def _build_block(
    build: BuildContext, block: Block, layer_prefix: str, prefix: str, build_mixer: BuildMixer
) -> ResidualBlock:
    def build_branch(branch: Branch) -> ResidualBranch:
        name = f"{layer_prefix}.{mixer_tag(branch.mixer)}"
        return ResidualBranch(
            norm=build_norm(build, branch.norm, f"{name}.norm", build.hidden_size),
            mixer=build_mixer(branch.mixer, name),
            post_norm=build_norm(build, branch.post_norm, f"{name}.post_norm", build.hidden_size),
        )

    first, *others = [build_branch(branch) for branch in block.branches]
    return ResidualBlock(
        norm=build_norm(build, block.norm, f"{prefix}.norm", build.hidden_size),
        first=first,
        others=tuple(others),
        add=partial(
            _add_to_normed if block.residual_from_norm else _add_to_input, block.residual_scale
        ),
        output_norm=build_norm(
            build, block.output_norm, f"{prefix}.output_norm", build.hidden_size
        ),
    )


def _add_to_input(scale: float, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    return torch.add(x, out, alpha=scale)


def _add_to_normed(scale: float, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    return torch.add(y, out, alpha=scale)
