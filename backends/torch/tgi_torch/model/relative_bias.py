"""T5's position bias: a learned value per head and distance bucket (arXiv 1910.10683, section
2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tgi.architectures import RelativeBias

__all__ = ["RelativePositionBias", "distance_buckets"]


@final
@dataclass(frozen=True)
class RelativePositionBias:
    """The bias of any distance."""

    table: Tensor  # [num_buckets, H]
    # int64 [2 * max_distance + 1]: the bucket of each distance from -max_distance on; beyond,
    # nothing changes
    buckets: Tensor

    def __call__(self, distance: Tensor) -> Tensor:
        """Bias float32 [..., H, Q, L] of the distances int64 [..., Q, L], query position - key
        position.
        """
        reach = len(self.buckets) // 2
        bias = self.table[self.buckets[distance.clamp(-reach, reach) + reach]]
        return bias.float().movedim(-1, -3)


def distance_buckets(rule: RelativeBias) -> Tensor:
    """The bucket of each distance -max_distance … max_distance (query position - key position),
    int64.

    Near distances have a bucket each, farther ones share in logarithmic steps. In both directions,
    keys ahead have the upper half of the buckets; else they share the bucket of distance 0.
    """
    distance = torch.arange(-rule.max_distance, rule.max_distance + 1)
    count = rule.num_buckets // 2 if rule.bidirectional else rule.num_buckets
    offset = (
        torch.where(distance < 0, count, 0) if rule.bidirectional else torch.zeros_like(distance)
    )
    distance = distance.abs() if rule.bidirectional else distance.clamp(min=0)
    exact = count // 2
    # In float32, as the models were trained: an edge of a bucket may lie on either side.
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(rule.max_distance / exact)
    far = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
    return offset + torch.where(distance < exact, distance, far)
