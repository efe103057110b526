"""Scans over chunks of tokens compared with the same scans token by token, and their number of
operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.backends.paged_batch import metadata_of
from tgi_torch.model.recurrence import (
    DeltaInputs,
    ScanInputs,
    StatePlan,
    gated_delta_scan,
    linear_scan,
    plan_states,
    selective_scan,
)

HEADS, SIZE, STATE = 3, 4, 5
LENGTHS = (70, 1, 64, 2, 65, 200)
CHUNK = 64
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Scan:
    """A scan over T tokens whose operands are drawn at random."""

    run: Callable[[Any, Tensor, StatePlan], Tensor]
    draw: Callable[[int, float], Any]  # (T, factor of the logarithms of the decays)
    take: Callable[[Any, slice], Any]
    state_shape: tuple[int, ...]


def draw_delta(count: int, strength: float) -> DeltaInputs:
    k = torch.randn(count, HEADS, SIZE)
    return DeltaInputs(
        q=torch.randn(count, HEADS, SIZE),
        k=k / k.norm(dim=-1, keepdim=True),
        v=torch.randn(count, HEADS, STATE),
        log_kept=-strength * torch.rand(count, HEADS),
        beta=torch.rand(count, HEADS),
    )


def draw_selective(count: int, strength: float) -> ScanInputs:
    return ScanInputs(
        x=torch.randn(count, HEADS, 1),
        dt=torch.rand(count, HEADS),
        b=torch.randn(count, 1, STATE),
        c=torch.randn(count, 1, STATE),
        decay=-strength * torch.rand(HEADS, STATE),
    )


def draw_mamba2(count: int, strength: float) -> ScanInputs:
    return replace(draw_selective(count, strength), decay=-strength * torch.rand(HEADS, 1))


def draw_linear(count: int, strength: float) -> tuple[Tensor, Tensor]:
    return torch.exp(-strength * torch.rand(count, SIZE)), torch.randn(count, SIZE)


SCANS = {
    "gated delta rule": Scan(gated_delta_scan, draw_delta, DeltaInputs.take, (HEADS, SIZE, STATE)),
    "mamba": Scan(selective_scan, draw_selective, ScanInputs.take, (HEADS, 1, STATE)),
    "mamba 2": Scan(selective_scan, draw_mamba2, ScanInputs.take, (HEADS, 1, STATE)),
    "RG-LRU": Scan(
        lambda inputs, states, plan: linear_scan(*inputs, states, plan),
        draw_linear,
        lambda inputs, piece: (inputs[0][piece], inputs[1][piece]),
        (SIZE,),
    ),
}
each_scan = pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS.keys())


def plan_of(lengths: tuple[int, ...]) -> StatePlan:
    """The plan for rows that continue from the states 1, 2, …"""
    rows = [([0] * 20, 0, length) for length in lengths]
    metadata = metadata_of(rows, 16)
    object.__setattr__(metadata, "states", torch.arange(1, len(lengths) + 1))
    return plan_states(metadata)


@each_scan
@pytest.mark.parametrize("strength", [0.0, 0.1, 300.0])
def test_chunks_equal_single_tokens(scan: Scan, strength: float) -> None:
    torch.manual_seed(1)
    inputs = scan.draw(sum(LENGTHS), strength)
    states = torch.randn(len(LENGTHS) + 1, *scan.state_shape)
    expected, expected_states = [], states.clone()
    start = 0
    for number, length in enumerate(LENGTHS):
        own = expected_states[number + 1 : number + 2]
        for token in range(start, start + length):
            single = StatePlan(torch.tensor([0]), torch.tensor([0]), ())
            expected.append(scan.run(scan.take(inputs, slice(token, token + 1)), own, single))
        start += length

    actual = scan.run(inputs, states, plan_of(LENGTHS))

    torch.testing.assert_close(actual, torch.cat(expected), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(states, expected_states, atol=TOLERANCE, rtol=TOLERANCE)


class Counter(TorchDispatchMode):
    """Counts the operations of torch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def num_operations(scan: Scan, length: int) -> int:
    inputs, states = scan.draw(length, 0.1), torch.zeros(2, *scan.state_shape)
    plan = plan_of((length,))
    with Counter() as counter:
        scan.run(inputs, states, plan)
    return counter.count


@each_scan
def test_the_number_of_operations_depends_on_the_number_of_chunks(scan: Scan) -> None:
    chunk = num_operations(scan, CHUNK)
    assert num_operations(scan, CHUNK - 1) <= chunk
    assert num_operations(scan, 4 * CHUNK) <= 4 * chunk
    assert chunk < 3 * CHUNK  # token by token, there are more than three operations per token
