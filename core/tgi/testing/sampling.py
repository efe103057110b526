"""The arithmetic of choosing a token, the yardstick of every sampler. It stands in `tgi.backend`,
where level 0 uses it too.
"""

from tgi.worker.sampling import (
    SampledToken,
    apply_penalties,
    apply_warpers,
    choose,
    green_tokens,
    log_softmax,
    sample_row,
    top_tokens,
    unpack_mask,
)

__all__ = [
    "SampledToken",
    "apply_penalties",
    "apply_warpers",
    "choose",
    "green_tokens",
    "log_softmax",
    "sample_row",
    "top_tokens",
    "unpack_mask",
]
