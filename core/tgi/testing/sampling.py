"""The reference implementation of sampling, with which every sampler is compared.

The functions are defined in `tgi.worker.sampling`, which the adapter interface also uses.
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
