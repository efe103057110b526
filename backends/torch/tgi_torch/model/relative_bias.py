"""The relative position bias of T5: a learned value for each head and distance bucket.

See arXiv 1910.10683, section 2.1.
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
    """The bias as a function of the distance between query and key."""

    table: Tensor  # [num_buckets, H]
    # int64 [2 * max_distance + 1]: the bucket of each distance, beginning with -max_distance.
    # Greater distances have the bucket of the nearest distance in this tensor.
    buckets: Tensor

    def __call__(self, distance: Tensor) -> Tensor:
        """Look up the bias for distances int64 [..., Q, L] (query position - key position).

        Returns float32 [..., H, Q, L].
        """
        reach = len(self.buckets) // 2
        bias = self.table[self.buckets[distance.clamp(-reach, reach) + reach]]
        return bias.float().movedim(-1, -3)


def distance_buckets(rule: RelativeBias) -> Tensor:
    """The bucket of each distance from -max_distance to max_distance, int64.

    A distance is query position - key position. Each small distance has its own bucket. Larger
    distances share buckets, which have equal sizes on a logarithmic scale. If `rule` is
    bidirectional, keys after the query use the upper half of the buckets. Otherwise they use the
    bucket of distance 0.
    """
    distance = torch.arange(-rule.max_distance, rule.max_distance + 1)
    count = rule.num_buckets // 2 if rule.bidirectional else rule.num_buckets
    offset = (
        torch.where(distance < 0, count, 0) if rule.bidirectional else torch.zeros_like(distance)
    )
    distance = distance.abs() if rule.bidirectional else distance.clamp(min=0)
    exact = count // 2
    # The logarithm is computed in float32, as in training. With another precision, a distance at
    # the edge of a bucket could be in the next bucket.
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(rule.max_distance / exact)
    far = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
    return offset + torch.where(distance < exact, distance, far)
